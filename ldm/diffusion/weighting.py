"""How much each noise level counts in the loss."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.diffusion.target import TARGETS
from ldm.parts import look_up

Weight = Callable[[Schedule, Tensor], Tensor]
Weighting = Callable[[str, Schedule, Tensor], Tensor]

GAMMA = 5.0
"""The cap of min-SNR (Hang et al. 2023, section 3.4)."""


def min_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """min(SNR, gamma), the weight of a squared error of x_0 (Hang et al. 2023, section 3.4); (N,) for t (N,)."""
    return schedule.log_snr(t).exp().clamp(max=GAMMA)


def likelihood(schedule: Schedule, t: Tensor) -> Tensor:
    """steps/2 (SNR(s) - SNR(t)), s the index before, the weight of a squared error of x_0 in the variational bound.

    The mean of such a loss over the indices is the trained part of the bound of DDPM with the small variance, in nats a
    dimension. The first index is the decoder: a Gaussian around the estimate with the variance sigma^2 of that index.
    Shapes: t (N,); result (N,), float64.
    Source: Kingma et al. 2021, eq. 13 and 14; Ho et al. 2020, eq. 8 and 12 (the decoder, t = 1 there).
    """
    before = t.double() - 1 / schedule.steps
    is_first = before < 0.5 / schedule.steps
    snr_before = schedule.log_snr(torch.where(is_first, t.double(), before)).exp()
    difference = snr_before - schedule.log_snr(t).exp()
    return schedule.steps / 2 * torch.where(is_first, schedule.sigma(t) ** -2, difference)


def of_prediction(weight: Weight) -> Weighting:
    """The weight of a prediction's squared error, where `weight` is that of an error of the x_0 it implies.

    It is that weight over the factor by which the squared error of the prediction exceeds that of x_0; 0 where x_0 does
    not depend on the prediction.
    """

    def weighting(target: str, schedule: Schedule, t: Tensor) -> Tensor:
        ratio = look_up(TARGETS, target, "diffusion.target").error_ratio(schedule.alpha(t), schedule.sigma(t))
        return torch.where(ratio > 0, weight(schedule, t) / ratio, 0.0)

    return weighting


def plain(target: str, schedule: Schedule, t: Tensor) -> Tensor:
    """1 at every noise level, whatever the target; t (N,) to (N,), float64."""
    return torch.ones_like(t, dtype=torch.float64)


WEIGHTINGS: Mapping[str, Weighting] = {
    "plain": plain,
    "min_snr": of_prediction(min_snr),
    "likelihood": of_prediction(likelihood),
}
"""(target, schedule, t) -> the weight of a squared error of the prediction, by name."""


def loss_weight(name: str, target: str, schedule: Schedule, t: Tensor) -> Tensor:
    """The weight of a squared error of the prediction of kind `target`.

    Shapes: t (N,); result (N,), float64. Raises: UserError for an unknown name or target.
    """
    return look_up(WEIGHTINGS, name, "diffusion.weighting")(target, schedule, t)
