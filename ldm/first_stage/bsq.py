"""The first stage whose codes are the signs of a direction (binary spherical quantisation).

Source: Zhao et al. 2024, arXiv 2406.07548, section 4.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.first_stage.binary import EntropyOptions, SignFirstStage, SignQuantiser, bit_entropy, entropy
from ldm.first_stage.quantised import labels_of_codes
from ldm.ranks import batch_mean


class SphericalQuantiser(SignQuantiser):
    """Latents on the unit sphere; codes are the corners of the cube in it, sign / sqrt(C)."""

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__(channels, 1 / math.sqrt(channels), temperature)

    def bounded(self, latent: Tensor) -> Tensor:
        """The latent over its length at each position. Shapes: (N, C, h, w) both."""
        return F.normalize(latent, dim=1)

    def penalties(self, raw: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        """{"entropy"}: of a position's code, averaged, less that of the average over positions, in nats.

        The latter is that of its bits, summed, as if they were independent: an upper bound that costs no sum over
        codes. Latents on the sphere are never far from a code, so there is no commitment term.
        Shapes: both (N, C, h, w); the term (). Source: arXiv 2406.07548, section 4.2.
        """
        logits = self.logits(raw)
        set_, unset = (batch_mean(torch.sigmoid(bits).mean(0)) for bits in (logits, -logits))
        used = entropy(set_) + entropy(unset)
        return {"entropy": (bit_entropy(logits).sum(1).mean() - used).to(raw.dtype)}


class BSQFirstStage(SignFirstStage):
    """Quantises a latent of length 1 to its signs."""

    @dataclass(frozen=True)
    class Options(EntropyOptions):
        """What a BSQ model has beside its coder."""

    regulariser = "bsq"
    labels = labels_of_codes("BSQ")
    penalties: ClassVar[Mapping[str, str]] = {"entropy": "entropy_weight"}

    @classmethod
    def quantiser_of(cls, channels: int, options: Any) -> SphericalQuantiser:
        """At the temperature of the options."""
        return SphericalQuantiser(channels, options.temperature)
