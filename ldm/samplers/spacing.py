"""Which noise levels a sampler visits. The grid changes FID as much as the sampler does, so it always has a name."""

import torch
from torch import Tensor

SPACINGS = ("uniform", "quadratic", "leading", "trailing")
FINALS = ("clean", "alpha0")


def step_indices(spacing: str, steps: int, total: int = 1000) -> Tensor:
    """The rising indices of a schedule of `total` steps that a sampler visits.

    uniform    every (total // steps)-th, offset by one: the reference's, which can give one index more than asked
    quadratic  dense near the clean end: the squares of an even grid up to 0.8 total, offset by one (DDIM, Appendix D)
    leading    the same number as asked, from 0: i (total // steps)
    trailing   the same number as asked, ending at total - 1 (Lin et al. 2024, Table 2)

    Raises: ValueError for an unknown name or a number of steps outside 1 to `total`.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"sampler.steps={steps} is outside 1 to {total}")
    match spacing:
        case "uniform":
            indices = torch.arange(0, total, total // steps) + 1
        case "quadratic":
            indices = (torch.linspace(0, (0.8 * total) ** 0.5, steps, dtype=torch.float64) ** 2).long() + 1
        case "leading":
            indices = torch.arange(steps) * (total // steps)
        case "trailing":
            indices = (total - torch.arange(steps, dtype=torch.float64) * total / steps).round().long().flip(0) - 1
        case _:
            raise ValueError(f"no spacing '{spacing}': use one of {', '.join(SPACINGS)}")
    # The offset by one leaves the table at its end, and a fine quadratic grid repeats its first indices.
    return torch.unique(indices.clamp(max=total - 1))


def time_grid(spacing: str, steps: int, final: str = "clean", total: int = 1000) -> Tensor:
    """The falling noise levels t of those indices, followed by where the sampler ends: float64, shape (NFE + 1,).

    `final`: "clean" ends at t = 0; "alpha0" ends at the first index's alpha, as the reference does, which leaves its
    noise in the image.
    """
    if final not in FINALS:
        raise ValueError(f"no final '{final}': use one of {', '.join(FINALS)}")
    times = (step_indices(spacing, steps, total).double().flip(0) + 1) / total
    end = 0.0 if final == "clean" else 1 / total
    return torch.cat([times[times > end], torch.tensor([end], dtype=torch.float64)])
