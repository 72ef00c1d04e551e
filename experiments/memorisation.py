"""What the stages that look for training images among samples share: spaces, protocols, small pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.scoring import batches_of
from ldm.data.contract import ImageCache
from ldm.metrics.memorisation import PIXEL_SIDE, pixel_numbers, small_pixels
from ldm.records import Protocol

PIXELS = "pixels"


def small_pixels_of(images: ImageCache, indices: Sequence[int]) -> NDArray[np.float32]:
    """The chosen images, small, one row each."""
    rows, filled = np.empty((len(indices), pixel_numbers(images.resolution)), np.float32), 0
    for batch in batches_of(images, indices):
        rows[filled : filled + len(batch)] = small_pixels(batch)
        filled += len(batch)
    return rows


def memorisation_protocols(measured: Protocol, training: str, n_training: int) -> dict[str, Protocol]:
    """By space, how distances to `n_training` training images with that fingerprint are measured.

    `measured` says it of the images themselves: how many, of what balance, by which judge.
    """
    common = {"kind": "memorisation", "reference": "train", "reference_hash": training, "n_reference": n_training}
    features = dataclasses.replace(measured, **common)  # type: ignore[arg-type]
    pixels = dataclasses.replace(
        features,
        extractor=PIXELS,
        extractor_size=min(PIXEL_SIDE, measured.resolution),
        extractor_weights="",
        extractor_precision="float32",
        resize="area average",
    )
    return {measured.extractor: features, PIXELS: pixels}
