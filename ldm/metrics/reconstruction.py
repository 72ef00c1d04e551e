"""How far reconstructions are from their images: per image on uint8, then summed up with intervals.

`mse`     mean squared error over pixels and channels, grey levels squared
`rmse255` root of the mean of `mse` over images, grey levels (0 to 255)
`psnr`    mean over images of 10 log10(255^2 / mse); images that are reconstructed exactly have no finite value and are
          not counted in it (n says how many are)
`ssim`    mean over images, Gaussian window of 11 with sigma 1.5, mean over channels (Wang et al. 2004)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.finite import require_finite
from ldm.metrics.features import EXTRACTOR_TITLES
from ldm.metrics.intervals import mean_interval
from ldm.metrics.values import Metric, MetricValue, Variant, variant_left_out
from ldm.pretrained.efficientnet_lite import EfficientNetLite
from ldm.records import DETAIL, RECONSTRUCTION, LeftOut

MSE = Metric("mse", "mean squared error", False, DETAIL, "grey levels squared")
RMSE = Metric("rmse255", "RMSE on 0–255", False, RECONSTRUCTION, "grey levels")
PSNR = Metric("psnr", "PSNR", True, RECONSTRUCTION, "dB", headline_from=0)
SSIM = Metric("ssim", "SSIM", True, RECONSTRUCTION)
FEATURE_DISTANCE = Metric("feature_distance", "feature distance", False, RECONSTRUCTION)
LPIPS = Metric("lpips", "LPIPS", False, RECONSTRUCTION)
PERCEPTUAL: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        FEATURE_DISTANCE.seen_by("efficientnet_lite0", EXTRACTOR_TITLES["efficientnet_lite0"]),
        FEATURE_DISTANCE.seen_by("efficientnet_lite2", EXTRACTOR_TITLES["efficientnet_lite2"]),
        LPIPS.seen_by("alex", "AlexNet"),
        LPIPS.seen_by("vgg", "VGG"),
    )
}
"""The perceptual distances that this program has, by name."""


def perceptual_metric(name: str) -> Metric:
    """The perceptual distance of a name as a metric; one that is not ours goes by its name."""
    return PERCEPTUAL.get(name, Metric(name, name, False, RECONSTRUCTION))


DECODER = "the decoder of the first stage"

PEAK = 255.0
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


@dataclass(frozen=True)
class ImageErrors:
    """Errors of each image, (N,) in float64; `psnr` is infinite where exact, `ssim` None where images are too small."""

    mse: NDArray[np.float64]
    ssim: NDArray[np.float64] | None

    @property
    def psnr(self) -> NDArray[np.float64]:
        """Peak signal-to-noise ratio of each image in dB, (N,), infinite where the reconstruction is exact."""
        with np.errstate(divide="ignore"):
            return 10 * np.log10(PEAK**2 / self.mse)


def concatenate(parts: Sequence[ImageErrors]) -> ImageErrors:
    """The errors of all batches in their order, each (n,), joined to (N,)."""
    ssim = [part.ssim for part in parts if part.ssim is not None]
    return ImageErrors(
        np.concatenate([part.mse for part in parts]), np.concatenate(ssim) if len(ssim) == len(parts) else None
    )


def _gaussian_bands(side: int) -> Tensor:
    """(side - 10, side): row i averages positions i to i + 10 under the Gaussian window."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    window = torch.exp(-0.5 * (offsets / SSIM_SIGMA).square())
    bands = torch.zeros(side - SSIM_WINDOW + 1, side, dtype=torch.float64)
    for row, band in enumerate(bands):
        band[row : row + SSIM_WINDOW] = window / window.sum()
    return bands


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of images in grey levels, (N, C, H, W) -> (N,), in float64.

    Only positions whose window lies inside the image count, which is what scikit-image's crop of its border amounts to.
    Raises: ValueError where a side is shorter than the window of 11.
    """
    height, width = a.shape[2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} px, here they are {height} x {width}")
    # The separable window as a banded matrix a side: products of matrices are many times as fast in float64 as
    # convolutions channel by channel, for which torch has no fast path.
    rows, columns = (_gaussian_bands(side).to(a.device) for side in (height, width))

    def blur(x: Tensor) -> Tensor:
        return rows @ x @ columns.T

    x, y = a.double(), b.double()
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x.square(), blur(y * y) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def to_uint8(images: Tensor, network: str = DECODER) -> Tensor:
    """Float images in [-1, 1] as uint8 on the CPU, rounded to the nearest grey level; any shape (N, ...).

    Raises: NotFiniteError where `network`, which gave them, gave numbers that are none.
    """
    require_finite(images, network)
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu").byte()


def image_errors(image: Tensor, reconstruction: Tensor) -> ImageErrors:
    """Errors of a batch of reconstructions, both uint8 (N, C, H, W).

    Raises: ValueError where the tensors are not uint8 or differ in shape.
    """
    large_enough = min(image.shape[2:]) >= SSIM_WINDOW
    mse = squared_errors(image, reconstruction)
    return ImageErrors(mse, structural_similarity(image, reconstruction).cpu().numpy() if large_enough else None)


def squared_errors(image: Tensor, reconstruction: Tensor) -> NDArray[np.float64]:
    """The mean squared error of each image of a batch, both uint8 (N, C, H, W), as (N,) in grey levels squared.

    Raises: ValueError where the tensors are not uint8 or differ in shape.
    """
    if image.dtype != torch.uint8 or reconstruction.dtype != torch.uint8 or image.shape != reconstruction.shape:
        raise ValueError(
            f"errors compare uint8 images of one shape, here {image.dtype} {tuple(image.shape)} "
            f"and {reconstruction.dtype} {tuple(reconstruction.shape)}"
        )
    errors: NDArray[np.float64] = (image.double() - reconstruction.double()).square().mean((1, 2, 3)).cpu().numpy()
    return errors


class PerceptualDistance(Protocol):
    """A distance of image pairs, float (N, 3, H, W) in [-1, 1] -> (N,), under the name its rows carry."""

    @property
    def name(self) -> str: ...

    @property
    def weights_hash(self) -> str: ...

    def __call__(self, image: Tensor, reconstruction: Tensor) -> Tensor: ...


class FeatureDistance:
    """LPIPS without learned weights: squared distance of unit-length feature vectors, averaged over space and layers.

    The network must not be the one of the training loss, which the model has learnt to satisfy. Images enter at their
    own size. Source: Zhang et al. 2018, arXiv 1801.03924, equation 1 with w = 1, averaged over layers.
    """

    def __init__(self, network: EfficientNetLite) -> None:
        self.network = network
        self.name = f"feature_distance_{network.name}"
        self.weights_hash = network.weights_hash

    @torch.no_grad()
    def __call__(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """The distances of image pairs. Shapes: as in `PerceptualDistance`; float64."""
        maps = zip(*(self.network.taps(self.network.preprocess(x)) for x in (image, reconstruction)), strict=True)
        distances = [
            (F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(dim=1).mean(dim=(1, 2))
            for a, b in maps
        ]
        return torch.stack(distances).mean(dim=0)


def mean_value(metric: Metric, values: NDArray[np.float64]) -> MetricValue:
    """The mean of independent values (N,), with Student's 95 % interval where there are at least two."""
    if len(values) < 2:
        return MetricValue(metric, float(values.mean()), len(values))
    interval = mean_interval(values)
    return MetricValue(metric, interval.value, len(values), interval.low, interval.high)


def root_mean_square(mse: MetricValue, metric: Metric = RMSE) -> MetricValue:
    """`rmse255` from the mean squared error; the bounds are the roots of its bounds."""
    low = None if mse.ci_low is None else math.sqrt(max(mse.ci_low, 0.0))
    high = None if mse.ci_high is None else math.sqrt(mse.ci_high)
    return MetricValue(metric, math.sqrt(mse.value), mse.n, low, high)


def reconstruction_metrics(
    errors: ImageErrors,
    distances: Mapping[str, NDArray[np.float64]] | None = None,
    *variants: Variant,
) -> tuple[list[MetricValue], list[LeftOut]]:
    """Means over images with intervals, and what could not be given and why.

    `distances` are perceptual ones of each image, by name. `variants` say what was compared with the images where that
    is not their reconstructions (e.g. `SAMPLED_POSTERIOR`).
    Shapes: errors and each of distances (N,).
    """
    mse = mean_value(MSE, errors.mse)
    values, left_out = [mse, root_mean_square(mse)], []
    finite = errors.mse > 0
    if finite.any():
        values.append(mean_value(PSNR, errors.psnr[finite]))
    else:
        left_out.append(LeftOut("psnr", "Every reconstruction is exact, so its PSNR is infinite."))
    if errors.ssim is not None:
        values.append(mean_value(SSIM, errors.ssim))
    else:
        left_out.append(LeftOut("ssim", f"SSIM's window needs images of at least {SSIM_WINDOW} px."))
    values += [mean_value(perceptual_metric(name), found) for name, found in (distances or {}).items()]
    return [value.varied(*variants) for value in values], [variant_left_out(item, *variants) for item in left_out]
