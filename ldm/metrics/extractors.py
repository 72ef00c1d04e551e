"""The extractors by name."""

from pathlib import Path
from typing import Final

import torch

from ldm.errors import UserError, nearest
from ldm.metrics.features import (
    EfficientNetLite2Extractor,
    Extractor,
    InceptionExtractor,
    inception_file,
    inception_network,
)
from ldm.metrics.vision_transformers import KINDS, TransformerExtractor, read_network
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.weights import content_hash, read_weights

EXTRACTORS: Final = ("efficientnet_lite2", "inception", *KINDS)


def load_extractor(
    name: str,
    weights_path: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    size: int = 112,
) -> Extractor:
    """The extractor of a name.

    `weights_path` is Inception's weight file, or the folder of DINOv2 or CLIP; `size` the input side of
    EfficientNet-Lite2, the others have their own. Raises: UserError for an unknown name or missing weights.
    """
    if name == "efficientnet_lite2":
        return EfficientNetLite2Extractor(efficientnet_lite.load("lite2"), size, device, dtype)
    if name == "inception":
        weights = read_weights(inception_file(weights_path))
        return InceptionExtractor(inception_network(weights), content_hash(weights), device, dtype)
    if name in KINDS:
        return TransformerExtractor(name, read_network(name, weights_path), device, dtype)
    raise _unknown(name)


def check_extractor(name: str, weights_path: Path | None) -> None:
    """Raises UserError where there is no such extractor, or its weights cannot be had."""
    if name == "efficientnet_lite2":
        efficientnet_lite.weights_file("lite2")
    elif name == "inception":
        inception_file(weights_path)
    elif name in KINDS:
        read_network(name, weights_path)
    else:
        raise _unknown(name)


def _unknown(name: str) -> UserError:
    return UserError(
        f"There is no extractor '{name}' for metrics.extractor{nearest(name, EXTRACTORS)}: "
        f"use {' or '.join(EXTRACTORS)}."
    )
