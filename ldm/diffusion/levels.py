"""The loss of a denoising model over all noise levels, from a few levels of each image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion.model import DenoisingModel
from ldm.randomness import SampleNoise, generator

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
) -> Tensor:
    """The loss of each image, a mean over `LEVELS_AN_IMAGE` levels, one drawn from each part of the schedule.

    Levels and noise are functions of (seed, index), so that models are compared at the same ones. `condition(part)` is
    that of these images, on the device, where `batch` of them are at work at a time.
    Shapes: latents (N, C, h, w), on the CPU; result (N,), float64, on the CPU.
    """
    steps, noise = model.schedule.steps, SampleNoise(seed, list(indices))
    drawn = torch.stack([torch.rand(LEVELS_AN_IMAGE, generator=generator(seed, "level", i)) for i in indices])
    total = torch.zeros(len(indices), dtype=torch.float64)
    for part in range(LEVELS_AN_IMAGE):
        levels = ((part + drawn[:, part].double()) / LEVELS_AN_IMAGE * steps).long()
        eps = noise(tuple(latents.shape[1:]))
        for first in range(0, len(indices), batch):
            own = slice(first, first + batch)
            z, e = latents[own].to(device), eps[own].to(device)
            error = model.loss(z, model.schedule.time(levels[own]), e, condition(own))
            total[own] += error.double().cpu() / LEVELS_AN_IMAGE
    return total
