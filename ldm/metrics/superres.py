"""How well super-resolution gives back the image behind its input, and whether it agrees with that input.

`superres_psnr`, `superres_ssim`, ...  the errors of `ldm.metrics.reconstruction` against the image itself
`bicubic_superres_psnr`, ...           the same of the input enlarged bicubically: what needs no model
`superres_consistency_psnr`            mean over images of the PSNR between the output, degraded again in the same way,
                                       and the input (as in Saharia et al. 2021, arXiv 2104.07636, "consistency")
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.reconstruction import ImageErrors, mean_value, reconstruction_metrics
from ldm.metrics.values import Metric, MetricValue, Variant, variant_left_out, varied
from ldm.records import TASK, LeftOut

Array = NDArray[np.float64]

PREFIX = "superres_"
CONSISTENCY = Metric("superres_consistency_psnr", "super-resolution consistency, PSNR", True, TASK, "dB")


def enlarged(low_resolution: Tensor, side: tuple[int, int]) -> Tensor:
    """Bicubic enlargement of images (N, 3, h, w) in [-1, 1], as uint8 (N, 3, *side)."""
    large = F.interpolate(low_resolution.float(), side, mode="bicubic", align_corners=False)
    return ((large + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def consistency_error(degraded_again: Tensor, low_resolution: Tensor) -> Array:
    """Mean squared error (N,), grey levels squared, between images (N, 3, h, w) in [-1, 1]."""
    difference = (degraded_again.double() - low_resolution.double()) * 127.5
    found: Array = difference.square().mean(dim=(1, 2, 3)).cpu().numpy()
    return found


def superres_metrics(
    errors: ImageErrors, distances: Mapping[str, Array], *variants: Variant
) -> tuple[list[MetricValue], list[LeftOut]]:
    """Errors against the images themselves; `distances` are perceptual ones of each image, by name.

    `variants` say what was enlarged without a model (`BICUBIC`). Shapes: errors and each of distances (N,).
    """
    values, left_out = reconstruction_metrics(errors, distances)
    return (
        [dataclasses.replace(value, of=varied(of_superres(value.of), *variants)) for value in values],
        [variant_left_out(LeftOut(PREFIX + item.metric, item.reason), *variants) for item in left_out],
    )


def of_superres(metric: Metric) -> Metric:
    """An error of reconstructions as one of enlarged images."""
    return metric.within(PREFIX, "super-resolution ", TASK)


def consistency(mse: Array) -> MetricValue | LeftOut:
    """The score of `consistency_error`; images that agree exactly have no finite value and are not counted.

    Shapes: mse (N,).
    """
    finite = mse > 0
    if not finite.any():
        return LeftOut(CONSISTENCY.name, "Every output agrees exactly with its input.")
    return mean_value(CONSISTENCY, ImageErrors(mse[finite], None).psnr)
