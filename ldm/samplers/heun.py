"""Heun's method for the probability flow in the coordinates of EDM (Karras et al. 2022)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise
from ldm.samplers.level import level, with_eps, with_x0


@dataclass(frozen=True)
class Heun:
    """Euler's step, repeated with the mean of the slopes at both ends: order 2, two network calls a step.

    Where an end has no slope (the clean end, or pure noise) the step is Euler's, with one call.
    Source: Karras et al. 2022, Algorithm 1.
    """

    title: ClassVar[str] = "Heun"

    schedule: Schedule

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """One step without a state. Shapes: as in the contract."""
        now, then = level(self.schedule, t), level(self.schedule, s)
        x0 = denoise(x_t, t)
        euler = with_x0(x_t, x0, now, then)
        if then.sigma == 0 or now.is_pure_noise:
            return euler, None
        slope = (now.eps(x_t, x0) + then.eps(euler, denoise(euler, s))) / 2
        return with_eps(x_t, slope, now, then), None
