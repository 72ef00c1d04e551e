"""A noise level as plain numbers, and the two moves that all samplers are made of."""

import math
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.schedule import Schedule

PURE_NOISE = 1e-6
"""An SNR below this is none: flow's t = 1, or the clipped end of the cosine schedule, whose sigma / alpha is 20,000.

A step from there is as long as its start is far, so that a slope averaged or extrapolated over it is worth nothing.
"""


@dataclass(frozen=True)
class Level:
    """The factors of signal and noise at one t: x = alpha x_0 + sigma eps."""

    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma); infinite where nothing is noise, minus infinity where all of it is."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def is_pure_noise(self) -> bool:
        """Whether next to no signal is left."""
        return self.alpha**2 < PURE_NOISE * self.sigma**2

    def eps(self, x: Tensor, x0: Tensor) -> Tensor:
        """The noise in x at this level, given the clean image. Shapes: x (N, C, h, w), x0 and the result alike."""
        return (x - self.alpha * x0) / self.sigma


def level(schedule: Schedule, t: Tensor) -> Level:
    """The level of one time, shape ()."""
    return Level(float(schedule.alpha(t)), float(schedule.sigma(t)))


def with_eps(x: Tensor, eps: Tensor, now: Level, then: Level) -> Tensor:
    """The probability flow from one level to another where the noise estimate stays `eps`: exact if it does.

    In the coordinates x / alpha and sigma / alpha it is a straight line with slope eps. Needs now.alpha > 0.
    Shapes: x, eps and the result alike.
    Source: Song et al. 2021, eq. 13; Karras et al. 2022, eq. 4 (these coordinates).
    """
    scale = then.alpha / now.alpha
    return scale * x + (then.sigma - scale * now.sigma) * eps


def with_x0(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """The probability flow from one level to another where the clean estimate stays `x0`: exact if it does.

    It also starts at pure noise and ends at the clean image. Shapes: x, x0 and the result alike.
    Source: Lu et al. 2022 (DPM-Solver++), eq. 9, with alpha_s (1 - e^-h) written without the logarithms.
    """
    scale = then.sigma / now.sigma
    return scale * x + (then.alpha - scale * now.alpha) * x0
