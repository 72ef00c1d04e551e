"""Latents of which smaller ones decode to smaller images: a second reconstruction at each step.

Source: Skorokhodov et al. 2025, arXiv 2502.14831, section 4.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.equivariance import scaled
from ldm.first_stage.shaping import LatentBatch, View, ViewShaping
from ldm.parts import option

FACTORS: Final = (2, 4)
"""By which latents are made smaller, one of them at each step; 4 only where it leaves a whole side."""


@dataclass(frozen=True)
class Downsampling(ViewShaping):
    """The loss has a second reconstruction beside the first, of latents of half or a quarter of their side.

    Pixels and perceptual term are as in the first, with the image made smaller alike; no discriminator sees it.
    """

    name: ClassVar[str] = "downsampling"
    group: ClassVar[str | None] = "downsampling"

    loss_weight: float = option(0.0, low=0, help="weight of a reconstruction from latents made smaller; 0: none")

    @property
    def value(self) -> str | None:
        """Its weight."""
        return f"{self.loss_weight:g}" if self.loss_weight else None

    @property
    def weight(self) -> float:
        """Of the second reconstruction."""
        return self.loss_weight

    def factors(self, latents: LatentBatch) -> list[int]:
        """Those that leave a whole side for which the networks of the loss can take images."""
        return [f for f in FACTORS if latents.side % f == 0 and latents.side // f >= latents.smallest]

    def check(self, latents: LatentBatch) -> None:
        """Raises: UserError where latents cannot be halved."""
        if not self.factors(latents):
            raise UserError(
                f"ae.downsampling.loss_weight={self.loss_weight:g} halves latents, and these have a side of "
                f"{latents.side}{latents.limit}: choose a smaller ae.f or larger images"
            )

    def view(self, latents: LatentBatch, draw: torch.Generator) -> View:
        """Half or a quarter."""
        factors = self.factors(latents)
        side = latents.side // factors[int(torch.randint(len(factors), (), generator=draw))]

        def smaller(x: Tensor) -> Tensor:
            return scaled(x, side, latents.side)

        return View(smaller, smaller, side)
