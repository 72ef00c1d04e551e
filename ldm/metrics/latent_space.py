"""What a latent space looks like before diffusion is trained on it: predictors of how well it can be modelled.

All take normalised latents (N, C, h, w) and compute in float64.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

from ldm.metrics.values import Metric
from ldm.records import PREDICTORS

EFFECTIVE_CHANNELS = Metric("latent_effective_channels", "effective share of channels", None, PREDICTORS)
ROUGHNESS = Metric("latent_roughness", "roughness of latents", None, PREDICTORS)
HIGH_FREQUENCY_SHARE = Metric("latent_high_frequency_share", "share of high frequencies", None, PREDICTORS)
SPECTRAL_ENERGY = Metric("latent_spectral_energy", "energy at high cosine frequencies", None, PREDICTORS)
SAME_CLASS_NEIGHBOURS = Metric("latent_same_class_neighbours", "neighbours of the same class", None, PREDICTORS)
DECODER_SENSITIVITY = Metric(
    "decoder_sensitivity_rmse255", "movement of the image when its latent is nudged", None, PREDICTORS, "grey levels"
)
SMALL_DENOISER_ERROR = Metric("small_denoiser_error", "error of a small denoiser", False, PREDICTORS)

HIGH_FREQUENCY = 0.25
"""Cycles a latent from which on a frequency is high: half of the largest along an axis."""

SMALLEST_SIDE = 4
"""Latent side below which there is nothing between low and high frequencies."""

SPECTRAL_CUT = 0.5
"""Share of the largest u + v of a cosine transform above which energy counts."""

NEIGHBOURS = 10
"""Nearest latents that are asked for their class."""

DISTANCES_AT_ONCE = 2**24


def channel_covariance(latents: Tensor) -> Tensor:
    """Covariance of the channels over images and positions: (N, C, h, w) to (C, C)."""
    rows = latents.double().transpose(0, 1).flatten(1)
    return torch.cov(rows).reshape(len(rows), len(rows))


def effective_channels(covariance: Tensor) -> float:
    """The participation ratio of the channels' principal variances over their number: 1 if all carry alike, 1/C if one.

    (sum of variances)^2 / (C sum of their squares). Shapes: covariance (C, C).
    """
    variances = torch.linalg.eigvalsh(covariance)
    return float(variances.sum() ** 2 / (len(variances) * variances.square().sum()))


def high_frequency_share(latents: Tensor) -> NDArray[np.float64]:
    """The share of each image's latent power, means apart, at frequencies whose length is `HIGH_FREQUENCY` or more.

    White latents have the share of the frequencies themselves; natural images have little.
    Shapes: latents (N, C, h, w); result (N,).
    Source: Skorokhodov et al. 2025 (arXiv 2502.14831), who look at the latents' spectrum by cosine transform.
    """
    side = latents.shape[2:]
    centred = latents.double() - latents.double().mean((2, 3), keepdim=True)
    power = torch.fft.fft2(centred).abs().square().sum(1)
    down, across = (torch.fft.fftfreq(length, dtype=torch.float64) for length in side)
    is_high = (down[:, None].square() + across[None].square()).sqrt() >= HIGH_FREQUENCY
    total = power.sum((1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    return (power[:, is_high].sum(1) / total).numpy()


def spectral_energy(latents: Tensor) -> float:
    """The share of all energy, means included, at cosine frequencies u + v above `SPECTRAL_CUT` of the largest.

    White latents have the share of the frequencies themselves. The source leaves the cut open; ours is `SPECTRAL_CUT`.
    Shapes: latents (N, C, h, w), more than one a side.
    Source: Zhong et al. 2026 (arXiv 2606.03578), equations 7 to 9 (SEC).
    """
    height, width = latents.shape[2:]
    energy = np.square(dctn(latents.double().numpy(), axes=(2, 3), norm="ortho")).sum((0, 1))
    is_high = np.add.outer(np.arange(height), np.arange(width)) > SPECTRAL_CUT * (height + width - 2)
    return float(energy[is_high].sum() / energy.sum())


def same_class_neighbours(latents: Tensor, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each latent's `NEIGHBOURS` nearest others, fewer where there are fewer, that are of its class.

    The source asks each position within a mask of the foreground, and leaves their number open; here whole latents are
    compared, since images have no masks.
    Shapes: latents (N, ...), labels (N,); result (N,). Raises: ValueError for fewer than two latents.
    Source: Zhong et al. 2026 (arXiv 2606.03578), "Semantic Separability" (LNC).
    """
    found = nearest_neighbours(latents, min(NEIGHBOURS, len(latents) - 1)).numpy()
    return (labels[found] == labels[:, None]).mean(1)


def roughness(latents: Tensor) -> NDArray[np.float64]:
    """Mean squared difference of neighbours over twice the variance of all latents; 1 if they are unrelated.

    One less the autocorrelation at distance one, so 0 where every image's latents are constant.
    Shapes: latents (N, C, h, w); result (N,).
    """
    z = latents.double()
    down, across = (z[:, :, 1:] - z[:, :, :-1]).square(), (z[..., 1:] - z[..., :-1]).square()
    squared = (down.flatten(1).sum(1) + across.flatten(1).sum(1)) / (down[0].numel() + across[0].numel())
    variance = (z - z.mean((0, 2, 3), keepdim=True)).square().mean()
    return (squared / (2 * variance)).numpy()


def nearest_neighbours(latents: Tensor, count: int = 1, at_once: int = DISTANCES_AT_ONCE) -> Tensor:
    """The indices of the nearest other latents by Euclidean distance, a chunk of the distances in memory at a time.

    Shapes: latents (N, ...); result (N, count), int64, the nearest first. Raises: ValueError for fewer than 2 latents.
    """
    rows = latents.flatten(1).double()
    if len(rows) < 2:
        raise ValueError("a nearest neighbour needs at least 2 latents")
    found = []
    for first in range(0, len(rows), max(1, at_once // len(rows))):
        part = rows[first : first + max(1, at_once // len(rows))]
        distances = torch.cdist(part, rows)
        own = torch.arange(len(part))
        distances[own, first + own] = torch.inf
        found.append(distances.topk(count, largest=False).indices)
    return torch.cat(found)
