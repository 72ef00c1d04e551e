"""Frechet distance between Gaussians fitted to two sets of features.

d^2 = |mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr((cov_a cov_b)^(1/2)).

With any factors F F^T = cov, tr((cov_a cov_b)^(1/2)) is the sum of the singular values of F_a^T F_b, because their
squares are the eigenvalues of cov_a cov_b. The sum of singular values never takes the root of a rounding error, which
is what costs the usual computation (roots of eigenvalues of a product) its digits when the covariances are singular.

Source: Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982 for the closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldm.metrics.intervals import Spread, block_sizes, combine, jackknife_spread

Array = NDArray[np.float64]

BLOCKS: Final = 20
"""Blocks of each set that the jackknife leaves out one at a time."""

PARTS: Final = (1, 2, 3, 4)
"""Into how many disjoint parts both sets are cut for the line of the Frechet distance in 1 / n."""


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
        """Statistics of a mean and an unbiased covariance; the factor comes from the symmetric eigendecomposition.

        Shapes: mean (d,), covariance (d, d).
        """
        eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
        return Statistics(np.asarray(mean, dtype=np.float64), vectors * np.sqrt(np.maximum(eigenvalues, 0.0)), n)

    @staticmethod
    def from_features(features: ArrayLike) -> "Statistics":
        """Statistics of features (n, d); where n <= d the centred features are the factor, without any decomposition.

        Else it is Cholesky's, which takes an eighth of the time of an eigendecomposition; the latter where a covariance
        is singular.
        Raises: ValueError for fewer than two items.
        """
        data = np.asarray(features, dtype=np.float64)
        if data.ndim != 2 or len(data) < 2:
            raise ValueError(f"a covariance needs features of shape (n, d) with n >= 2, here it is {data.shape}")
        n, d = data.shape
        mean = data.mean(axis=0)
        centred = data - mean
        centred /= np.sqrt(n - 1)
        if n <= d:
            return Statistics(mean, centred.T, n)
        covariance = centred.T @ centred
        try:
            return Statistics(mean, np.linalg.cholesky(covariance), n)
        except np.linalg.LinAlgError:
            return Statistics.from_moments(mean, covariance, n)


def frechet_distance_of(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance of two Gaussians (the number called FID where the features are Inception's).

    It is no square of anything below 0, so rounding does not make it negative; that of a set to itself is 0.
    Raises: ValueError where the dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and {b.mean.size} dimensions cannot be compared")
    if np.array_equal(a.mean, b.mean) and np.array_equal(a.factor, b.factor):
        return 0.0
    shared = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    variance = np.vdot(a.factor, a.factor) + np.vdot(b.factor, b.factor)
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + variance - 2 * shared))


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Squared Frechet distance between features (n_a, d) and (n_b, d), in float64.

    Raises: ValueError for fewer than two items on a side, or different dimensions.
    """
    return frechet_distance_of(Statistics.from_features(features_a), Statistics.from_features(features_b))


def _without_blocks(features: Array, other: Statistics, blocks: Sequence[slice]) -> Array:
    """The distance to `other` with each block of `features` left out, (blocks,).

    In the coordinates Y = X F of the other's factor F, tr((cov cov_other)^(1/2)) is the sum of roots of the eigenvalues
    of Y^T Y / (n - 1), whose moments without a block are those of all less those of the block: one eigenvalue problem a
    block, of the smaller of n and the factor's columns. A root of a rounding error costs 1e-8 here, far below a spread.
    """
    mean = features.mean(axis=0)
    centred = features - mean
    y = centred @ other.factor
    squares = np.concatenate([np.square(centred[block]).sum(axis=1) for block in blocks])
    n, columns = y.shape
    gram = y.T @ y if n > columns else None
    other_variance = float(np.vdot(other.factor, other.factor))
    found = np.empty(len(blocks))
    for index, block in enumerate(blocks):
        left = n - (block.stop - block.start)
        shift = -centred[block].sum(axis=0) / left  # the mean of what is left, from the mean of all
        y_shift = shift @ other.factor
        if gram is None:
            kept = np.delete(y, np.s_[block], axis=0) - y_shift
            product = kept @ kept.T
        else:
            product = gram - y[block].T @ y[block] - left * np.outer(y_shift, y_shift)
        eigenvalues = np.linalg.eigvalsh(product / (left - 1))
        shared = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
        variance = (squares.sum() - squares[block].sum() - left * shift @ shift) / (left - 1)
        found[index] = np.sum((mean + shift - other.mean) ** 2) + variance + other_variance - 2 * shared
    return found


def _slices(sizes: NDArray[np.int64]) -> list[slice]:
    ends = np.cumsum(sizes)
    return [slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]


def frechet_with_spread(features_a: ArrayLike, features_b: ArrayLike, blocks: int = BLOCKS) -> tuple[float, Spread]:
    """The squared Frechet distance of two independent sets, and its delete-a-block jackknife's variance and bias.

    Blocks are consecutive rows, so the rows must stand in random order. Each set is varied alone and the variances add.
    Shapes: features_a (n, d), features_b (m, d). Raises: as `frechet_distance`.
    """
    sets = [np.asarray(x, dtype=np.float64) for x in (features_a, features_b)]
    statistics = [Statistics.from_features(x) for x in sets]
    value, spreads = frechet_distance_of(*statistics), []
    for own, other in ((0, 1), (1, 0)):
        sizes = block_sizes(len(sets[own]), min(blocks, len(sets[own]) // 2))
        spreads.append(jackknife_spread(value, _without_blocks(sets[own], statistics[other], _slices(sizes)), sizes))
    return value, combine(*spreads)


def frechet_infinity(features_a: ArrayLike, features_b: ArrayLike, whole: float | None = None) -> float:
    """The Frechet distance of infinitely many items: the end at 1 / n = 0 of a line through its values at fewer.

    Both sets are cut into 1, 2, 3 and 4 disjoint parts of consecutive rows (which must stand in random order), and the
    distances of parts are averaged; the line is that of least squares. The bias is linear in 1 / n only where even the
    smallest parts hold well more items than features. `whole`: the distance of all items, where it is known.

    Shapes: features_a (n, d), features_b (m, d).
    Source: Chong and Forsyth 2020, arXiv 1911.07023 (there the reference stays whole).
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (features_a, features_b))
    means = []
    for parts in PARTS:
        if parts == 1:
            means.append(frechet_distance(a, b) if whole is None else whole)
            continue
        pairs = zip(*(_slices(block_sizes(len(x), parts)) for x in (a, b)), strict=True)
        means.append(float(np.mean([frechet_distance(a[rows_a], b[rows_b]) for rows_a, rows_b in pairs])))
    # Parts of n / k items stand at 1 / n times k, so k itself may be the abscissa.
    return float(np.polyfit(PARTS, means, 1)[1])
