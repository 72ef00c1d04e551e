"""The rate of a first stage in bits per pixel of the image, each kind under its own name.

`kl_prior`           KL divergence of the posterior to N(0, I): what bits-back coding spends under the prior of the loss
`kl_fitted`          the same to a Gaussian fitted per channel on training latents: the best factorised Gaussian
`index_log2`         codebook indices at log2(codebook size) bits each
`index_crossentropy` held-out indices under the smoothed histogram of the training indices

The KL rates belong to a sample of the posterior, so they pair with the distortion of the sample and not of the mean.
`pixel_rates`, `index_rates`, `posterior_rates` and `no_rates` are the rows of a first stage with such latents.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldm.metrics.codebook import code_counts, codebook_usage, perplexity
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.reference_codecs import lossless_sizes
from ldm.metrics.values import Measured, Metric, MetricValue
from ldm.records import RATE, LeftOut

KL_PRIOR = Metric("rate_kl_prior", "KL to N(0, I)", False, RATE, "bits/px")
KL_FITTED = Metric("rate_kl_fitted", "KL to a Gaussian fitted per channel", False, RATE, "bits/px", headline_from=0)
INDEX_LOG2 = Metric("rate_index_log2", "log2 of the codebook size", False, RATE, "bits/px")
INDEX_CROSSENTROPY = Metric(
    "rate_index_crossentropy", "indices under the training histogram", False, RATE, "bits/px", headline_from=0
)
RAW = Metric("rate_raw", "24 bits per pixel", False, RATE, "bits/px")
LOSSLESS = Metric("rate_lossless", "as PNG", False, RATE, "bits/px", headline_from=0)
"""Rates of first stages. Of each two the one with `headline_from` is drawn, the other is the cruder bound."""

RAW_BITS_PER_PIXEL = 24.0
"""Rate of the identity: three channels of 8 bits."""

SMOOTHING = 0.5
"""Count added to every code of the training histogram (Krichevsky and Trofimov 1981)."""


@dataclass(frozen=True)
class LatentMoments:
    """Mean and variance of a channel of the aggregate posterior over training images and positions, (C,) in float64."""

    mean: Tensor
    variance: Tensor


def aggregate_moments(posteriors: Iterable[tuple[Tensor, Tensor]]) -> LatentMoments:
    """Moments of the aggregate posterior from batches of mean and log-variance, each (N, C, h, w).

    The variance is E[var] + Var[mean]. Raises: ValueError where there is no batch.
    """
    count, total, variance_sum = 0, torch.zeros(0), torch.zeros(0)
    deviation = torch.zeros(0)
    for mean, logvar in posteriors:
        values = mean.double().transpose(0, 1).flatten(1)
        batch_count, batch_mean = values.shape[1], values.mean(dim=1)
        batch_deviation = (values - batch_mean[:, None]).square().sum(dim=1)
        batch_variance = logvar.double().exp().sum(dim=(0, 2, 3))
        if count == 0:
            count, total, deviation, variance_sum = batch_count, batch_mean, batch_deviation, batch_variance
            continue
        # Merging by differences of means (Chan et al. 1979): sums of squares would cancel where |mean| >> std.
        shift = batch_mean - total
        merged = count + batch_count
        deviation = deviation + batch_deviation + shift.square() * (count * batch_count / merged)
        total = total + shift * (batch_count / merged)
        variance_sum = variance_sum + batch_variance
        count = merged
    if count == 0:
        raise ValueError("moments need at least one batch of latents")
    return LatentMoments(total, (deviation + variance_sum) / count)


def moments_and_widths(posteriors: Iterable[tuple[Tensor, Tensor]]) -> tuple[LatentMoments, Tensor]:
    """Moments of the aggregate posterior as `aggregate_moments`, and the mean variance within posteriors, (C,) float64.

    Both on the CPU. Shapes: batches of mean and log-variance, each (N, C, h, w).
    """
    within: list[Tensor] = []

    def passed_on() -> Iterator[tuple[Tensor, Tensor]]:
        for mean, logvar in posteriors:
            within.append(logvar.double().exp().mean((2, 3)).cpu())
            yield mean, logvar

    moments = aggregate_moments(passed_on())
    return LatentMoments(moments.mean.cpu(), moments.variance.cpu()), torch.cat(within).mean(0)


def _bits_per_pixel(nats: Tensor, pixels: int) -> NDArray[np.float64]:
    return (nats.flatten(1).sum(dim=1) / (math.log(2) * pixels)).cpu().numpy()


def kl_fitted(mean: Tensor, logvar: Tensor, moments: LatentMoments, pixels: int) -> NDArray[np.float64]:
    """KL(N(mean, exp(logvar)) || N(moments.mean, moments.variance)) of each image.

    Shapes: mean, logvar (N, C, h, w) -> (N,). Units: bits per pixel, `pixels` = H * W of the image. Float64.
    """
    mu, log_var = mean.double(), logvar.double()
    prior_mean = moments.mean.to(mu).view(1, -1, 1, 1)
    prior_var = moments.variance.to(mu).view(1, -1, 1, 1)
    spread = ((mu - prior_mean).square() + log_var.exp()) / prior_var
    return _bits_per_pixel(0.5 * (spread - 1 - log_var + prior_var.log()), pixels)


def kl_prior(mean: Tensor, logvar: Tensor, pixels: int) -> NDArray[np.float64]:
    """KL(N(mean, exp(logvar)) || N(0, I)) of each image: (N, C, h, w) -> (N,), bits per pixel, float64."""
    channels = mean.shape[1]
    standard = LatentMoments(torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64))
    return kl_fitted(mean, logvar, standard, pixels)


def index_log2(codes: int, tokens: int, pixels: int) -> float:
    """Bits per pixel of `tokens` indices an image into a codebook of `codes` entries."""
    return tokens * math.log2(codes) / pixels


def index_crossentropy(
    indices: ArrayLike, training_counts: ArrayLike, pixels: int, smoothing: float = SMOOTHING
) -> NDArray[np.float64]:
    """Bits per pixel of each held-out image's indices under the smoothed training histogram.

    p(code) = (count + smoothing) / (sum of counts + smoothing * codes), so a code never seen in training costs finite
    bits. Shapes: indices (N, ...), training_counts (codes,) -> (N,).
    """
    counts = np.asarray(training_counts, dtype=np.float64)
    bits = np.log2(counts.sum() + smoothing * counts.size) - np.log2(counts + smoothing)
    chosen = np.asarray(indices)
    return bits[chosen.reshape(len(chosen), -1)].sum(axis=1) / pixels


def code_histogram(batches: Iterable[Tensor], codes: int) -> Tensor:
    """How often each of `codes` codes occurs in batches of indices (any shape): (codes,), int64, on the CPU."""
    counts = torch.zeros(codes, dtype=torch.int64)
    for indices in batches:
        counts += code_counts(indices.cpu(), codes)
    return counts


def pixel_rates(images: NDArray[np.uint8]) -> Measured:
    """`rate_raw` and `rate_lossless` (PNG) of images that are their own latents, uint8 (N, H, W, 3)."""
    sizes = [point for point in lossless_sizes(images)[0] if point.codec == "png"]
    lossless = [MetricValue(LOSSLESS, point.bits_per_pixel, point.n) for point in sizes]
    return Measured([MetricValue(RAW, RAW_BITS_PER_PIXEL, len(images)), *lossless])


def index_rates(
    train: Iterable[Tensor], heldout: Iterable[Tensor], codes: int, pixels: int, train_images: int
) -> Measured:
    """`rate_index_log2` and `rate_index_crossentropy` of a codebook of `codes` entries; as facts, how it is used.

    Shapes: batches of indices (N, h, w). Units: bits per pixel, `pixels` = H * W of an image.
    """
    counts = code_histogram(train, codes)
    held = torch.cat([indices.cpu() for indices in heldout])
    return Measured(
        [
            MetricValue(INDEX_LOG2, index_log2(codes, held[0].numel(), pixels), len(held)),
            mean_value(INDEX_CROSSENTROPY, index_crossentropy(held.numpy(), counts.numpy(), pixels)),
        ],
        facts={
            "codes": codes,
            "codebook_usage": float(codebook_usage(counts)),
            "codebook_perplexity": float(perplexity(counts)),
            "rate_images": train_images,
        },
    )


def posterior_rates(
    train: Iterable[tuple[Tensor, Tensor]], heldout: Iterable[tuple[Tensor, Tensor]], pixels: int, train_images: int
) -> Measured:
    """`rate_kl_prior` and `rate_kl_fitted` of posteriors; as facts, the moments of the training latents.

    Shapes: batches of mean and log-variance, each (N, C, h, w). Units: bits per pixel, `pixels` = H * W of an image.
    """
    moments = aggregate_moments(train)
    posteriors = list(heldout)
    prior = np.concatenate([kl_prior(*posterior, pixels) for posterior in posteriors])
    fitted = np.concatenate([kl_fitted(*posterior, moments, pixels) for posterior in posteriors])
    return Measured(
        [mean_value(KL_PRIOR, prior), mean_value(KL_FITTED, fitted)],
        facts={
            "latent_mean": moments.mean.tolist(),
            "latent_variance": moments.variance.tolist(),
            "rate_images": train_images,
        },
    )


def no_rates() -> Measured:
    """What latents without spread or codes have: the reason why there is no rate."""
    reason = "Its latents are neither drawn nor quantised: at full precision they have no finite rate."
    return Measured(left_out=[LeftOut(rate.name, reason) for rate in (KL_PRIOR, KL_FITTED)])
