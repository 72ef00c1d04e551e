"""What the latents of held-out images take when an entropy coder writes them, as named values.

Codebook indices are coded under the histogram of the training indices. Latents without a codebook are rounded to steps
and coded under a Gaussian a channel: in steps that match the posteriors' widths, and over a curve of steps as facts.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ldm.metrics.entropy_coding import (
    CODED_INDEX,
    CODED_LATENT,
    CodedSize,
    coded_size,
    dequantised,
    index_model,
    latent_model,
    matched_steps,
    quantised,
)
from ldm.metrics.rate import LatentMoments, code_histogram, moments_and_widths
from ldm.metrics.reconstruction import concatenate, image_errors, mean_value, reconstruction_metrics, to_uint8
from ldm.metrics.values import ALONE, CODED_LATENTS, Measured, Metric, MetricValue, varied
from ldm.records import LeftOut

STEPS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
"""Steps of the curve, in standard deviations of a channel's training latents."""


BYTES_A_SYMBOL = 36
"""While all images are coded: steps in batches and together (int64), symbols (int32), and two parameters (float64)."""


@dataclasses.dataclass(frozen=True)
class QuantisedPoint:
    """Latents coded in steps. Units: `step` in standard deviations (None: matched to the posteriors), bits/pixel."""

    step: float | None
    bits_per_pixel: float
    bits_per_pixel_alone: float
    rmse255: float
    psnr: float | None
    n: int


def _size_values(metric: Metric, size: CodedSize, pixels: int) -> list[MetricValue]:
    """All in one stream, whose mean is the check; and each by itself, with an interval over images."""
    n = len(size.alone)
    together = MetricValue(metric, size.together / (n * pixels), n)
    return [together, mean_value(varied(metric, ALONE), size.alone / pixels)]


def coded_indices(train: Iterable[Tensor], heldout: Iterable[Tensor], codes: int, pixels: int) -> Measured:
    """Rows `coded_index` and `coded_index_alone` of a codebook of `codes` entries.

    Shapes: batches of indices (N, h, w). Units: bits per pixel, `pixels` = H * W of an image.
    """
    counts = code_histogram(train, codes)
    size = coded_size(torch.cat([found.cpu() for found in heldout]), index_model(counts.numpy()))
    return Measured(_size_values(CODED_INDEX, size, pixels))


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images and the means of their latents: `passes()` starts a pass over batches of both.

    Shapes: images uint8 (N, 3, H, W) on the CPU, means (N, C, h, w). `decode` is the decoder, to images in [-1, 1].
    """

    passes: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    decode: Callable[[Tensor], Tensor]
    pixels: int


def coded_posteriors(train: Iterable[tuple[Tensor, Tensor]], heldout: HeldOut) -> Measured:
    """Rows `coded_latent`, `coded_latent_alone`, the distortion behind them, and a curve over steps as facts.

    Latents that are points have the curve alone: no width of theirs says how finely to round them.
    Shapes: `train` batches of mean and log-variance, each (N, C, h, w).
    """
    moments, within = moments_and_widths(train)
    spread = moments.variance.sqrt()
    matched: QuantisedPoint | None = None
    values: list[MetricValue] = []
    left_out = []
    has_widths = bool((within > 0).all())
    if has_widths:
        try:
            matched, values = _coded_in_steps(heldout, moments, matched_steps(within), None)
        except ValueError as error:
            left_out.append(LeftOut(CODED_LATENT.name, f"Steps as wide as the posteriors cannot be coded: {error}."))
    else:
        reason = "Its latents are points: no posterior's width says in which steps to round them."
        left_out.append(LeftOut(CODED_LATENT.name, reason))
    curve = [_coded_in_steps(heldout, moments, s * spread, s)[0] for s in STEPS]
    points = [*([matched] if matched else []), *curve]
    facts: dict[str, Any] = {"quantised": [dataclasses.asdict(point) for point in points]}
    if has_widths:
        facts["matched_steps"] = (matched_steps(within) / spread).tolist()
    return Measured(values, left_out, facts)


def _coded_in_steps(
    heldout: HeldOut, moments: LatentMoments, step: Tensor, share: float | None
) -> tuple[QuantisedPoint, list[MetricValue]]:
    """Latents (means of their posteriors) rounded to steps, coded, and decoded to images."""
    steps, errors = [], []
    for images, mean in heldout.passes():
        whole = quantised(mean.cpu(), moments.mean, step)
        latent = dequantised(whole, moments.mean, step).float().to(mean.device)
        errors.append(image_errors(images, to_uint8(heldout.decode(latent))))
        steps.append(whole)
    symbols = torch.cat(steps)
    size = coded_size(symbols, latent_model(moments.variance.sqrt(), step, symbols[0, 0].numel()))
    distortion, _ = reconstruction_metrics(concatenate(errors), None, CODED_LATENTS)
    named = {value.metric: value for value in distortion if value.metric in ("rmse255_coded", "psnr_coded")}
    values = [*_size_values(CODED_LATENT, size, heldout.pixels), *named.values()]
    psnr = named["psnr_coded"].value if "psnr_coded" in named else None
    point = QuantisedPoint(share, values[0].value, values[1].value, named["rmse255_coded"].value, psnr, len(symbols))
    return point, values
