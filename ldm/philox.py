"""Random numbers by their place: word i of a stream is a function of (seed, stream, i), the same on every device.

Philox4x32-10 encrypts a counter, so that any part of a stream is had without what lies before it. Integers are the same
bit for bit on CPUs and GPUs; normals to 1e-6, since logarithms and cosines are rounded differently there.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.layers import kept

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
"""What the two halves of the key grow by each round: the golden ratio, and the root of 3 less 1."""

LOW = 0xFFFFFFFF
WORDS = 4
"""Of a block, 32 bits each."""


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """The blocks of words under these counters. Shapes: four (N,), int64 of 32 bits each; result (N, 4), the same.

    Both halves of a block are computed together, six operators a round: on a GPU it is these that take the time.
    """
    a, b, c, d = counter
    multiplied, added = torch.stack((a, c)), torch.stack((b, d))
    multipliers, keys = _constants(key, a.device)
    for each in keys:
        # int64 wraps around as 64 bits without a sign do, so that both halves of a product are exact. Of what is added
        # the upper half falls away with the next mask.
        product = (multiplied * multipliers).flip(0)
        multiplied = (product >> 32 ^ added ^ each) & LOW
        added = product
    (a, c), (b, d) = multiplied, added & LOW
    return torch.stack((a, b, c, d), dim=1)


@kept
def _constants(key: tuple[int, int], device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The multipliers, and of each round the key, both (2, 1), where they are used."""
    rounds = torch.tensor(
        [[word + n * grown & LOW for word, grown in zip(key, WEYL, strict=True)] for n in range(ROUNDS)]
    )
    return torch.tensor(MULTIPLIERS, device=device)[:, None], rounds.to(device)[:, :, None].unbind()


@dataclass(frozen=True)
class Stream:
    """The words of one purpose; `stream` is two numbers of 32 bits, e.g. a step and a purpose within it."""

    seed: int
    stream: tuple[int, int]
    device: torch.device | str = "cpu"

    def words(self, first: int, count: int) -> Tensor:
        """Words first ... first + count, int64 (count,), each with 32 random bits."""
        start, stop = first // WORDS, -(-(first + count) // WORDS)
        place = torch.arange(start, stop, device=self.device)
        other = [torch.full_like(place, number & LOW) for number in self.stream]
        blocks = philox((place & LOW, place >> 32, other[0], other[1]), (self.seed & LOW, self.seed >> 32 & LOW))
        return blocks.flatten()[first - WORDS * start :][:count]

    def integers(self, first: int, count: int, high: int) -> Tensor:
        """Integers first ... first + count of the stream, int64 (count,), from 0 up to but without `high` < 2^31.

        Each is as likely as any other to 2^-33.
        """
        upper, lower = self.words(2 * first, 2 * count).view(-1, 2).unbind(1)
        return upper * high + (lower * high >> 32) >> 32

    def uniforms(self, first: int, count: int) -> Tensor:
        """Numbers first ... first + count of the stream, float64 (count,), in [0, 1), multiples of 2^-53."""
        upper, lower = self.words(2 * first, 2 * count).view(-1, 2).unbind(1)
        return ((upper << 21) + (lower >> 11)).double() * 2.0**-53

    def normals(self, first: int, count: int) -> Tensor:
        """Normal numbers first ... first + count of the stream, float32 (count,), none beyond 6.8.

        Source: Box and Muller 1958; of two uniform numbers come two normal ones.
        """
        before = first % 2
        pairs = self.words(first - before, count + before + (count + before) % 2).view(-1, 2)
        radius, angle = pairs.float().unbind(1)
        radius = (-2 * torch.log((radius + 0.5) * 2.0**-32)).sqrt()
        angle = angle * (2 * math.pi * 2.0**-32)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1).flatten()[before:][:count]
