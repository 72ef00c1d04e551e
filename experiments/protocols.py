"""Protocols of values that several stages measure: how one follows from another."""

import dataclasses

from ldm.metrics.reconstruction import PerceptualDistance
from ldm.records import Protocol


def through_distance(plain: Protocol, distance: PerceptualDistance, marks: tuple[str, ...]) -> Protocol:
    """A comparison of image pairs through a perceptual distance, whose network sees them at their own size."""
    return dataclasses.replace(
        plain,
        extractor=distance.name,
        extractor_size=plain.resolution,
        extractor_weights=distance.weights_hash,
        extractor_precision="float32",
        marks=marks,
    )


def through_extractor(plain: Protocol, generation: Protocol) -> Protocol:
    """A comparison in the features of the extractor that generated images are measured with."""
    return dataclasses.replace(
        plain,
        resize=generation.resize,
        extractor=generation.extractor,
        extractor_size=generation.extractor_size,
        extractor_weights=generation.extractor_weights,
        extractor_precision=generation.extractor_precision,
        marks=generation.marks,
    )
