"""What the network predicts, and the conversions between noise, clean image and velocity."""

from torch import Tensor

TARGETS = ("eps", "x0", "v")


def x0_from_eps(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t - sigma eps) / alpha."""
    return (x_t - sigma * eps) / alpha


def eps_from_x0(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma."""
    return (x_t - alpha * x0) / sigma


def x0_from_v(v: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = alpha x_t - sigma v (Salimans and Ho 2022), for alpha^2 + sigma^2 = 1."""
    return alpha * x_t - sigma * v


def target_of(name: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The quantity that a network with target `name` is trained to predict; v = alpha eps - sigma x_0."""
    match name:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return alpha * eps - sigma * x0
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
    raise ValueError(f"no target '{name}': use one of {', '.join(TARGETS)}")
