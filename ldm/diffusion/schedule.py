"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps for t in [0, 1], 0 clean and 1 noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.parts import checked, look_up, option

STEPS = 1000


def scaled_linear_betas(start: float = 0.0015, end: float = 0.0195, steps: int = STEPS) -> Tensor:
    """Betas linear in their square root: what the tables of Rombach et al. 2022 call "linear"; shape (steps,)."""
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2


def linear_betas(start: float = 1e-4, end: float = 0.02, steps: int = STEPS) -> Tensor:
    """Betas linear in the step (Ho et al. 2020); shape (steps,)."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def cosine_betas(offset: float = 0.008, steps: int = STEPS, largest: float = 0.999) -> Tensor:
    """Betas of the cosine schedule (Nichol and Dhariwal 2021, eq. 17), each at most `largest`; shape (steps,)."""
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((grid + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


class Schedule(Protocol):
    """How much signal and noise there is at t; training draws t from the grid of `steps` indices, t = (k + 1) / steps.

    Shapes: t and index of any shape, as a rule () or (N,); results of that shape, float64, whatever the network
    computes in.
    """

    @property
    def steps(self) -> int:
        """The number of indices that the network is trained on."""
        ...

    @property
    def shift(self) -> float:
        """By whose square its SNR is divided."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """The signal's factor; result of t's shape."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """The noise's factor; result of t's shape."""
        ...

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2); result of t's shape."""
        ...

    def index(self, t: Tensor) -> Tensor:
        """The network's input, k = steps t - 1, at least 0; result of t's shape."""
        ...

    def time(self, index: Tensor) -> Tensor:
        """t of index k; result of the index's shape."""
        ...


class VariancePreservingSchedule:
    """A discrete variance-preserving schedule, made continuous: alpha_t^2 + sigma_t^2 = 1.

    Index k of the discrete schedule is t = (k + 1) / steps. Between grid points the log-SNR is linear in t; below the
    first, alpha^2 is linear down to the clean t = 0. `shift` divides the SNR by its square at every index.
    """

    def __init__(self, betas: Tensor, shift: float = 1.0) -> None:
        self.steps = len(betas)
        self.shift = shift
        self.alpha_bar = torch.cumprod(1 - betas.double().cpu(), dim=0)
        if shift != 1:
            self.alpha_bar = self.alpha_bar / (self.alpha_bar + shift**2 * (1 - self.alpha_bar))
        self._log_snr = torch.log(self.alpha_bar) - torch.log1p(-self.alpha_bar)
        self._tables = {self.alpha_bar.device: (self.alpha_bar, self._log_snr)}

    def index(self, t: Tensor) -> Tensor:
        """The network's input, k = steps t - 1, at least 0; result of t's shape."""
        return (t.double() * self.steps - 1).clamp(min=0)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), infinite at t = 0; result of t's shape."""
        alpha_squared = self._alpha_squared(t)
        return torch.log(alpha_squared) - torch.log1p(-alpha_squared)

    def alpha(self, t: Tensor) -> Tensor:
        """The signal's factor; result of t's shape."""
        return self._alpha_squared(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """The noise's factor; result of t's shape."""
        return (1 - self._alpha_squared(t)).sqrt()

    def time(self, index: Tensor) -> Tensor:
        """t of index k; result of the index's shape."""
        return (index.double() + 1) / self.steps

    def _alpha_squared(self, t: Tensor) -> Tensor:
        alpha_bar, log_snr = self._tables_on(t.device)
        position = t.detach().double() * self.steps - 1
        nearest = position.round()
        # A grid point given as (k + 1) / steps must return the table's value itself, not one a rounding away.
        position = torch.where((position - nearest).abs() < 1e-9, nearest, position)
        lower = position.floor().clamp(0, self.steps - 1).long()
        upper = (lower + 1).clamp(max=self.steps - 1)
        weight = position - lower
        between = torch.sigmoid(torch.lerp(log_snr[lower], log_snr[upper], weight))
        on_grid = alpha_bar[lower]
        below_first = 1 + (position + 1) * (alpha_bar[0] - 1)
        value = torch.where(weight == 0, on_grid, between)
        return torch.where(position < 0, below_first, value)

    def _tables_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """alpha^2 and log-SNR at each index, moved to a device once, since a GPU would wait for them at each step."""
        if device not in self._tables:
            self._tables[device] = self.alpha_bar.to(device), self._log_snr.to(device)
        return self._tables[device]


def time_at(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """The t in [0, 1] at which a schedule has that log-SNR; its ends where it has none so high or low.

    By bisection, since schedules need tell no inverse. Shapes: any; result alike, float64.
    """
    low, high = torch.zeros_like(log_snr, dtype=torch.float64), torch.ones_like(log_snr, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        is_cleaner = schedule.log_snr(middle) > log_snr
        low, high = torch.where(is_cleaner, middle, low), torch.where(is_cleaner, high, middle)
    return high


@dataclass(frozen=True)
class FlowSchedule:
    """The straight path of flow matching and rectified flow: alpha = 1 - t', sigma = t', t' = s t / (1 + (s - 1) t).

    `shift` s divides the SNR by its square. At t = 1 no signal is left.
    Source: Liu et al. 2023; Lipman et al. 2023; Esser et al. 2024, eq. 23 (the shift).
    """

    shift: float = 1.0
    steps: int = STEPS

    def alpha(self, t: Tensor) -> Tensor:
        """The signal's factor; result of t's shape."""
        t = t.double()
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Tensor) -> Tensor:
        """The noise's factor; result of t's shape."""
        t = t.double()
        return self.shift * t / (1 + (self.shift - 1) * t)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), infinite at t = 0, minus infinity at t = 1; result of t's shape."""
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def index(self, t: Tensor) -> Tensor:
        """The network's input, k = steps t - 1, at least 0; result of t's shape."""
        return (t.double() * self.steps - 1).clamp(min=0)

    def time(self, index: Tensor) -> Tensor:
        """t of index k; result of the index's shape."""
        return (index.double() + 1) / self.steps


@dataclass(frozen=True)
class ScaledLinear:
    """Betas linear in their square root."""

    title: ClassVar[str] = "the schedule scaled_linear"

    beta_start: float = option(0.0015, above=0, below=1, help="the first beta")
    beta_end: float = option(0.0195, above=0, below=1, help="the last beta")

    def schedule(self, shift: float) -> Schedule:
        """The schedule with its SNR over shift^2."""
        return VariancePreservingSchedule(scaled_linear_betas(self.beta_start, self.beta_end), shift)


@dataclass(frozen=True)
class Linear:
    """Betas linear in the step."""

    title: ClassVar[str] = "the schedule linear"

    beta_start: float = option(1e-4, above=0, below=1, help="the first beta")
    beta_end: float = option(0.02, above=0, below=1, help="the last beta")

    def schedule(self, shift: float) -> Schedule:
        """The schedule with its SNR over shift^2."""
        return VariancePreservingSchedule(linear_betas(self.beta_start, self.beta_end), shift)


@dataclass(frozen=True)
class Cosine:
    """Betas of the cosine schedule."""

    title: ClassVar[str] = "the schedule cosine"

    def schedule(self, shift: float) -> Schedule:
        """The schedule with its SNR over shift^2."""
        return VariancePreservingSchedule(cosine_betas(), shift)


@dataclass(frozen=True)
class Flow:
    """The straight path."""

    title: ClassVar[str] = "the schedule flow"

    def schedule(self, shift: float) -> Schedule:
        """The schedule with its SNR over shift^2."""
        return FlowSchedule(shift)


class ScheduleOptions(Protocol):
    """A noise schedule's options, a dataclass of them, which makes the schedule for any shift."""

    def schedule(self, shift: float) -> Schedule:
        """The schedule with its SNR over shift^2."""
        ...


SCHEDULES: Mapping[str, type[ScheduleOptions]] = {
    "scaled_linear": ScaledLinear,
    "linear": Linear,
    "cosine": Cosine,
    "flow": Flow,
}


def make_schedule(name: str, start: float | None = None, end: float | None = None, shift: float = 1.0) -> Schedule:
    """The schedule of that name; `start` and `end` are its first and last beta, its own defaults where None.

    `shift` divides the SNR by its square, i.e. adds -2 log(shift) to the log-SNR (Hoogeboom et al. 2023, eq. 3).

    Raises: UserError for a name that is not in `SCHEDULES`, for betas given to a schedule that has none, or for a
    shift that is not above 0.
    """
    part = look_up(SCHEDULES, name, "diffusion.schedule")
    if not shift > 0:
        raise UserError(f"diffusion.shift={shift} is no number above 0")
    ends = {key: value for key, value in (("beta_start", start), ("beta_end", end)) if value is not None}
    return checked(part, ends, "diffusion").schedule(shift)
