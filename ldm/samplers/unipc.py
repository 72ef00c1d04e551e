"""UniPC (Zhao et al. 2023): a multistep predictor whose every step is corrected by the next network call."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise
from ldm.samplers.level import Level, level, with_x0


@dataclass(frozen=True)
class Estimate:
    """An estimate of x_0 and the lambda = log(alpha / sigma) that it was made at."""

    x0: Tensor
    at: float


@dataclass(frozen=True)
class Prediction:
    """The last step: where it started, its estimates (the newest, which is of its start, first) and its order."""

    x: Tensor
    start: Level
    estimates: tuple[Estimate, ...]
    order: int


@dataclass(frozen=True)
class UniPC:
    """Predictor UniP of order p and corrector UniC, without further network calls: order p + 1; for B(h) = e^h - 1.

    The first steps, and a last one to the clean end, where lambda is infinite, are of lower order.
    Source: Zhao et al. 2023, Algorithms 5 to 8 for data prediction, eq. 11, and B_2 of section 3.1.
    """

    title: ClassVar[str] = "UniPC"

    schedule: Schedule
    order: int = 2

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor, state: Prediction | None, noise: Noise
    ) -> tuple[Tensor, Prediction]:
        """Corrects x_t, then predicts x_s; `state` is the last prediction. Shapes: as in the contract."""
        now, then = level(self.schedule, t), level(self.schedule, s)
        newest = Estimate(denoise(x_t, t), now.half_log_snr)
        before: tuple[Estimate, ...] = ()
        if state is not None:
            before = state.estimates
            points = [*self._others(state.estimates, state.start, now, state.order), (1.0, newest.x0)]
            x_t = _advanced(state.x, before[0].x0, points, state.start, now)
        # From infinitely far away no estimate can be extrapolated, nor over an infinite step.
        estimates = (newest, *(e for e in before if math.isfinite(e.at)))[: self.order]
        order = len(estimates) if then.sigma > 0 else 1
        points = self._others(estimates, now, then, order)
        return _advanced(x_t, newest.x0, points, now, then), Prediction(x_t, now, estimates, order)

    @staticmethod
    def _others(estimates: Sequence[Estimate], now: Level, then: Level, order: int) -> list[tuple[float, Tensor]]:
        """Where earlier estimates lie, in steps from `now` (so below 0), with their values."""
        length = then.half_log_snr - now.half_log_snr
        return [((e.at - now.half_log_snr) / length, e.x0) for e in estimates[1:order]]


def _advanced(x: Tensor, x0: Tensor, points: Sequence[tuple[float, Tensor]], now: Level, then: Level) -> Tensor:
    """The step from `now` to `then` with x_0 estimates at `points`, in steps from `now`, beside `x0` at 0."""
    if points:
        places = [place for place, _ in points]
        weights = _weights(places, then.half_log_snr - now.half_log_snr)
        x0 = sum((w / r * (value - x0) for w, (r, value) in zip(weights, points, strict=True)), x0)
    return with_x0(x, x0, now, then)


def _weights(places: Sequence[float], length: float) -> list[float]:
    """The weights a of the differences: sum_i a_i r_i^(k - 1) = b_k for k = 1 to their number (Theorem 3.1).

    b_k = k! phi_(k+1)(-h) / phi_1(-h), phi_(k+1)(z) = (phi_k(z) - 1/k!) / z. A single one is 1/2 (Appendix E).
    """
    if len(places) == 1:
        return [0.5]
    z = -length
    phi_1 = math.expm1(z) / z
    phi, right = phi_1, []
    for k in range(1, len(places) + 1):
        phi = (phi - 1 / math.factorial(k)) / z
        right.append(math.factorial(k) * phi / phi_1)
    powers = torch.tensor([[r**k for r in places] for k in range(len(places))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(right, dtype=torch.float64)).tolist()
