"""How far the velocity of flow matching is undetermined by where a path is: a predictor in closed form.

On the straight path x_t = t z + (1 - t) eps from noise to a latent z of covariance S, with eigenvalues l, a network
that knew everything would still miss the velocity z - eps by a variance of sum l / ((1 - t)^2 + t^2 l), over all t
pi / 2 times the sum of the square roots of l. The covariance is taken for a Kronecker product of one of the channels
and one of the positions, since a whole one has more numbers than there are images to find it from.

All takes normalised latents and computes in float64.
Source: Zhong et al. 2026 (arXiv 2606.03578), equations 3 to 6.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.metrics.values import Metric
from ldm.records import PREDICTORS

VELOCITY_VARIANCE = Metric("latent_velocity_variance", "irreducible variance of the velocity (VIV)", None, PREDICTORS)

MOST_POSITIONS = 1024
"""Positions of a latent up to which their covariance is found, in about a second a class."""

MOST_IMAGES, MOST_OF_A_CLASS = 50_000, 8192
"""Training images that are looked at, and of a class, whatever the latents."""

MOST_VALUES = 2**27
"""Of the latents of a class that are held together: 1 GiB in float64."""

OBSERVATIONS = 2
"""How many vectors are to stand behind each row of a covariance; with fewer its small roots are far too small."""

TOLERANCE = 1e-9
MOST_ROUNDS = 500


@dataclass(frozen=True)
class SeparableCovariance:
    """The covariance of latents (C, S) as a product: that of z[c, p] and z[d, q] is channels[c, d] positions[p, q].

    The channels have a mean variance of 1, as only the product is determined.
    Shapes: channels (C, C), positions (S, S), both float64.
    """

    channels: Tensor
    positions: Tensor

    @property
    def root_sum(self) -> float:
        """The sum of the square roots of all C S eigenvalues, which are the products of those of the factors."""
        return float(_roots(self.channels).sum() * _roots(self.positions).sum())


def images_needed(channels: int, positions: int) -> int:
    """How many images a class needs for its covariance.

    With the mean known, one exists and is unique from more than C / S + S / C images on (Drton, Kuriki and Hoff 2021,
    Annals of Statistics 49, 2721), which is never more than `OBSERVATIONS` asks for.
    """
    return 1 + math.ceil(OBSERVATIONS * max(channels / positions, positions / channels))


def separable_covariance(latents: Tensor) -> SeparableCovariance:
    """The maximum-likelihood Kronecker covariance by flip-flop: each factor from latents whitened by the other.

    It counts n - 1 images, since the mean is estimated too, so with one channel or one position it is the sample
    covariance. Directions without variance are left out of the whitening and stay without.
    Shapes: latents (N, C, S). Raises: ValueError for fewer than `images_needed`, or none that differ.
    Source: Dutilleul 1999, Journal of Statistical Computation and Simulation 64, 105.
    """
    n, channels, positions = latents.shape
    if n < images_needed(channels, positions):
        raise ValueError(f"a separable covariance of these latents needs {images_needed(channels, positions)} images")
    centred = latents.double() - latents.double().mean(0)
    # Both factors in the axes in which they are diagonal to begin with: what has no variance there never gets any.
    down, across = _support(_scatter(centred.mT)), _support(_scatter(centred))
    if not down.shape[1] or not across.shape[1]:
        raise ValueError("latents without variance have no covariance to factor")
    left, right = _flip_flop(down.T @ centred @ across)
    channel, position = down @ left @ down.T, across @ right @ across.T
    size = channel.diagonal().mean()
    return SeparableCovariance(channel / size, position * size)


def _flip_flop(centred: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of centred latents (N, A, B) that vary along every axis."""
    freedom, rows, columns = len(centred) - 1, *centred.shape[1:]
    left = torch.eye(rows, dtype=torch.float64)
    right = torch.zeros(columns, columns, dtype=torch.float64)
    for _ in range(MOST_ROUNDS):
        before, right = right, _scatter(_whitening(left) @ centred) / (freedom * rows)
        left = _scatter((centred @ _whitening(right).T).mT) / (freedom * columns)
        # Without this the size would wander between the two.
        size = left.diagonal().mean()
        left, right = left / size, right * size
        if (right - before).norm() <= TOLERANCE * right.norm():
            break
    return left, right


def _scatter(latents: Tensor) -> Tensor:
    """The sum of outer products of all rows. Shapes: latents (N, A, B); result (B, B)."""
    rows = latents.flatten(0, 1)
    return rows.T @ rows


def _whitening(covariance: Tensor) -> Tensor:
    return torch.linalg.inv(torch.linalg.cholesky(covariance))


def _support(scatter: Tensor) -> Tensor:
    """An orthonormal basis, in columns, of the directions in which there is any variance."""
    sizes, axes = torch.linalg.eigh(scatter)
    return axes[:, sizes > len(sizes) * torch.finfo(sizes.dtype).eps * sizes[-1].clamp(min=0)]


def _roots(covariance: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()


def velocity_variance(classes: Iterable[Tensor]) -> float:
    """The irreducible variance of the velocity over the number of values, t uniform, a mean over classes.

    Of Gaussians: pi / 2 for white latents of unit variance, less the more of the variance lies in few directions. The
    source gives the sum over all values, which grows with their number; a mean is comparable between latents of other
    shapes.
    Shapes: each class (N, C, h, w). Raises: ValueError where there is no class, or one is too small.
    """
    found = []
    for latents in classes:
        flat = latents.flatten(2)
        found.append(math.pi / 2 * separable_covariance(flat).root_sum / flat[0].numel())
    if not found:
        raise ValueError("the variance of the velocity needs at least one class")
    return math.fsum(found) / len(found)
