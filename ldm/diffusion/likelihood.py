"""The variational bound of a denoising model, and progressive coding: what arrives by the time x_t is known.

A sender who has x_0 sends a receiver x_T, then x_t level by level down to the first index, each at the cost of a KL
divergence; from what has arrived the receiver guesses x_0. Bits received against the error of the guess are the model's
rate-distortion curve; all of it plus the decoder's cost of x_0 itself is the bound on -log p(x_0).
Source: Ho et al. 2020 (arXiv 2006.11239), eq. 5, eq. 13 and section 4.3; Kingma et al. 2021, eq. 13 (any levels).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.model import Denoise
from ldm.diffusion.schedule import Schedule
from ldm.randomness import Noise

GREY_LEVEL = 2 / 255
"""Distance of two neighbouring grey levels in images in [-1, 1]."""


@dataclass(frozen=True)
class Received:
    """What a receiver has when x_t is known: the nats that it cost (N,), float64, and the estimate of x_0."""

    t: float
    nats: Tensor
    estimate: Tensor


def coding_times(schedule: Schedule, levels: int | None = None) -> Tensor:
    """The falling noise levels of a chain: all indices of the schedule, or `levels` of them, evenly, with both ends.

    A chain of fewer levels has a bound of its own, which is looser. Shapes: (levels,), float64.

    Raises: ValueError for fewer than two levels or more than the schedule has.
    """
    levels = schedule.steps if levels is None else levels
    if not 2 <= levels <= schedule.steps:
        raise ValueError(f"a chain of {levels} levels is outside 2 to {schedule.steps}")
    return schedule.time(torch.linspace(schedule.steps - 1, 0, levels, dtype=torch.float64).round())


def received(denoise: Denoise, schedule: Schedule, x0: Tensor, times: Tensor, noise: Noise) -> Iterator[Received]:
    """Yields what is received at each of the falling `times`, noisiest first.

    The first costs KL(q(x_T | x_0) || N(0, I)); from t to the next s one sends x_s, at the cost of the KL divergence
    of the posterior at x_0 from that at the estimate, 1/2 (SNR(s) - SNR(t)) |x_0 - estimate|^2 (the small variance).
    Each x_t is a draw from q(x_t | x_0) of its own, which leaves the mean of every term as it is.

    Shapes: x0 (N, C, H, W), in float64 for float64 results.
    """
    nats = prior_nats(schedule, x0, times[0])
    snr = schedule.log_snr(times).exp().tolist()
    for position, t in enumerate(times):
        x_t = schedule.alpha(t).item() * x0 + schedule.sigma(t).item() * noise(tuple(x0.shape[1:])).to(x0)
        estimate = denoise(x_t, t)
        yield Received(float(t), nats, estimate)
        if position + 1 < len(times):
            error = (x0 - estimate).double().square().flatten(1).sum(1)
            nats = nats + (snr[position + 1] - snr[position]) / 2 * error


def prior_nats(schedule: Schedule, x0: Tensor, t: Tensor) -> Tensor:
    """KL(q(x_t | x_0) || N(0, I)) of each image: (N, C, H, W) -> (N,), float64."""
    alpha, variance = schedule.alpha(t).item(), schedule.sigma(t).item() ** 2
    spread = variance - 1 - math.log(variance)
    return ((alpha * x0.double()).square() + spread).flatten(1).sum(1) / 2


def gaussian_nats(x0: Tensor, mean: Tensor, std: float) -> Tensor:
    """-log density of x_0 under N(mean, std^2), the decoder of continuous latents: (N, C, H, W) -> (N,), float64."""
    deviation = (x0.double() - mean.double()) / std
    return (deviation.square() / 2 + math.log(std) + math.log(2 * math.pi) / 2).flatten(1).sum(1)


def discretised_nats(x0: Tensor, mean: Tensor, std: float | Tensor) -> Tensor:
    """-log probability of 8-bit images under the Gaussian's mass of each grey level, the outermost to infinity.

    Shapes: (N, C, H, W) -> (N,), float64; x0 the grey levels k / 127.5 - 1, std a number or of a shape that fits them.
    Source: Ho et al. 2020, eq. 13.
    """
    x, centre = x0.double(), mean.double()
    upper = torch.where(x > 1 - GREY_LEVEL / 2, torch.inf, (x - centre + GREY_LEVEL / 2) / std)
    lower = torch.where(x < -1 + GREY_LEVEL / 2, -torch.inf, (x - centre - GREY_LEVEL / 2) / std)
    # Mirrored to the left tail, where the logarithm of the distribution function is exact however far out.
    is_right = x > centre
    far, near = torch.where(is_right, -upper, lower), torch.where(is_right, -lower, upper)
    log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    return -(log_near + torch.log1p(-torch.exp(log_far - log_near))).flatten(1).sum(1)
