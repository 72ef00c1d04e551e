"""Extractors from local folders of transformers, DINOv2 and CLIP; nothing is downloaded.

Source: Stein et al. 2023, arXiv 2306.04675 (Frechet distances on DINOv2's class token and CLIP's image embedding).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.metrics.features import Features, collected, resized, type_name
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model
from ldm.pretrained.weights import content_hash, freeze

DINOV2_SIDE: Final = 224
"""At which Stein et al. measure; the configs of the released models name the side of their last training phase."""


@dataclass(frozen=True)
class Kind:
    """What sets a kind of network apart: its class in transformers, its input, and its embedding of pixels."""

    class_name: str
    example: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: Callable[[Any], int]
    embed: Callable[[Any, Tensor], Tensor]


def _clip_embedding(network: Any, pixels: Tensor) -> Tensor:
    projected: Tensor = network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output)
    return projected


KINDS: Final = {
    "dinov2": Kind(
        class_name="Dinov2Model",
        example="facebook/dinov2-large",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        size=lambda config: DINOV2_SIDE,
        embed=lambda network, pixels: network(pixel_values=pixels).pooler_output,
    ),
    "clip": Kind(
        class_name="CLIPModel",
        example="openai/clip-vit-large-patch14-336",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        size=lambda config: int(config.vision_config.image_size),
        embed=_clip_embedding,
    ),
}
"""DINOv2: the class token behind the last normalisation. CLIP: the projected embedding, not yet of unit length."""


class TransformerExtractor:
    """One embedding an image, resized to a square bicubic and antialiased in float32; no classes, no spatial map."""

    resize = "bicubic_antialias"

    def __init__(self, name: str, network: Any, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self.name, self.kind = name, KINDS[name]
        self.network, self.device, self.dtype = network.to(device), torch.device(device), dtype
        self.size = self.kind.size(network.config)
        self.weights_hash = content_hash(network.state_dict())

    @property
    def precision(self) -> str:
        """The type in which the network computes, e.g. "float32"."""
        return type_name(self.dtype)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (N, 3, H, W) of any size."""
        x = resized(images, self.size, "bicubic", self.device)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.kind.mean, self.kind.std))
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return collected(self.kind.embed(self.network, (x.clamp(0, 255) / 255 - mean) / std))


def read_network(name: str, folder: Path | None) -> Any:
    """The frozen network of a kind from a transformers folder with config.json and safetensors.

    Raises: UserError where no folder is given or it holds no such network.
    """
    kind = KINDS[name]
    ask = (
        f"give a folder of transformers with config.json and safetensors, e.g. of {kind.example}, as metrics.weights "
        f"(metrics.also.{name} beside another extractor)"
    )
    if folder is None:
        remedy = f"{ask}; metrics.extractor=efficientnet_lite2_colour needs none"
        raise UserError(f"the extractor {name} has no weights: {remedy}")
    try:
        return freeze(read_model(kind.class_name, folder).float())
    except UnreadableFolderError as error:
        raise UserError(f"{folder} holds no {kind.class_name} ({error}): {ask}") from error
