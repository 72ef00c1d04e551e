"""One loop drives all samplers."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.randomness import Noise


class Sampler(Protocol):
    """Takes one step from noise level t to the smaller s; `state` is what it remembers of steps before (None at first).

    A frozen dataclass with a field `schedule`; its other fields are its options (`ldm.parts.option`).
    """

    title: ClassVar[str]
    """What tables and figures call it."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """x_s, and the state for the next step; `denoise(x_t, t)` estimates x_0.

        Shapes: x_t (N, C, h, w), t and s () in float64; x_s as x_t; `noise((C, h, w))` draws (N, C, h, w).
        """
        ...


def sample(sampler: Sampler, denoise: Denoise, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Yields x after every step; the last is the result.

    `times` is a falling float64 grid that starts at x's noise level. Shapes: x (N, C, h, w), times (steps + 1,); each
    result as x.
    """
    state = None
    for t, s in pairwise(times):
        x, state = sampler.step(denoise, x, t, s, state, noise)
        yield x


def asked_levels(sampler: Sampler, times: Tensor) -> list[float]:
    """The t of every call of the denoiser on this grid, in order, found by running the sampler on a single number.

    Shapes: times (steps + 1,).
    """
    asked: list[float] = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(float(t))
        return torch.zeros_like(x_t)

    for _ in sample(sampler, denoise, torch.zeros(1, 1), times, lambda shape: torch.zeros(1, *shape)):
        pass
    return asked
