"""Samples against the very images behind their conditions, pixel by pixel and through networks that see both."""

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from experiments.conditions.scores import MeasuredSamples, Values, in_unit_range, named
from experiments.protocols import through_distance
from ldm.metrics.perceptual import LPIPS, NO_LPIPS, perceptual_distances
from ldm.metrics.reconstruction import PerceptualDistance
from ldm.records import LeftOut, Protocol

WEIGHTS: Mapping[str, str] = {"lpips_weights": "lpips"}
"""The weights that perceptual distances may be given."""


def distances_between(name: str, originals: Tensor, others: Tensor, distances: Sequence[PerceptualDistance]) -> Values:
    """Each distance of each pair, (N,), behind `name`. Shapes: uint8 (N, 3, H, W) twice."""
    pair = in_unit_range(originals), in_unit_range(others)
    return {f"{name}.distance.{one.name}": one(*pair).double().cpu().numpy() for one in distances}


def measured_distances(values: Values, name: str) -> Values:
    """The distances that `distances_between` gave under this name, by the name of the distance."""
    return named(values, f"{name}.distance.")


def pair_protocol(condition: str, samples: MeasuredSamples) -> Protocol:
    """How outputs are compared with the images behind their conditions where no network sees them."""
    split = samples.facts["asked"]["split"]
    plain = samples.protocol(condition, extractor="none", extractor_size=0, extractor_weights="", resize="none")
    return dataclasses.replace(
        plain,
        reference=f"the {split} images behind the conditions",
        extractor_precision="",
        class_balance=f"as in the {split} images",
    )


def distance_protocols(plain: Protocol, samples: MeasuredSamples) -> dict[str, Protocol]:
    """How outputs are compared through each perceptual distance, by its name."""
    distances = perceptual_distances(samples.settings.get("lpips_weights"))
    return {one.name: through_distance(plain, one, samples.generation.marks) for one in distances}


def without_lpips(condition: str, samples: MeasuredSamples) -> list[LeftOut]:
    """What is said where no weights of LPIPS were given."""
    is_there = LPIPS in measured_distances(samples.values, condition)
    return [] if is_there else [LeftOut(f"{condition}_{LPIPS}", NO_LPIPS)]
