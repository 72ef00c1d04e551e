"""The rate of latents with posteriors as a curve: the bits that they take at each width, and the error behind them.

Under a weak KL term the width of posteriors hardly leaves the one that training starts at, so its rate is one of many
that the same encoder and decoder can be used at. Here a posterior is N(mean, (w s)^2) with one noise scale s a channel,
the root mean square width of the posteriors of training images, for a range of widths w; at w = 1 it is as wide as
training left it. The rate at a width is `kl_fitted` to the Gaussian that fits there, of variance Var[mean] + (w s)^2
over training images. Beside it stand the means rounded to steps of sqrt(12) w s, whose error has the variance of the
noise, and what an entropy coder makes of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.entropy_coding import coded_size, dequantised, latent_model, matched_steps, quantised
from ldm.metrics.rate import KL_FITTED, LatentMoments, kl_fitted, moments_and_widths
from ldm.metrics.reconstruction import ImageErrors, mean_value, reconstruction_metrics, squared_errors, to_uint8
from ldm.metrics.values import MetricValue

NARROWEST = 0.5
"""The first width, finer than trained: what more bits would bring."""

STEPS = 9
"""Widths from the trained one to the widest, in equal ratios."""

WIDEST = 1.0
"""The last width, in standard deviations of the means in the channel where these are largest beside its noise."""

LEAST_SPREAD = 1e-6
"""Variance that the means of a channel have at least, beside that of its noise: one that is never used has none."""

MEASURED = ("bits_per_pixel", "rmse255", "psnr")
POINT = (
    *(f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")),
    *(f"coded_{name}" for name in MEASURED),
)
"""The numbers of a point."""


@dataclass(frozen=True)
class Posteriors:
    """A family of posteriors N(mean, (w noise)^2) of one first stage, by their width w, fitted on training images.

    `means`: moments of the posterior means; `noise`: the standard deviation at w = 1. Shapes: (C,), float64, CPU.
    """

    means: LatentMoments
    noise: Tensor

    @classmethod
    def fitted(cls, train: Iterable[tuple[Tensor, Tensor]]) -> "Posteriors":
        """The family of trained posteriors. Shapes: batches of mean and log-variance, each (N, C, h, w)."""
        moments, within = moments_and_widths(train)
        between = torch.maximum(moments.variance - within, LEAST_SPREAD * within)
        return cls(LatentMoments(moments.mean, between), within.sqrt())

    @property
    def widths(self) -> list[float]:
        """From half the trained width to noise as loud as the latents, so that hardly any rate is left."""
        loudest = float((self.means.variance.sqrt() / self.noise).max())
        return [NARROWEST, *np.geomspace(1, max(WIDEST * loudest, 2), STEPS).tolist()]

    def at(self, width: float) -> tuple[Tensor, LatentMoments]:
        """The standard deviation (C,) of the posteriors of a width, and the moments of their aggregate."""
        std = width * self.noise
        return std, LatentMoments(self.means.mean, self.means.variance + std.square())


@dataclass(frozen=True)
class Swept:
    """Of n images at W widths: bits per pixel and error of a draw, error of the rounded means, bits of them all.

    The last two are NaN where means lie further than the coder reaches; `coded_bits` is of one stream of these images.
    Shapes: (n, W), `coded_bits` (1, W). Units: errors in grey levels squared.
    """

    bits_per_pixel: NDArray[np.float64]
    mse: NDArray[np.float64]
    coded_mse: NDArray[np.float64]
    coded_bits: NDArray[np.float64]


def swept(
    posteriors: Posteriors, images: Tensor, mean: Tensor, noise: Tensor, decode: Callable[[Tensor], Tensor]
) -> Swept:
    """What n images take and lose at each width; the same noise is scaled to all.

    Shapes: images uint8 (n, 3, H, W) on the CPU, mean and noise (n, C, h, w); `decode` gives images in [-1, 1].
    """
    centre, pixels = posteriors.means.mean, images[0, 0].numel()

    def error(latent: Tensor) -> NDArray[np.float64]:
        return squared_errors(images, to_uint8(decode(latent.to(mean))))

    def coded(step: Tensor) -> tuple[NDArray[np.float64], float]:
        try:
            steps = quantised(mean.cpu(), centre, step)
        except ValueError:  # beyond the coder's reach
            return np.full(len(images), np.nan), np.nan
        model = latent_model(posteriors.means.variance.sqrt(), step, mean[0, 0].numel())
        return error(dequantised(steps, centre, step)), coded_size(steps, model).together

    columns = []
    for width in posteriors.widths:
        std, aggregate = posteriors.at(width)
        spread = std.to(mean).view(1, -1, 1, 1)
        rate = kl_fitted(mean, 2 * spread.log().expand_as(mean), aggregate, pixels)
        coded_mse, coded_bits = coded(matched_steps(std.square()))
        columns.append((rate, error(mean + spread * noise), coded_mse, np.array([coded_bits], dtype=np.float64)))
    return Swept(*(np.stack(found, axis=1) for found in zip(*columns, strict=True)))


def curve(widths: Sequence[float], parts: Sequence[Swept], pixels: int) -> list[dict[str, Any]]:
    """The points of the widths, finest first, means over the images of all parts with 95 % intervals, as facts.

    Units: `bits_per_pixel`, with `pixels` = H * W of an image, `rmse255` in grey levels, `psnr` in dB (None where all
    images are exact); of each `_low` and `_high`. `coded_...`: the same of rounded means, None where not coded.
    """
    rate, mse, coded_mse = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("bits_per_pixel", "mse", "coded_mse")
    )
    coded_rate = sum(part.coded_bits[0] for part in parts) / (len(rate) * pixels)
    points: list[dict[str, Any]] = []
    for at, width in enumerate(widths):
        drawn = {"bits_per_pixel": mean_value(KL_FITTED, rate[:, at]), **_errors(mse[:, at])}
        point: dict[str, Any] = {"width": width, "n": len(rate), **dict.fromkeys(POINT)}
        for name, found in drawn.items():
            point |= {name: found.value, f"{name}_low": found.ci_low, f"{name}_high": found.ci_high}
        if np.isfinite(coded_rate[at]):
            point["coded_bits_per_pixel"] = float(coded_rate[at])
            point |= {f"coded_{name}": found.value for name, found in _errors(coded_mse[:, at]).items()}
        points.append(point)
    return points


def _errors(mse: NDArray[np.float64]) -> dict[str, MetricValue]:
    """RMSE, and PSNR where not all images are exact."""
    values, _ = reconstruction_metrics(ImageErrors(mse, None))
    return {value.metric: value for value in values if value.metric in MEASURED}
