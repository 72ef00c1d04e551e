"""Latents that turn and shrink as their images do: a decoder of turned or smaller latents gives such images.

Source: Kouzelis et al. 2025, EQ-VAE, arXiv 2502.09509, equation 6 and section 3.3.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.shaping import LatentBatch, View, ViewShaping
from ldm.parts import option

SMALLEST_SCALE: Final = 0.25
"""Of a side, the paper's."""


@dataclass(frozen=True)
class Equivariance(ViewShaping):
    """In a share of the training steps the latents tau(z) are decoded, and compared with tau(x) under the whole loss.

    tau is a rotation by 90, 180 or 270 degrees, a scaling to a smaller whole side of the latent, or both. It is one for
    all images of a step, since a batch has one side.
    """

    name: ClassVar[str] = "equivariance"
    group: ClassVar[str | None] = "equivariance"

    rotation: bool = option(False, help="whether latents are turned by 90, 180 or 270 degrees")
    scaling: bool = option(False, help="whether latents are scaled to a smaller side, down to a quarter")
    probability: float = option(0.5, above=0, high=1, help="share of the training steps in which they are")

    @property
    def value(self) -> str | None:
        """Which of both is done, and how often where it is not as usual."""
        done = "+".join(name for name in ("rotation", "scaling") if getattr(self, name))
        return (done if self.probability == 0.5 else f"{done} p={self.probability:g}") if done else None

    @property
    def weight(self) -> None:
        """The view stands in place of the latents."""

    def sides(self, latents: LatentBatch) -> range:
        """The sides that latents are scaled to; a single latent pixel cannot be turned."""
        least = max(latents.smallest, 2 if self.rotation else 1)
        return range(max(least, math.ceil(SMALLEST_SCALE * latents.side)), latents.side)

    def check(self, latents: LatentBatch) -> None:
        """Raises: UserError where latents have no side to be scaled to, or none to be turned."""
        if latents.side == 1 and self.rotation:
            raise UserError(
                "ae.equivariance.rotation turns latents, and these have a side of 1: choose a smaller ae.f or larger "
                "images"
            )
        if self.scaling and not self.sides(latents):
            raise UserError(
                f"ae.equivariance.scaling scales latents to a smaller side, and these have a side of {latents.side}"
                f"{latents.limit}: choose a smaller ae.f or larger images"
            )

    def view(self, latents: LatentBatch, draw: torch.Generator) -> View:
        """tau, or the identity where the step is none of the share."""
        is_done = bool(torch.rand((), generator=draw) < self.probability)
        turns = int(torch.randint(1, 4, (), generator=draw)) if is_done and self.rotation else 0
        side, sides = latents.side, self.sides(latents)
        if is_done and self.scaling:
            side = sides[int(torch.randint(len(sides), (), generator=draw))]

        def seen(x: Tensor) -> Tensor:
            return scaled(torch.rot90(x, turns, (2, 3)), side, latents.side)

        return View(seen, seen, side)


def scaled(x: Tensor, side: int, of: int) -> Tensor:
    """x brought to `side` over `of` of its side, by bilinear filters as wide as the step (no aliasing).

    Shapes: x (N, C, H, W), H and W multiples of `of`; result (N, C, H * side / of, W * side / of).
    """
    if side == of:
        return x
    size = [length * side // of for length in x.shape[2:]]
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
