"""A generator without a network: a Gaussian with the mean and the full covariance of latents.

It is what diffusion models have to beat. Latents of d values in all are fitted in one of two ways, both exact:
- As the symmetric root of the covariance, d x d: where there are more images than values, and at most `MOST_ROOTED`
  of these.
- As the centred latents themselves, n x d: weighted by n independent normal numbers, their sum over sqrt(n - 1) has
  the sample covariance, and nothing of size d x d is ever held.
In the second case at most `MOST_IMAGES` images are looked at, fewer where these had more than `MOST_VALUES` values:
then the covariance is that of these images, of rank n - 1.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.randomness import SampleNoise

LEAST_IMAGES = 2
"""Without a second image there is no covariance."""

MOST_ROOTED = 1024
"""Values of a latent up to which the root of the covariance is taken, in about a second."""

ROOTING = 6
"""Matrices d x d that are held at a time while the root is taken, two of them inside the decomposition."""

MOST_IMAGES = 10_000
MOST_VALUES = 2**27
"""Of all latents that are held together: 1 GiB in float64."""


@dataclass(frozen=True)
class LatentGaussian:
    """The Gaussian of mean + xi factor, xi independent standard normal numbers; `images`: how many it was fitted to.

    Shapes: mean (C, h, w), factor (k, C h w), both float64.
    """

    mean: Tensor
    factor: Tensor
    images: int

    @property
    def covariance(self) -> Tensor:
        """Of the flattened latents. Shapes: result (C h w, C h w)."""
        return self.factor.T @ self.factor

    def draw(self, noise: SampleNoise) -> Tensor:
        """Latents in float32; each depends on its own stream of the noise alone. Shapes: result (N, C, h, w)."""
        xi = noise((len(self.factor),), torch.float64)
        return (self.mean + (xi @ self.factor).view(-1, *self.mean.shape)).float()


def images_fitted(images: int, values: int) -> int:
    """How many of so many images a Gaussian of latents with so many values is fitted to."""
    return images if _is_rooted(images, values) else min(images, MOST_IMAGES, max(LEAST_IMAGES, MOST_VALUES // values))


def fitted_bytes(images: int, values: int) -> int:
    """The most bytes that fitting so many images with so many values holds at a time."""
    return 8 * (ROOTING * values**2 if _is_rooted(images, values) else images_fitted(images, values) * values)


def fitted(latents: Iterable[Tensor], images: int) -> LatentGaussian:
    """The Gaussian of latents that come in batches, `images` of them in all, (n, C, h, w) each.

    Raises: ValueError for fewer than two images.
    """
    if images < LEAST_IMAGES:
        raise ValueError(f"a covariance needs at least {LEAST_IMAGES} images, here is {images}")
    batches = iter(latents)
    first = next(batches)
    every = itertools.chain([first], batches)
    return rooted(every) if _is_rooted(images, first[0].numel()) else centred(every, images)


def rooted(latents: Iterable[Tensor]) -> LatentGaussian:
    """Held as the symmetric root of its covariance, whose moments are accumulated batch by batch in float64.

    Source: Chan, Golub and LeVeque 1983, American Statistician 37, equation 2.1 (moments of two sets in one).
    """
    count, mean, scatter = 0, torch.zeros(1), torch.zeros(1)
    shape = torch.Size()
    for batch in latents:
        rows, shape = batch.flatten(1).double(), batch.shape[1:]
        total, own = count + len(rows), rows.mean(0)
        step, apart = own - mean, rows - own
        scatter = scatter + apart.T @ apart + torch.outer(step, step) * (count * len(rows) / total)
        mean = mean + step * (len(rows) / total)
        count = total
    variances, directions = torch.linalg.eigh(scatter / (count - 1))
    root = directions * variances.clamp(min=0).sqrt() @ directions.T
    return LatentGaussian(mean.view(shape), root, count)


def centred(latents: Iterable[Tensor], images: int) -> LatentGaussian:
    """Held as the latents themselves, less their mean, `images` of them, which are in memory once.

    Raises: ValueError where fewer come.
    """
    held, filled = torch.empty(0), 0
    for batch in latents:
        if not filled:
            held = torch.empty(images, *batch.shape[1:], dtype=torch.float64)
        held[filled : filled + len(batch)] = batch
        filled += len(batch)
    if filled != images:
        raise ValueError(f"{images} latents were to come, and {filled} came")
    mean = held.mean(0)
    return LatentGaussian(mean, held.sub_(mean).div_(math.sqrt(images - 1)).flatten(1), images)


def _is_rooted(images: int, values: int) -> bool:
    return values < images and values <= MOST_ROOTED
