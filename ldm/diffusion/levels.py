"""The loss of a denoising model over all noise levels, and within bins of them, from a few levels of each image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion.model import DenoisingModel, per_image
from ldm.diffusion.schedule import Schedule, time_at
from ldm.diffusion.times import UNIFORM, TimeDensity
from ldm.randomness import SampleNoise, derived_seed, generator

LEVELS_AN_IMAGE = 8
"""Noise levels at which a model is asked about each image, one of each eighth of the schedule."""


def loss_over_levels(
    model: DenoisingModel,
    latents: Tensor,
    indices: Sequence[int],
    seed: int,
    condition: Callable[[slice], Condition],
    device: torch.device | str,
    batch: int,
    times: TimeDensity = UNIFORM,
) -> Tensor:
    """The loss of each image, a mean over `LEVELS_AN_IMAGE` levels, one drawn from each part of the schedule.

    With `times` the parts are as often drawn as each other, and the mean is that of a training with them.

    Levels and noise are functions of (seed, index), so that models are compared at the same ones. `condition(part)` is
    that of these images, on the device, where `batch` of them are at work at a time.
    Shapes: latents (N, C, h, w), on the CPU; result (N,), float64, on the CPU.
    """
    steps, noise = model.schedule.steps, SampleNoise(seed, list(indices))
    counts = times.weights(steps)
    drawn = torch.stack([torch.rand(LEVELS_AN_IMAGE, generator=generator(seed, "level", i)) for i in indices])
    total = torch.zeros(len(indices), dtype=torch.float64)
    for part in range(LEVELS_AN_IMAGE):
        levels = times.at((part + drawn[:, part].double()) / LEVELS_AN_IMAGE, steps)
        eps = noise(tuple(latents.shape[1:]))
        for first in range(0, len(indices), batch):
            own = slice(first, first + batch)
            z, e = latents[own].to(device), eps[own].to(device)
            error = model.loss(z, model.schedule.time(levels[own]), e, condition(own))
            total[own] += counts[levels[own]] * error.double().cpu() / LEVELS_AN_IMAGE
    return total


BINS = tuple((low, low + 2) for low in range(-8, 8, 2))
"""Ranges of log-SNR in which models are compared, whichever schedule they were trained with; most noise first."""


def trained_bins(schedule: Schedule) -> tuple[tuple[int, int], ...]:
    """The `BINS` that lie within a schedule's indices."""
    most, least = schedule.log_snr(schedule.time(torch.tensor([0, schedule.steps - 1]))).tolist()
    return tuple((low, high) for low, high in BINS if least <= low and high <= most)


def error_within(
    model: DenoisingModel,
    latents: Tensor,
    indices: Sequence[int],
    bin: tuple[int, int],
    seed: int,
    condition: Callable[[slice], Condition],
    device: torch.device | str,
    batch: int,
) -> Tensor:
    """The squared error of v of each image at a log-SNR drawn evenly from a bin, a mean over the image.

    v = (alpha eps - sigma x_0) / sqrt(alpha^2 + sigma^2), whatever the network predicts, whose error is that of x_0
    times 1 + SNR. So models of different schedules and targets are compared alike, and one that knows the
    variance of normalised latents alone has an error of 1. Levels and noise are functions of (seed, bin, index).
    Shapes: latents (N, C, h, w), on the CPU; result (N,), float64, on the CPU.
    """
    low, high = bin
    drawn = torch.tensor([torch.rand((), generator=generator(seed, "level", low, i)).item() for i in indices])
    log_snr = low + (high - low) * drawn.double()
    times = time_at(model.schedule, log_snr)
    eps, found = SampleNoise(derived_seed(seed, "noise", low), list(indices))(tuple(latents.shape[1:])), list[Tensor]()
    for first in range(0, len(indices), batch):
        own = slice(first, first + batch)
        z, e, t = latents[own].to(device), eps[own].to(device), times[own]
        x_t = per_image(model.schedule.alpha(t), z) * z + per_image(model.schedule.sigma(t), z) * e
        error = (model.denoise(x_t, t, condition(own)) - z).double().square().flatten(1).mean(1).cpu()
        found.append((1 + log_snr[own].exp()) * error)
    return torch.cat(found)
