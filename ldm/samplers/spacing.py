"""Which noise levels a sampler visits. The grid changes FID as much as the sampler does, so it always has a name."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.parts import look_up


def uniform(steps: int, total: int) -> Tensor:
    """Every (total // steps)-th, offset by one: the reference's, which can give more indices than `steps`.

    Shapes: (ceil(total / (total // steps)),), int64.
    """
    return torch.arange(0, total, total // steps) + 1


def quadratic(steps: int, total: int) -> Tensor:
    """Dense near the clean end: the squares of an even grid up to 0.8 total, offset by one (DDIM, Appendix D).

    Shapes: (steps,), int64.
    """
    return (torch.linspace(0, (0.8 * total) ** 0.5, steps, dtype=torch.float64) ** 2).long() + 1


def leading(steps: int, total: int) -> Tensor:
    """As many as `steps`, from 0: i (total // steps); shape (steps,), int64."""
    return torch.arange(steps) * (total // steps)


def trailing(steps: int, total: int) -> Tensor:
    """As many as `steps`, ending at total - 1 (Lin et al. 2024, Table 2); shape (steps,), int64."""
    return (total - torch.arange(steps, dtype=torch.float64) * total / steps).round().long().flip(0) - 1


SPACINGS: Mapping[str, Callable[[int, int], Tensor]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "leading": leading,
    "trailing": trailing,
}
"""(steps, total) -> the rising indices of a schedule of `total` steps, by name."""

FINALS: Mapping[str, Callable[[int], float]] = {"clean": lambda total: 0.0, "alpha0": lambda total: 1 / total}
"""total -> the t where sampling ends: at the clean image, or at the first index's alpha, as the reference does, which
leaves its noise in the image."""


def step_indices(spacing: str, steps: int, total: int = 1000) -> Tensor:
    """The rising indices of a schedule of `total` steps that a sampler visits, by one of `SPACINGS`.

    Shapes: (n,), int64; n is `steps`, but for spacings that give more indices or repeat some.
    Raises: UserError for an unknown name or a number of steps outside 1 to `total`.
    """
    if not isinstance(steps, int) or not 1 <= steps <= total:
        raise UserError(f"sampler.steps={steps} is no whole number from 1 to {total}")
    indices = look_up(SPACINGS, spacing, "sampler.spacing")(steps, total)
    # The offset by one leaves the table at its end, and a fine quadratic grid repeats its first indices.
    return torch.unique(indices.clamp(max=total - 1))


def time_grid(spacing: str, steps: int, final: str = "clean", total: int = 1000) -> Tensor:
    """The falling noise levels t of those indices, followed by where the sampler ends, one of `FINALS`.

    Shapes: float64, (NFE + 1,). Raises: UserError for an unknown name or a number of steps outside 1 to `total`.
    """
    times = (step_indices(spacing, steps, total).double().flip(0) + 1) / total
    end = look_up(FINALS, final, "sampler.final")(total)
    return torch.cat([times[times > end], torch.tensor([end], dtype=torch.float64)])
