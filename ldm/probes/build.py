"""Builds the probe of a kind of conditioning."""

from collections.abc import Mapping
from typing import Any

import torch

from ldm.data.contract import ImageCache
from ldm.errors import UserError, nearest
from ldm.probes.class_label import ClassProbe
from ldm.probes.contract import Probe
from ldm.probes.layout import LayoutProbe
from ldm.probes.semantic import SemanticProbe
from ldm.probes.text import TextProbe
from ldm.randomness import derived_seed

PROBES: Mapping[str, type[ClassProbe | TextProbe | LayoutProbe | SemanticProbe]] = {
    "class": ClassProbe,
    "text": TextProbe,
    "layout": LayoutProbe,
    "semantic": SemanticProbe,
}
"""By kind of conditioning; super-resolution and inpainting are measured against the images themselves."""


def build_probe(
    kind: str, side: int, width: int, images: ImageCache, seed: int, options: Mapping[str, Any] | None = None
) -> Probe:
    """The probe of a kind with its initial weights, a function of the seed, to be trained on these images.

    `options` are arguments that only one kind has (layout: `most`, the boxes an image that a model is conditioned on).

    Raises: UserError for a kind without a probe, and where the images lack what it asks about.
    """
    if kind not in PROBES:
        raise UserError(f"there is no probe for conditioning={kind}{nearest(kind, PROBES)}: use {', '.join(PROBES)}")
    torch.manual_seed(derived_seed(seed, "probe", kind))
    probe = PROBES[kind](side, width, images, **(options or {}))
    probe.network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return probe
