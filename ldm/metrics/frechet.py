"""Frechet distance between Gaussians fitted to two sets of features.

d^2 = |mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr((cov_a cov_b)^(1/2)).

With any factors F F^T = cov, tr((cov_a cov_b)^(1/2)) is the sum of the singular values of F_a^T F_b, because their
squares are the eigenvalues of cov_a cov_b. The sum of singular values never takes the root of a rounding error, which
is what costs the usual computation (roots of eigenvalues of a product) its digits when the covariances are singular.

Source: Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982 for the closed form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and a factor (d, r) of the covariance, covariance = factor @ factor.T, of n items; all in float64."""

    mean: Array
    factor: Array
    n: int

    @property
    def covariance(self) -> Array:
        """Unbiased covariance, (d, d)."""
        return self.factor @ self.factor.T

    @staticmethod
    def from_moments(mean: ArrayLike, covariance: ArrayLike, n: int) -> "Statistics":
        """Statistics of a mean and an unbiased covariance; the factor comes from the symmetric eigendecomposition."""
        eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
        return Statistics(np.asarray(mean, dtype=np.float64), vectors * np.sqrt(np.maximum(eigenvalues, 0.0)), n)

    @staticmethod
    def from_features(features: ArrayLike) -> "Statistics":
        """Statistics of features (n, d); where n <= d the centred features are the factor, without any decomposition.

        Raises: ValueError for fewer than two items.
        """
        data = np.asarray(features, dtype=np.float64)
        if data.ndim != 2 or len(data) < 2:
            raise ValueError(f"a covariance needs features of shape (n, d) with n >= 2, here it is {data.shape}")
        n, d = data.shape
        mean = data.mean(axis=0)
        centred = (data - mean) / np.sqrt(n - 1)
        if n <= d:
            return Statistics(mean, centred.T, n)
        return Statistics.from_moments(mean, centred.T @ centred, n)


def frechet_distance_of(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance of two Gaussians (the number called FID where the features are Inception's).

    Raises: ValueError where the dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and {b.mean.size} dimensions cannot be compared")
    shared = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    variance = np.vdot(a.factor, a.factor) + np.vdot(b.factor, b.factor)
    return float(np.sum((a.mean - b.mean) ** 2) + variance - 2 * shared)


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Squared Frechet distance between features (n_a, d) and (n_b, d), in float64.

    Raises: ValueError for fewer than two items on a side, or different dimensions.
    """
    return frechet_distance_of(Statistics.from_features(features_a), Statistics.from_features(features_b))
