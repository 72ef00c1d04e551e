"""DPM-Solver++ (Lu et al. 2022), the second-order multistep method 2M."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise
from ldm.samplers.level import level, with_x0


@dataclass(frozen=True)
class Step:
    """What the next step needs of this one: the x_0 estimate, and the length of the step.

    Shapes: x0 (N, C, h, w). Units: length in lambda = log(alpha / sigma).
    """

    x0: Tensor
    length: float


@dataclass(frozen=True)
class DPMSolverPlusPlus:
    """The flow is solved exactly in lambda for an x_0 estimate extrapolated to the middle of the step: order 2.

    The first step, and a last step to the clean end, where lambda is infinite, are of order 1.
    Source: Lu et al. 2022 (DPM-Solver++), Algorithm 2.
    """

    title: ClassVar[str] = "DPM++ 2M"

    schedule: Schedule

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Step | None, noise: Noise
    ) -> tuple[Tensor, Step]:
        """One step; `state` is the step before. Shapes: as in the contract."""
        now, then = level(self.schedule, t), level(self.schedule, s)
        x0 = denoise(x_t, t)
        length = then.half_log_snr - now.half_log_snr
        middle = x0
        if state is not None and math.isfinite(length):
            middle = x0 + length / (2 * state.length) * (x0 - state.x0)
        return with_x0(x_t, middle, now, then), Step(x0, length)
