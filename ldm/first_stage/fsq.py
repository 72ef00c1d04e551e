"""The first stage whose latents are rounded to a few levels a channel (finite scalar quantisation).

Source: Mentzer et al. 2023, arXiv 2309.15505.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.coder import Coders
from ldm.first_stage.quantised import MOST_CODES, QuantisedFirstStage, Quantiser, labels_of_codes
from ldm.parts import option

LEVELS: Final[Sequence[tuple[int, ...]]] = (
    (8, 8),
    (5, 5, 5),
    (8, 6, 5),
    (8, 8, 8),
    (8, 5, 5, 5),
    (8, 8, 6, 5),
    (7, 5, 5, 5, 5),
    (8, 8, 5, 5, 5),
    (8, 8, 8, 6, 5),
    (8, 8, 8, 8, 8),
    (8, 8, 8, 5, 5, 5),
)
"""Levels for about 2^6 to 2^16 codes. Those for 2^8, 2^10, 2^12, 2^14 and 2^16 are of table 1 of the paper; the others
follow its rule of five or more levels a channel."""

MARGIN: Final = 1e-3
"""By how much the range exceeds that of the levels, as a share, so that its ends are levels too."""


def levels_for(codes: int) -> tuple[int, ...]:
    """Those of `LEVELS` that have the number of codes nearest to `codes`, by their ratio."""
    return min(LEVELS, key=lambda levels: abs(math.log(math.prod(levels) / codes)))


class ScalarQuantiser(Quantiser):
    """Channels rounded to `levels` each, which fill about [-1, 1]; nothing in it is trained.

    A channel z becomes q = round(h tanh(z + atanh(o / h)) - o) / floor(L / 2) with h = (L - 1) (1 + 1e-3) / 2 and
    o = 1/2 for even L, else 0. The authors' code has 1 - 1e-3 and tan in place of 1 + 1e-3 and atanh; this form maps 0
    to 0, and its range reaches the outermost levels.
    """

    levels: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self._codes = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)

    @property
    def codes(self) -> int:
        """Number of codes, the product of the levels."""
        return self._codes

    @property
    def channels(self) -> int:
        """Number of levels that are given."""
        return self.levels.shape[0]

    def bounded(self, latent: Tensor) -> Tensor:
        """The value before rounding, over floor(L / 2). Shapes: (N, C, h, w) both."""
        levels = self._like(self.levels).to(latent.dtype)
        half, offset = (levels - 1) * ((1 + MARGIN) / 2), (1 - levels % 2) / 2
        return (half * torch.tanh(latent + torch.atanh(offset / half)) - offset) / (levels // 2)

    def nearest(self, raw: Tensor) -> Tensor:
        """The number of the nearest code at each position of (N, C, h, w); shape (N, h, w), int64.

        Levels are counted from the lowest, those of the first channel fastest. What lies beyond the ends belongs to
        them.
        """
        levels = self._like(self.levels)
        half = levels // 2
        counted = ((raw.detach() * half).round() + half).clamp(torch.zeros_like(levels), levels - 1)
        return (counted.long() * self._like(self._places)).sum(1)

    def embed(self, indices: Tensor) -> Tensor:
        """The code vectors (N, C, h, w) of indices (N, h, w)."""
        levels = self._like(self.levels)
        half = levels // 2
        return (indices[:, None] // self._like(self._places) % levels - half) / half

    def penalties(self, raw: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        """None: there is no codebook to learn. Shapes: both (N, C, h, w)."""
        return {}

    @property
    def _places(self) -> Tensor:
        """What a level of each channel adds to the number of a code."""
        return self.levels.cumprod(0) // self.levels

    @staticmethod
    def _like(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1)


class FSQFirstStage(QuantisedFirstStage):
    """Rounds each channel of a bounded latent to a few levels; the latent has as many channels as levels are given."""

    @dataclass(frozen=True)
    class Options:
        """What an FSQ model has beside its coder."""

        levels: tuple[int, ...] = option(low=3, help="levels of each channel; null: about as many codes as a codebook")

    regulariser = "fsq"
    labels = labels_of_codes("FSQ")
    group = None
    penalties: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def filled(
        cls, channels: int | None, options: Mapping[str, Any], default: Callable[[str], Any]
    ) -> tuple[int, dict[str, Any]]:
        """Levels whose codes are nearest to the scale's `codes` in number, and a channel for each."""
        levels = options.get("levels") or list(levels_for(default("codes")))
        _check(levels, channels)
        return len(levels), {**options, "levels": levels}

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """With the levels of the options."""
        _check(options.levels, channels)
        encoder, decoder = coders.make()
        return cls(encoder, decoder, ScalarQuantiser(options.levels))


def _check(levels: Sequence[int], channels: int | None) -> None:
    """Raises: UserError where there are other channels than levels, or too many codes."""
    if channels not in (None, len(levels)):
        raise UserError(
            f"ae.channels={channels} does not fit ae.levels={list(levels)}, which are those of {len(levels)} channels: "
            "leave ae.channels out, or give a level count for each channel"
        )
    if math.prod(levels) > MOST_CODES:
        raise UserError(
            f"ae.levels={list(levels)} gives {math.prod(levels)} codes, more than {MOST_CODES} can be counted: "
            "choose fewer levels or channels"
        )
