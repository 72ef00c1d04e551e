"""Latents whose first channels are latents of their own: one training gives a first stage for each of several numbers.

Source: Chen et al. 2025, DC-AE 1.5, arXiv 2508.00413 (structured latent space); Rippel et al. 2014, arXiv 1402.0915
(nested dropout).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.shaping import LatentBatch, View, ViewShaping
from ldm.parts import option


@dataclass(frozen=True)
class Nested(ViewShaping):
    """Of each latent the first channels are decoded, as many as one of the numbers by chance, and zeros for the others.

    A first stage of fewer channels is cut from the trained one.
    """

    name: ClassVar[str] = "nested"
    group: ClassVar[str | None] = None

    nested: tuple[int, ...] | None = option(
        None, low=1, help="numbers of channels of which a training gives one first stage each, rising; null: one"
    )

    @property
    def value(self) -> str | None:
        """The numbers."""
        return None if self.nested is None else ",".join(map(str, self.nested))

    @property
    def weight(self) -> None:
        """The view stands in place of the latents."""

    def check(self, latents: LatentBatch) -> None:
        """Raises: UserError where the numbers are not at least two, rising, up to the latents' channels."""
        given = list(self.nested or ())
        if len(given) < 2 or given != sorted(set(given)):
            raise UserError(f"ae.nested={given} is not a list of two or more rising numbers of channels, e.g. [4,8,16]")
        if given[-1] != latents.channels:
            raise UserError(
                f"ae.nested={given} ends with all channels, and ae.channels={latents.channels}: leave ae.channels out"
            )

    def view(self, latents: LatentBatch, draw: torch.Generator) -> View:
        """The first channels of each latent."""
        numbers = torch.tensor(self.nested)
        kept = numbers[torch.randint(len(numbers), (latents.n,), generator=draw)][latents.own]
        mask = (torch.arange(latents.channels) < kept[:, None])[:, :, None, None]

        def seen(latent: Tensor) -> Tensor:
            return latent * mask.to(latent)

        return View(seen, lambda image: image, latents.side)
