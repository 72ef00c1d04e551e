"""Latents that are alike where a frozen network finds the images alike.

Source: Yao et al. 2025, VA-VAE, arXiv 2501.01423, section 3.2 (marginal cosine similarity, marginal distance matrix
similarity, adaptive weight).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.losses import adaptive_weight
from ldm.first_stage.shaping import LatentBatch, LatentShaping
from ldm.first_stage.teachers import TEACHERS, Teacher, features_at, load_teacher, place_teacher
from ldm.parts import option

MOST_POSITIONS: Final = 1024
"""Of a latent: all pairs of them are compared."""


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
        return load_teacher(self.teacher, self.weights, "ae.alignment")


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
        place_teacher(self.teacher, device, dtype)

    @property
    def teacher(self) -> Teacher:
        """The frozen network."""
        return self._teacher[0]

    def forward(self, latent: Tensor, image: Tensor) -> Tensor:
        """The misalignment of latents (N, C, h, w) with the features of their images (N, 3, H, W); shape ()."""
        features = features_at(self.teacher, image, latent.shape[-1]).to(latent.dtype)
        projected = F.linear(latent.movedim(1, -1), self.projection.weight).movedim(-1, 1)
        return misalignment(projected, features, self.options.cosine_margin, self.options.distance_margin)

    def weight(self, of_reconstruction: Tensor, of_term: Tensor) -> Tensor:
        """`loss_weight` times the ratio of the norms of two gradients at the encoder's last layer; shape ().

        Where it is no number it is 0. Source: arXiv 2501.01423, equation 6.
        """
        return self.options.loss_weight * adaptive_weight(of_reconstruction, of_term).value
