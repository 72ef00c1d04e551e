"""How well holes are filled in, by how much of the image they cover, and whether known pixels stay what they are.

`inpaint_<distance>`                perceptual distance to the whole image itself, mean over images
`inpaint_fd_<extractor>`            Frechet distance between the filled-in images and the images themselves
the same with `_mask20_40`, ...     of the images whose holes cover that share, in per cent
`mean_fill_inpaint_<distance>`      the same where holes take the mean colour of what is known: what needs no model
`inpaint_known_rmse255`             root mean square error of the pixels outside of the holes, grey levels

Source: bands as in Suvorov et al. 2022, arXiv 2109.07161, and Rombach et al. 2022, table 7.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.distribution import FRECHET, metric_of
from ldm.metrics.features import Features
from ldm.metrics.frechet import frechet_distance
from ldm.metrics.intervals import block_jackknife
from ldm.metrics.reconstruction import MSE, mean_value, perceptual_metric, root_mean_square
from ldm.metrics.values import Metric, MetricValue, Variant, varied
from ldm.records import TASK, LeftOut

Array = NDArray[np.float64]

KNOWN_RMSE: Final = Metric(
    "inpaint_known_rmse255", "inpainting, RMSE of known pixels on 0–255", False, TASK, "grey levels", headline_from=0
)

BANDS: Final = ((0, 20), (20, 40), (40, 60), (60, 100))
"""Shares of the image that the hole covers, in per cent, the upper bound within."""

LEAST: Final = 2
"""Images below which the mean distance of a band is left out: one has no interval."""

JACKKNIFE_BLOCKS: Final = 50


def known_error(image: Tensor, filled: Tensor, mask: Tensor) -> Array:
    """Mean squared error of the known pixels of each image, grey levels squared, NaN where none is.

    Shapes: uint8 (N, 3, H, W) twice, mask (N, 1, H, W) with 1 = hole; result (N,).
    """
    known = (mask < 0.5).double()
    squares = (image.double() - filled.double()).square().mean(dim=1, keepdim=True)
    found: Array = ((squares * known).sum(dim=(1, 2, 3)) / known.sum(dim=(1, 2, 3))).cpu().numpy()
    return found


def covered_share(mask: Tensor) -> Array:
    """The share of each image that its hole covers, (N, 1, H, W) -> (N,)."""
    found: Array = (mask >= 0.5).double().mean(dim=(1, 2, 3)).cpu().numpy()
    return found


def mean_filled(image: Tensor, mask: Tensor) -> Tensor:
    """Images, uint8 (N, 3, H, W), whose holes take the mean colour of the pixels around; grey where there are none."""
    hole = mask >= 0.5
    known = (~hole).double()
    total = (image.double() * known).sum(dim=(2, 3), keepdim=True)
    count = known.sum(dim=(2, 3), keepdim=True)
    mean = torch.where(count > 0, total / count.clamp(min=1), 127.5)
    return torch.where(hole, mean.round().to(torch.uint8), image)


def known_metrics(mse: Array) -> MetricValue | LeftOut:
    """`inpaint_known_rmse255` of `known_error`. Shapes: mse (N,)."""
    known = mse[np.isfinite(mse)]
    if not len(known):
        return LeftOut(KNOWN_RMSE.name, "The masks cover every pixel.")
    return root_mean_square(mean_value(MSE, known), KNOWN_RMSE)


def distances_by_band(
    distances: Mapping[str, Array], shares: Array, *variants: Variant
) -> tuple[list[MetricValue], list[LeftOut]]:
    """The mean of every perceptual distance over all images and over those of each band.

    `variants` say what fills the holes where that is not a model (`MEAN_FILL`).
    Shapes: each of distances and shares (N,).
    """
    values, left_out = [], []
    for band, chosen in _bands(shares):
        for name, found in distances.items():
            metric = varied(inpainted(perceptual_metric(name), band), *variants)
            if (n := int(chosen.sum())) < LEAST:
                left_out.append(LeftOut(metric.name, f"It needs at least {LEAST} images, here there are {n}."))
            else:
                values.append(mean_value(metric, found[chosen]))
    return values, left_out


def frechet_by_band(
    filled: Features, originals: Features, shares: Array, extractor_name: str
) -> tuple[list[MetricValue], list[LeftOut]]:
    """The Frechet distance of filled-in images to the images themselves, over all and in each band, with intervals.

    Its bias grows as n falls, so that bands are compared across models, not with each other. The interval is that of
    the distance at this n: blocks of pairs are left out together.
    Shapes: filled and originals of N images, shares (N,).
    """
    values, left_out = [], []
    dimensions = filled.features.shape[1]
    pairs = np.concatenate([filled.features, originals.features], axis=1).astype(np.float64)
    order = np.random.default_rng(0).permutation(len(pairs))
    for band, chosen in _bands(shares):
        metric = inpainted(metric_of(FRECHET, extractor_name), band)
        own = pairs[order][chosen[order]]
        if len(own) < FRECHET.images:
            reason = f"It needs at least {FRECHET.images} images a side, here there are {len(own)}."
            left_out.append(LeftOut(metric.name, reason))
            continue
        interval = block_jackknife(
            [own],
            lambda rows: frechet_distance(rows[:, :dimensions], rows[:, dimensions:]),
            min(JACKKNIFE_BLOCKS, len(own)),
        )
        values.append(MetricValue(metric, interval.value, len(own), interval.low, interval.high))
    return values, left_out


def inpainted(metric: Metric, band: tuple[int, int] | None = None) -> Metric:
    """A distance between images as one of filled-in images to the images themselves, over all or those of a band."""
    if band is None:
        found = metric.within("inpaint_", "inpainting ", TASK)
    else:
        low, high = band
        found = metric.within("inpaint_", f"inpainting, holes of {low} to {high} %: ", TASK, f"_mask{low}_{high}")
    return dataclasses.replace(found, headline_from=None)


def _bands(shares: Array) -> list[tuple[tuple[int, int] | None, NDArray[np.bool_]]]:
    """All images, then those of each band."""
    per_cent = 100 * shares
    bands = [(band, (per_cent > band[0]) & (per_cent <= band[1])) for band in BANDS]
    return [(None, np.ones(len(shares), np.bool_)), *bands]
