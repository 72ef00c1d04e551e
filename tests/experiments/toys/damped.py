"""A toy sampler: the flow towards estimates that are damped."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.parts import option
from ldm.randomness import Noise
from ldm.samplers.level import level, with_x0


@dataclass(frozen=True)
class Damped:
    """DDIM without noise, whose estimates of x_0 are shortened."""

    title: ClassVar[str] = "damped DDIM"

    schedule: Schedule
    damping: float = option(0.0, low=0, high=1, help="share of the estimate that is taken away")

    def step(self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """One step; keeps no state."""
        estimate = (1 - self.damping) * denoise(x_t, t)
        return with_x0(x_t, estimate, level(self.schedule, t), level(self.schedule, s)), None
