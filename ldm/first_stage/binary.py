"""What first stages share whose codes are the signs of the channels: their numbers, and penalties on their entropy."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.coder import Coders
from ldm.first_stage.quantised import MOST_CODES, QuantisedFirstStage, Quantiser
from ldm.parts import option
from ldm.ranks import batch_mean

MOST_BITS: Final = int(math.log2(MOST_CODES))

BITS_TOGETHER: Final = 18
"""Channels whose codes are counted one by one in `entropy_of_mean`: 2^18 probabilities take 2 MiB."""


def bit_entropy(logits: Tensor) -> Tensor:
    """The entropy in nats of a bit that is 1 with probability sigmoid(logit). Shapes: any, result alike."""
    size = logits.abs()
    return F.softplus(-size) + size * torch.sigmoid(-size)


def entropy(probabilities: Tensor) -> Tensor:
    """The sum of -p log p in nats, with 0 for p = 0 and gradients that are finite there. Shapes: any; result ()."""
    return torch.special.entr(probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny)).sum()


def entropy_of_mean(logits: Tensor) -> Tensor:
    """The entropy in nats of the mean over the batch's rows of what independent bits say of all 2^bits codes.

    Bits beyond `BITS_TOGETHER` are further groups, whose entropies are added: an upper bound.
    Shapes: logits (rows, bits); result ().
    """
    return torch.stack([_entropy_of_mean(group) for group in logits.split(BITS_TOGETHER, dim=1)]).sum()


def _entropy_of_mean(logits: Tensor) -> Tensor:
    # The mean of outer products of two halves is one matrix product: no row's 2^bits probabilities are held.
    first, second = (_code_probabilities(half) for half in logits.tensor_split(2, dim=1))
    return entropy(batch_mean(first.T @ second / len(logits)))


def _code_probabilities(logits: Tensor) -> Tensor:
    """(rows, bits) to (rows, 2^bits)."""
    found = logits.new_ones(len(logits), 1)
    for logit in logits.unbind(1):
        found = torch.cat((found * torch.sigmoid(-logit)[:, None], found * torch.sigmoid(logit)[:, None]), dim=1)
    return found


class SignQuantiser(Quantiser):
    """The sign of each channel, times `magnitude`; nothing in it is trained.

    For its penalties a code c is as probable as exp(-|z - c|^2 / temperature), which takes the channels apart: channel
    z is positive with probability sigmoid(4 magnitude z / temperature).
    """

    def __init__(self, channels: int, magnitude: float, temperature: float) -> None:
        super().__init__()
        self._channels = channels
        self.magnitude = magnitude
        self.temperature = temperature

    @property
    def codes(self) -> int:
        """Number of codes, two to the number of channels."""
        return 2**self._channels

    @property
    def channels(self) -> int:
        """Number of bits."""
        return self._channels

    def nearest(self, raw: Tensor) -> Tensor:
        """The number of the signs at each position of (N, C, h, w), the first channel the lowest bit.

        Shapes: result (N, h, w), int64.
        """
        return ((raw > 0) * self._places(raw)).sum(1)

    def embed(self, indices: Tensor) -> Tensor:
        """The code vectors (N, C, h, w) of indices (N, h, w)."""
        bits = indices[:, None] // self._places(indices) % 2
        return self.magnitude * (2.0 * bits - 1.0)

    def logits(self, raw: Tensor) -> Tensor:
        """Of the bits at all positions, in float64: autocast leaves that alone, and means hold small probabilities.

        Shapes: raw (N, C, h, w); result (N h w, C).
        """
        rows = raw.double().permute(0, 2, 3, 1).flatten(0, 2)
        return rows * (4 * self.magnitude / self.temperature)

    def _places(self, like: Tensor) -> Tensor:
        return 2 ** torch.arange(self._channels, device=like.device).view(1, -1, 1, 1)


@dataclass(frozen=True)
class EntropyOptions:
    """What first stages of signs have beside their coder."""

    entropy_weight: float = option(0.1, low=0, help="weight of the entropy of a position's code less that of all codes")
    temperature: float = option(1.0, above=0, help="of the probabilities of codes in that penalty")


class SignFirstStage(QuantisedFirstStage):
    """Quantises each channel to its sign: the latent has as many channels as its codes have bits."""

    group = None

    @classmethod
    @abstractmethod
    def quantiser_of(cls, channels: int, options: Any) -> SignQuantiser:
        """The quantiser of these options, an `Options`."""

    @classmethod
    def filled(
        cls, channels: int | None, options: Mapping[str, Any], default: Callable[[str], Any]
    ) -> tuple[int, dict[str, Any]]:
        """As many bits as bring the number of codes nearest to the scale's `codes`."""
        bits = channels or max(1, round(math.log2(default("codes"))))
        _check(bits, cls.regulariser)
        return bits, dict(options)

    @classmethod
    def build(cls, coders: Coders, channels: int, options: Any) -> Self:
        """With a bit for each channel."""
        _check(channels, cls.regulariser)
        encoder, decoder = coders.make()
        return cls(encoder, decoder, cls.quantiser_of(channels, options))


def _check(bits: int, regulariser: str) -> None:
    if bits > MOST_BITS:
        raise UserError(
            f"ae.channels={bits} gives 2^{bits} codes under ae={regulariser}, whose channels are bits, more than can "
            f"be counted: use {MOST_BITS} channels or fewer"
        )
