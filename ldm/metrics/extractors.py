"""The extractors by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from ldm.metrics.features import (
    EfficientNetLite2ColourExtractor,
    EfficientNetLite2Extractor,
    EfficientNetLite2InnerExtractor,
    Extractor,
    InceptionExtractor,
    inception_file,
    inception_network,
)
from ldm.metrics.vision_transformers import TransformerExtractor, read_network
from ldm.parts import look_up
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.weights import content_hash, read_weights

EXTRACTION_SIDE: Final = 112
"""The side of the images that EfficientNet-Lite2 reads as an extractor."""

COLOUR_SIDE: Final = 64
"""The same beside colours: a smaller side punishes softness less (decision 0022)."""


@dataclass(frozen=True)
class ExtractorSource:
    """Where an extractor comes from.

    `load(weights, device, dtype)` gives it; `weights` is the path of its weights, None for where they are looked for.
    `find(weights)` is the file or folder that they are read from, and raises UserError where they cannot be had.
    `is_packaged` says that they come with a package, so that no path can be given.
    """

    title: str
    load: Callable[[Path | None, torch.device | str, torch.dtype], Extractor]
    find: Callable[[Path | None], Path]
    is_packaged: bool = False


def _efficientnet_lite2(kind: type[EfficientNetLite2Extractor], title: str, side: int) -> ExtractorSource:
    def load(weights: Path | None, device: torch.device | str, dtype: torch.dtype) -> Extractor:
        return kind(efficientnet_lite.load("lite2"), side, device, dtype)

    return ExtractorSource(title, load, lambda weights: efficientnet_lite.weights_file("lite2"), is_packaged=True)


def _inception(weights: Path | None, device: torch.device | str, dtype: torch.dtype) -> Extractor:
    state = read_weights(inception_file(weights))
    return InceptionExtractor(inception_network(state), content_hash(state), device, dtype)


def _transformer(kind: str, title: str) -> ExtractorSource:
    """An extractor from a folder of transformers, one of `ldm.metrics.vision_transformers.KINDS`."""

    def load(weights: Path | None, device: torch.device | str, dtype: torch.dtype) -> Extractor:
        return TransformerExtractor(kind, read_network(kind, weights), device, dtype)

    def find(weights: Path | None) -> Path:
        read_network(kind, weights)
        assert weights is not None  # or it would have been refused
        return weights

    return ExtractorSource(title, load, find)


EXTRACTORS: Final[Mapping[str, ExtractorSource]] = {
    "efficientnet_lite2": _efficientnet_lite2(EfficientNetLite2Extractor, "EfficientNet-Lite2", EXTRACTION_SIDE),
    "efficientnet_lite2_colour": _efficientnet_lite2(
        EfficientNetLite2ColourExtractor, "EfficientNet-Lite2 and colours", COLOUR_SIDE
    ),
    "efficientnet_lite2_inner": _efficientnet_lite2(
        EfficientNetLite2InnerExtractor, "EfficientNet-Lite2's inner maps and colours", COLOUR_SIDE
    ),
    "inception": ExtractorSource("Inception", _inception, inception_file),
    "dinov2": _transformer("dinov2", "DINOv2"),
    "clip": _transformer("clip", "CLIP"),
}


def load_extractor(
    name: str,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Extractor:
    """The extractor of a name; `weights_path` is Inception's weight file, or the folder of DINOv2 or CLIP.

    Raises: UserError for an unknown name or missing weights.
    """
    return look_up(EXTRACTORS, name, "metrics.extractor").load(weights_path, device, dtype)


def check_extractor(name: str, weights_path: Path | None) -> None:
    """Checks that there is such an extractor and that its weights are within reach.

    Raises: UserError where it is not so.
    """
    look_up(EXTRACTORS, name, "metrics.extractor").find(weights_path)
