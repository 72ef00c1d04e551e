"""The first stage whose codes are the signs of its channels (lookup-free quantisation).

Source: Yu et al. 2023, arXiv 2310.05737, section 3.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ldm.first_stage.binary import EntropyOptions, SignFirstStage, SignQuantiser, bit_entropy, entropy_of_mean
from ldm.first_stage.quantised import labels_of_codes
from ldm.parts import option


class LookupFreeQuantiser(SignQuantiser):
    """Codes are the corners of the cube [-1, 1]^C."""

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__(channels, 1.0, temperature)

    def penalties(self, raw: Tensor, quantised: Tensor) -> dict[str, Tensor]:
        """{"entropy"}: of a position's code, averaged, less that of the average over positions, in nats.

        Low where each position is sure of its code and all codes are used alike. {"commitment"}: |z - sg(c)|^2,
        averaged over elements. Shapes: both (N, C, h, w); each term (). Source: arXiv 2310.05737, equations 4 and 5.
        """
        logits = self.logits(raw)
        found = bit_entropy(logits).sum(1).mean() - entropy_of_mean(logits)
        return {"entropy": found.to(raw.dtype), "commitment": F.mse_loss(raw, quantised.detach())}


class LFQFirstStage(SignFirstStage):
    """Quantises an unbounded latent to its signs."""

    @dataclass(frozen=True)
    class Options(EntropyOptions):
        """What an LFQ model has beside its coder."""

        commitment_weight: float = option(0.25, low=0, help="weight of the squared distance of latents to their codes")

    regulariser = "lfq"
    labels = labels_of_codes("LFQ")
    penalties: ClassVar[Mapping[str, str]] = {"entropy": "entropy_weight", "commitment": "commitment_weight"}

    @classmethod
    def quantiser_of(cls, channels: int, options: Any) -> LookupFreeQuantiser:
        """At the temperature of the options."""
        return LookupFreeQuantiser(channels, options.temperature)
