"""One loop drives all samplers."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from ldm.diffusion.model import Denoise

Noise = Callable[[tuple[int, ...]], Tensor]
"""shape of one image -> normal noise (N, *shape), e.g. `ldm.randomness.SampleNoise`."""


class Sampler(Protocol):
    """Takes one step from noise level t to the smaller s; `state` is what it wants to remember (None at first)."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """x_s, and the state for the next step."""
        ...


def sample(sampler: Sampler, denoise: Denoise, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Yields x after every step along `times`, a falling float64 grid that starts at x's noise level; the last is the result."""
    state = None
    for t, s in zip(times[:-1], times[1:], strict=True):
        x, state = sampler.step(denoise, x, t, s, state, noise)
        yield x
