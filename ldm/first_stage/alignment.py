"""Latents that are alike where a frozen network finds the images alike.

Source: Yao et al. 2025, VA-VAE, arXiv 2501.01423, section 3.2 (marginal cosine similarity, marginal distance matrix
similarity, adaptive weight).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.losses import adaptive_weight
from ldm.first_stage.shaping import LatentBatch, LatentShaping
from ldm.metrics.vision_transformers import DINOV2_SIDE, KINDS
from ldm.parts import look_up, option
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model
from ldm.pretrained.weights import freeze

LITE_TAPS: Final = 4
LITE_STRIDE: Final = 16
"""EfficientNet-Lite0's fourth map, of 112 channels; images are enlarged until it has the latent's side."""

MOST_POSITIONS: Final = 1024
"""Of a latent: all pairs of them are compared."""


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

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            self.network: Any = freeze(read_model("Dinov2Model", folder).float())
        except UnreadableFolderError as error:
            raise UserError(
                f"ae.alignment.weights={folder} holds no Dinov2Model ({error}): give a folder of transformers with "
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


def _dinov2(weights: Path | None) -> Teacher:
    if weights is None:
        raise UserError(
            "ae.alignment.teacher=dinov2 has no weights: give a folder of transformers as ae.alignment.weights, or "
            "take ae.alignment.teacher=efficientnet_lite0, which needs none"
        )
    return Dinov2Teacher(weights)


def _lite0(weights: Path | None) -> Teacher:
    if weights is not None:
        raise UserError(
            f"ae.alignment.weights={weights}: efficientnet_lite0 reads the weights of its package, so leave them out"
        )
    return LiteTeacher()


TEACHERS: Final[Mapping[str, Callable[[Path | None], Teacher]]] = {"efficientnet_lite0": _lite0, "dinov2": _dinov2}
"""By name, from the path of the weights."""


@dataclass(frozen=True)
class Alignment(LatentShaping):
    """Latents are aligned with a teacher's features: its options."""

    name: ClassVar[str] = "alignment"
    group: ClassVar[str | None] = "alignment"

    teacher: str | None = option(None, choices=TEACHERS, help="frozen network whose features latents are aligned with")
    weights: Path | None = option(None, help="its weights: a folder of transformers for dinov2")
    loss_weight: float = option(0.1, above=0, help="times the ratio of gradient norms at the encoder's last layer")
    cosine_margin: float = option(0.5, low=-1, high=1, help="cosine to the features from which on nothing is asked")
    distance_margin: float = option(0.25, low=0, high=2, help="by how much cosines between positions may differ")

    @property
    def value(self) -> str | None:
        """The teacher."""
        return self.teacher

    def check(self, latents: LatentBatch) -> None:
        """Raises: UserError where there are too many pairs of positions."""
        if latents.side**2 > MOST_POSITIONS:
            raise UserError(
                f"ae.alignment compares all pairs of positions of a latent, {MOST_POSITIONS} positions at most, and "
                f"these have {latents.side} x {latents.side}: choose a larger ae.f or smaller images"
            )

    def load_teacher(self) -> Teacher:
        """The frozen teacher. Raises: UserError where its weights cannot be had."""
        assert self.teacher is not None
        return look_up(TEACHERS, self.teacher, "ae.alignment.teacher")(self.weights)


def misalignment(latent: Tensor, features: Tensor, cosine_margin: float, distance_margin: float) -> Tensor:
    """mean relu(m1 - cos(z_i, f_i)) + mean relu(|cos(z_i, z_j) - cos(f_i, f_j)| - m2) over positions i, j of an image.

    Shapes: latent and features (N, d, h, w); result ().
    Source: arXiv 2501.01423, equations 3 and 4.
    """
    z, f = (F.normalize(x.flatten(2), dim=1) for x in (latent, features))
    to_features = F.relu(cosine_margin - (z * f).sum(dim=1)).mean()
    between = z.transpose(1, 2) @ z - f.transpose(1, 2) @ f
    return to_features + F.relu(between.abs() - distance_margin).mean()


class AlignmentTerm(nn.Module):
    """The term of the loss: a projection of latents that is trained, and a teacher that is not and is in no state."""

    def __init__(self, options: Alignment, channels: int, teacher: Teacher) -> None:
        super().__init__()
        self.options = options
        self.projection = nn.Linear(channels, teacher.width, bias=False)
        self._teacher = [teacher]  # in a list it is no module of this one

    def place(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Moves both to a device; the teacher, which is not trained, computes in `dtype`."""
        self.to(device)
        for teacher in self._teacher:
            if isinstance(teacher, nn.Module):
                teacher.to(device, dtype)

    def forward(self, latent: Tensor, image: Tensor) -> Tensor:
        """The misalignment of latents (N, C, h, w) with the features of their images (N, 3, H, W); shape ()."""
        side = latent.shape[-1]
        with torch.no_grad():
            features = self._teacher[0](image, side).to(latent.dtype)
            if features.shape[-1] != side:
                features = F.interpolate(features, (side, side), mode="bilinear", antialias=True, align_corners=False)
        projected = F.linear(latent.movedim(1, -1), self.projection.weight).movedim(-1, 1)
        return misalignment(projected, features, self.options.cosine_margin, self.options.distance_margin)

    def weight(self, of_reconstruction: Tensor, of_term: Tensor) -> Tensor:
        """`loss_weight` times the ratio of the norms of two gradients at the encoder's last layer; shape ().

        Where it is no number it is 0. Source: arXiv 2501.01423, equation 6.
        """
        return self.options.loss_weight * adaptive_weight(of_reconstruction, of_term).value
