"""Euler's method for the probability flow in the coordinates of EDM (Karras et al. 2022)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise
from ldm.samplers.level import level, with_x0


@dataclass(frozen=True)
class Euler:
    """d(x / alpha) = eps d(sigma / alpha), one straight step each: order 1, and number for number DDIM with eta 0.

    Source: Karras et al. 2022, Algorithm 1 without its correction; Song et al. 2021, section 4.3 (that it is DDIM).
    """

    title: ClassVar[str] = "Euler"

    schedule: Schedule

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """One step without a state. Shapes: as in the contract."""
        return with_x0(x_t, denoise(x_t, t), level(self.schedule, t), level(self.schedule, s)), None
