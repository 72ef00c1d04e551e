"""What the network predicts, and the conversions between noise, clean image and velocities.

All hold for any x_t = alpha x_0 + sigma eps, also where alpha^2 + sigma^2 is not 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.parts import look_up


def x0_from_eps(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t - sigma eps) / alpha.

    0, the mean of normalised latents, where alpha is 0: pure noise says nothing of x_0, and neither does its noise.
    Shapes: eps and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    """
    return torch.where(alpha == 0, 0.0, (x_t - sigma * eps) / alpha)


def eps_from_x0(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma.

    Shapes: x0 and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    """
    return (x_t - alpha * x0) / sigma


def x0_from_v(v: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2) (Salimans and Ho 2022, for a sum of 1).

    Shapes: v and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    """
    return (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)


def x0_from_flow(velocity: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t - sigma u) / (alpha + sigma) for u = eps - x_0 (Lipman et al. 2023; Esser et al. 2024).

    Shapes: velocity and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    """
    return (x_t - sigma * velocity) / (alpha + sigma)


@dataclass(frozen=True)
class Target:
    """What a network may predict at x_t = alpha x_0 + sigma eps.

    `of(x_0, eps, alpha, sigma)` is the prediction to be learnt, `x0(prediction, x_t, alpha, sigma)` the clean image
    that one implies, `error_ratio(alpha, sigma)` its squared error over that of the x_0 that it implies.
    """

    of: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    error_ratio: Callable[[Tensor, Tensor], Tensor]


TARGETS: Mapping[str, Target] = {
    "eps": Target(
        of=lambda x0, eps, alpha, sigma: eps,
        x0=x0_from_eps,
        error_ratio=lambda alpha, sigma: (alpha / sigma) ** 2,
    ),
    "x0": Target(
        of=lambda x0, eps, alpha, sigma: x0,
        x0=lambda prediction, x_t, alpha, sigma: prediction,
        error_ratio=lambda alpha, sigma: torch.ones_like(alpha),
    ),
    "v": Target(
        of=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
        x0=x0_from_v,
        error_ratio=lambda alpha, sigma: ((alpha**2 + sigma**2) / sigma) ** 2,
    ),
    "flow": Target(
        of=lambda x0, eps, alpha, sigma: eps - x0,
        x0=x0_from_flow,
        error_ratio=lambda alpha, sigma: ((alpha + sigma) / sigma) ** 2,
    ),
}
"""Noise, clean image, v, and the velocity of the straight path from the image to the noise, by name."""


def target_of(name: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The quantity that a network with target `name` is trained to predict.

    Shapes: x0 and eps (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    Raises: UserError for an unknown name.
    """
    return look_up(TARGETS, name, "diffusion.target").of(x0, eps, alpha, sigma)


def x0_from_prediction(name: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a prediction of kind `name` implies.

    Shapes: prediction and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    Raises: UserError for an unknown name.
    """
    return look_up(TARGETS, name, "diffusion.target").x0(prediction, x_t, alpha, sigma)


def prediction_from_x0(name: str, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The prediction of kind `name` that an estimate of the clean image implies: the inverse for sigma above 0.

    Shapes: x0 and x_t (N, C, H, W), alpha and sigma broadcastable to them; result alike.
    Raises: UserError for an unknown name.
    """
    return target_of(name, x0, eps_from_x0(x0, x_t, alpha, sigma), alpha, sigma)


def error_ratio(name: str, other: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The squared error of target `name` over that of the prediction of `other` that implies it.

    0 where x_0 does not depend on that prediction. Shapes: alpha and sigma alike; result as they.
    Raises: UserError for an unknown name.
    """
    ours, others = (look_up(TARGETS, each, "diffusion.target").error_ratio(alpha, sigma) for each in (name, other))
    return torch.where(others > 0, ours / others, 0.0)
