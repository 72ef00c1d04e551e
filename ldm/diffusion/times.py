"""How often training draws each noise level, and what a loss of one then counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.parts import look_up

LARGEST_WEIGHT = 100.0
"""Of one noise level, where losses are weighted so that the density does not count: beyond it a few draws decide."""


class TimeDensity(Protocol):
    """A density of t over the `steps` indices of a schedule, index k standing for t from k / steps to (k + 1) / steps.

    Shapes: indices (n,), int64; all else float64.
    """

    def draw(self, n: int, steps: int, draw: torch.Generator) -> Tensor:
        """Indices of n images, drawn."""
        ...

    def at(self, share: Tensor, steps: int) -> Tensor:
        """The indices below which those shares of all draws lie; shares in [0, 1), of any shape, as is the result."""
        ...

    def weights(self, steps: int) -> Tensor:
        """What the loss at each index is multiplied by, (steps,)."""
        ...


@dataclass(frozen=True)
class UniformTimes:
    """Every noise level as often."""

    def draw(self, n: int, steps: int, draw: torch.Generator) -> Tensor:
        """See `TimeDensity`."""
        return torch.randint(steps, (n,), generator=draw)

    def at(self, share: Tensor, steps: int) -> Tensor:
        """See `TimeDensity`."""
        return (share * steps).long()

    def weights(self, steps: int) -> Tensor:
        """1 at each index."""
        return torch.ones(steps, dtype=torch.float64)


@dataclass(frozen=True)
class LogitNormalTimes:
    """t = 1 / (1 + exp(-u)), u ~ N(mean, std^2): a mean above 0 draws more noise, a small `std` the levels around it.

    Its density is what a noise level counts in the loss, unless the losses are `unbiased`: over their probability,
    so that their mean is that over uniform times, whose minimum is the same.
    Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1 (pi_ln).

    Raises: UserError for unbiased losses of so narrow a density that a level counts `LARGEST_WEIGHT` times and more.
    """

    mean: float = 0.0
    std: float = 1.0
    unbiased: bool = False

    def draw(self, n: int, steps: int, draw: torch.Generator) -> Tensor:
        """See `TimeDensity`."""
        return self.at(torch.rand(n, generator=draw, dtype=torch.float64), steps)

    def at(self, share: Tensor, steps: int) -> Tensor:
        """See `TimeDensity`."""
        t = torch.sigmoid(self.mean + self.std * torch.special.ndtri(share.double()))
        return (t * steps).long().clamp(max=steps - 1)

    def probabilities(self, steps: int) -> Tensor:
        """How often each index is drawn; (steps,), of sum 1."""
        ends = (torch.logit(torch.arange(steps + 1, dtype=torch.float64) / steps) - self.mean) / self.std
        low, high = ends[:-1], ends[1:]
        # Mirrored to the left tail, where differences of the distribution function are exact however far out.
        is_right = low > 0
        low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
        return torch.special.ndtr(high) - torch.special.ndtr(low)

    def weights(self, steps: int) -> Tensor:
        """1 at each index; of unbiased losses how often uniform times have it for each time that it is drawn."""
        if not self.unbiased:
            return torch.ones(steps, dtype=torch.float64)
        found = 1 / (steps * self.probabilities(steps))
        if not found.max() < LARGEST_WEIGHT:
            raise UserError(
                f"diffusion.times_unbiased=true with diffusion.times_mean={self.mean:g} and "
                f"diffusion.times_std={self.std:g}: levels that are hardly drawn would count {found.max():.2g} times; "
                "use a larger diffusion.times_std (2 at a mean of 0), or leave times_unbiased out"
            )
        return found


TIMES: Mapping[str, type[TimeDensity]] = {"uniform": UniformTimes, "logit_normal": LogitNormalTimes}
"""By the name that `diffusion.times` gives."""

UNIFORM = UniformTimes()


def make_times(name: str, mean: float = 0.0, std: float = 1.0, unbiased: bool = False) -> TimeDensity:
    """The density of that name; all else is of the one that has them. Raises: UserError for another name."""
    part = look_up(TIMES, name, "diffusion.times")
    return part() if part is UniformTimes else LogitNormalTimes(mean, std, unbiased)
