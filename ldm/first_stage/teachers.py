"""Frozen networks whose features others are aligned with: latents of a first stage, hidden features of a denoiser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.metrics.vision_transformers import DINOV2_SIDE, KINDS
from ldm.parts import look_up
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model
from ldm.pretrained.weights import freeze

LITE_TAPS: Final = 4
LITE_STRIDE: Final = 16
"""EfficientNet-Lite0's fourth map, of 112 channels; images are enlarged until it has the latent's side."""


class Teacher(Protocol):
    """A frozen network that gives a map of features: (N, 3, H, W) in [-1, 1] to (N, width, h, w), h near `side`."""

    width: int

    def __call__(self, image: Tensor, side: int) -> Tensor: ...


class LiteTeacher(nn.Module):
    """The fourth map of EfficientNet-Lite0."""

    width = 112

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite.load("lite0")

    def forward(self, image: Tensor, side: int) -> Tensor:
        """The map of images that are enlarged by a whole factor where it would be smaller than `side`."""
        factor = max(1, LITE_STRIDE * side // image.shape[-1])
        if factor > 1:
            image = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
        x = self.network.preprocess(image).to(next(self.network.parameters()).dtype)
        return self.network.taps(x, LITE_TAPS)[-1]


class Dinov2Teacher(nn.Module):
    """The patch tokens of a DINOv2 at 224 px, behind its last normalisation."""

    def __init__(self, folder: Path, key: str) -> None:
        super().__init__()
        try:
            self.network: Any = freeze(read_model("Dinov2Model", folder).float())
        except UnreadableFolderError as error:
            raise UserError(
                f"{key}={folder} holds no Dinov2Model ({error}): give a folder of transformers with "
                "config.json and safetensors, e.g. of facebook/dinov2-base"
            ) from error
        self.width = int(self.network.config.hidden_size)

    def forward(self, image: Tensor, side: int) -> Tensor:
        """The tokens as a map, whatever `side`."""
        x = F.interpolate(
            (image + 1) / 2, (DINOV2_SIDE, DINOV2_SIDE), mode="bicubic", antialias=True, align_corners=False
        )
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (KINDS["dinov2"].mean, KINDS["dinov2"].std))
        x = ((x.clamp(0, 1) - mean) / std).to(next(self.network.parameters()).dtype)
        patches = DINOV2_SIDE // int(self.network.config.patch_size)
        tokens: Tensor = self.network(pixel_values=x).last_hidden_state[:, 1:]
        return tokens.transpose(1, 2).unflatten(2, (patches, patches))


TEACHERS: Final[Mapping[str, type[LiteTeacher] | type[Dinov2Teacher]]] = {
    "efficientnet_lite0": LiteTeacher,
    "dinov2": Dinov2Teacher,
}


def load_teacher(name: str, weights: Path | None, group: str) -> Teacher:
    """A frozen teacher; `group` is where it is set, such as "ae.alignment".

    Raises: UserError where its weights cannot be had.
    """
    kind = look_up(TEACHERS, name, f"{group}.teacher")
    if kind is LiteTeacher:
        if weights is not None:
            raise UserError(f"{group}.weights={weights}: {name} reads the weights of its package, so leave them out")
        return LiteTeacher()
    if weights is None:
        raise UserError(
            f"{group}.teacher={name} has no weights: give a folder of transformers as {group}.weights, or take "
            f"{group}.teacher=efficientnet_lite0, which needs none"
        )
    return Dinov2Teacher(weights, f"{group}.weights")


def place_teacher(teacher: Teacher, device: torch.device | str, dtype: torch.dtype) -> None:
    """Moves a teacher, which is not trained, to a device, where it computes in `dtype`."""
    if isinstance(teacher, nn.Module):
        teacher.to(device, dtype)


@torch.no_grad()
def features_at(teacher: Teacher, image: Tensor, side: int) -> Tensor:
    """The features of images as a map of that side. Shapes: image (N, 3, H, W); result (N, width, side, side)."""
    features = teacher(image, side).to(image.dtype)
    if features.shape[-1] == side:
        return features
    return F.interpolate(features, (side, side), mode="bilinear", antialias=True, align_corners=False)
