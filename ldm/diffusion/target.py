"""What the network predicts, and the conversions between noise, clean image and velocities.

All hold for any x_t = alpha x_0 + sigma eps, also where alpha^2 + sigma^2 is not 1.
"""

import torch
from torch import Tensor

TARGETS = ("eps", "x0", "v", "flow")


def x0_from_eps(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t - sigma eps) / alpha.

    0, the mean of normalised latents, where alpha is 0: of x_0 pure noise says nothing, and neither does its noise.
    """
    return torch.where(alpha == 0, 0.0, (x_t - sigma * eps) / alpha)


def eps_from_x0(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma."""
    return (x_t - alpha * x0) / sigma


def x0_from_v(v: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2) (Salimans and Ho 2022, for a sum of 1)."""
    return (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)


def x0_from_flow(velocity: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t - sigma u) / (alpha + sigma) for u = eps - x_0 (Lipman et al. 2023; Esser et al. 2024)."""
    return (x_t - sigma * velocity) / (alpha + sigma)


def target_of(name: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The quantity that a network with target `name` is trained to predict.

    v = alpha eps - sigma x_0; flow: eps - x_0, the velocity of the straight path from the image to the noise.
    """
    match name:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return alpha * eps - sigma * x0
        case "flow":
            return eps - x0
    raise ValueError(f"no target '{name}': use one of {', '.join(TARGETS)}")


def x0_from_prediction(name: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a prediction of kind `name` implies."""
    match name:
        case "eps":
            return x0_from_eps(prediction, x_t, alpha, sigma)
        case "x0":
            return prediction
        case "v":
            return x0_from_v(prediction, x_t, alpha, sigma)
        case "flow":
            return x0_from_flow(prediction, x_t, alpha, sigma)
    raise ValueError(f"no target '{name}': use one of {', '.join(TARGETS)}")


def prediction_from_x0(name: str, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The prediction of kind `name` that an estimate of the clean image implies: the inverse for sigma above 0."""
    return target_of(name, x0, eps_from_x0(x0, x_t, alpha, sigma), alpha, sigma)
