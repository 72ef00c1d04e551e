"""How much each noise level counts in the loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule

GAMMA = 5.0
"""The cap of min-SNR (Hang et al. 2023, section 3.4)."""


def min_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """min(SNR, gamma), the weight of a squared error of x_0 (Hang et al. 2023, section 3.4)."""
    return schedule.log_snr(t).exp().clamp(max=GAMMA)


def likelihood(schedule: Schedule, t: Tensor) -> Tensor:
    """steps/2 (SNR(s) - SNR(t)), s the index before, the weight of a squared error of x_0 in the variational bound.

    The mean of such a loss over the indices is the trained part of the bound of DDPM with the small variance, in nats
    a dimension. The first index is the decoder: a Gaussian around the estimate with the variance sigma^2 of that index.
    Source: Kingma et al. 2021, eq. 13 and 14; Ho et al. 2020, eq. 8 and 12 (the decoder, t = 1 there).
    """
    before = t.double() - 1 / schedule.steps
    is_first = before < 0.5 / schedule.steps
    snr_before = schedule.log_snr(torch.where(is_first, t.double(), before)).exp()
    difference = snr_before - schedule.log_snr(t).exp()
    return schedule.steps / 2 * torch.where(is_first, schedule.sigma(t) ** -2, difference)


_OF_X0: dict[str, Callable[[Schedule, Tensor], Tensor]] = {"min_snr": min_snr, "likelihood": likelihood}
WEIGHTINGS = ("plain", *_OF_X0)


def loss_weight(name: str, target: str, schedule: Schedule, t: Tensor) -> Tensor:
    """The weight of a squared error of the prediction of kind `target`; "plain" is 1 whatever the target.

    Of the others the weight of an error of x_0 is known, and that of a prediction is it over the factor by which
    the squared error of the prediction exceeds that of the x_0 it implies; 0 where x_0 does not depend on it.
    Shapes: t (N,); result (N,), float64.

    Raises: ValueError for an unknown name.
    """
    if name not in WEIGHTINGS:
        raise ValueError(f"no weighting '{name}': use one of {', '.join(WEIGHTINGS)}")
    if name == "plain":
        return torch.ones_like(t, dtype=torch.float64)
    exceeds = squared_error_ratio(target, schedule.alpha(t), schedule.sigma(t))
    return torch.where(exceeds > 0, _OF_X0[name](schedule, t) / exceeds, 0.0)


def squared_error_ratio(target: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """|prediction - target|^2 over |x_0 implied - x_0|^2 at the same x_t, by the conversions of `ldm.diffusion.target`.

    Raises: ValueError for an unknown target.
    """
    match target:
        case "eps":
            return (alpha / sigma) ** 2
        case "x0":
            return torch.ones_like(alpha)
        case "v":
            return ((alpha**2 + sigma**2) / sigma) ** 2
        case "flow":
            return ((alpha + sigma) / sigma) ** 2
    raise ValueError(f"no target '{target}'")
