"""Which noise levels a sampler visits. The grid changes FID as much as the sampler does, so it always has a name."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.special import ellipkinc
from torch import Tensor

from ldm.diffusion.schedule import Schedule, make_schedule, time_at
from ldm.errors import UserError
from ldm.parts import look_up

SCALED_LINEAR = make_schedule("scaled_linear")
"""The schedule of the reference."""


def uniform(steps: int, schedule: Schedule) -> Tensor:
    """Every (total // steps)-th, offset by one: the reference's, which can give more indices than `steps`.

    Shapes: (ceil(total / (total // steps)),), int64.
    """
    return torch.arange(0, schedule.steps, schedule.steps // steps) + 1


def quadratic(steps: int, schedule: Schedule) -> Tensor:
    """Dense near the clean end: the squares of an even grid up to 0.8 total, offset by one (DDIM, Appendix D).

    Shapes: (steps,), int64.
    """
    return (torch.linspace(0, (0.8 * schedule.steps) ** 0.5, steps, dtype=torch.float64) ** 2).long() + 1


def leading(steps: int, schedule: Schedule) -> Tensor:
    """As many as `steps`, from 0: i (total // steps); shape (steps,), int64."""
    return torch.arange(steps) * (schedule.steps // steps)


def trailing(steps: int, schedule: Schedule) -> Tensor:
    """As many as `steps`, ending at total - 1 (Lin et al. 2024, Table 2); shape (steps,), int64."""
    total = schedule.steps
    return (total - torch.arange(steps, dtype=torch.float64) * total / steps).round().long().flip(0) - 1


NEUTRAL_SCALES = (0.1, 100.0)
"""The standard deviations, of normalised data, among which `neutral` prefers none."""


def neutral(steps: int, schedule: Schedule) -> Tensor:
    """As many as `steps`, ending at total - 1, in steps that lose alike of structures of every size.

    A DDIM step from r = sigma / alpha to r' multiplies the standard deviation s of Gaussian data, in units of its exact
    value, by cos(theta - theta') with theta = arctan(r / s). What is lost in all is about the sum of the squares of
    d theta / dr, so that its mean over log s from a to b is least where the steps are even in
    w(r) = integral of sqrt(1 / (r^2 + a^2) - 1 / (r^2 + b^2)), the elliptic integral F(arctan(r / a) | 1 - a^2 / b^2)
    but for a factor. Between a and b that is even in the log-SNR; beyond either it is finite, so that the clean end and
    pure noise are ends like others. a and b are `NEUTRAL_SCALES`; each index is the nearest to its place in w that is
    still free.
    Shapes: (steps,), int64. Source: derived here; docs/decisions/0023-spacing-neutral-over-f.md has the table.
    """
    total, (low, high) = schedule.steps, NEUTRAL_SCALES
    times = schedule.time(torch.arange(total))
    angle = torch.atan2(schedule.sigma(times), low * schedule.alpha(times)).numpy()
    way = ellipkinc(angle, 1 - (low / high) ** 2)
    wanted = way[-1] * np.arange(1, steps + 1) / steps
    position = np.arange(steps)
    nearest = np.searchsorted((way[1:] + way[:-1]) / 2, wanted)
    rising = np.maximum.accumulate(nearest - position) + position
    return torch.from_numpy(np.minimum(rising, total - steps + position))


SPACINGS: Mapping[str, Callable[[int, Schedule], Tensor]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "leading": leading,
    "trailing": trailing,
    "neutral": neutral,
}
"""(steps, schedule) -> the rising indices of the schedule's `total` = `schedule.steps`, by name."""

FINALS: Mapping[str, Callable[[int], float]] = {"clean": lambda total: 0.0, "alpha0": lambda total: 1 / total}
"""total -> the t where sampling ends: at the clean image, or at the first index's alpha, as the reference does, which
leaves its noise in the image."""


def step_indices(spacing: str, steps: int, schedule: Schedule = SCALED_LINEAR) -> Tensor:
    """The rising indices of a schedule that a sampler visits, by one of `SPACINGS`.

    Shapes: (n,), int64; n is `steps`, but for spacings that give more indices or repeat some.
    Raises: UserError for an unknown name or a number of steps outside 1 to the schedule's.
    """
    total = schedule.steps
    if not isinstance(steps, int) or not 1 <= steps <= total:
        raise UserError(f"sampler.steps={steps} is no whole number from 1 to {total}")
    indices = look_up(SPACINGS, spacing, "sampler.spacing")(steps, schedule)
    # The offset by one leaves the table at its end, and a fine quadratic grid repeats its first indices.
    return torch.unique(indices.clamp(max=total - 1))


def time_grid(spacing: str, steps: int, final: str = "clean", schedule: Schedule = SCALED_LINEAR) -> Tensor:
    """The falling noise levels t of those indices, followed by where the sampler ends, one of `FINALS`.

    Shapes: float64, (NFE + 1,). Raises: UserError for an unknown name or a number of steps outside 1 to the schedule's.
    """
    times = (step_indices(spacing, steps, schedule).double().flip(0) + 1) / schedule.steps
    end = look_up(FINALS, final, "sampler.final")(schedule.steps)
    return torch.cat([times[times > end], torch.tensor([end], dtype=torch.float64)])


def shifted(times: Tensor, schedule: Schedule, shift: float) -> Tensor:
    """Falling noise levels in place of these, with the SNR that a schedule shifted by `shift` has there.

    The network was trained on `schedule`, with its own shift. r = sigma / alpha becomes q r / (1 + (q - 1) r / R), q
    the ratio of the shifts and R the r at t = 1: q r, but that t = 1 stays where it is, and no two levels become one.
    Of the straight path R is infinite, and t becomes q t / (1 + (q - 1) t).
    Shapes: as `times`. Source: Esser et al. 2024, eq. 23; what is done about R is our own.
    """
    ratio, inner = shift / schedule.shift, (times > 0) & (times < 1)
    r, largest = (torch.exp(-schedule.log_snr(t) / 2) for t in (times[inner], torch.ones((), dtype=torch.float64)))
    moved = ratio * r / (1 + (ratio - 1) * r / largest)
    result = times.clone()
    result[inner] = time_at(schedule, -2 * torch.log(moved))
    return result
