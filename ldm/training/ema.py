"""Exponential moving average of weights, by its half-life in images."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """A copy of a module's parameters that is moved towards them, and its buffers as they are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def move(self, module: nn.Module, weight: float) -> None:
        """Takes in the module as it is now, by a weight from 0 to 1."""
        averaged: list[Tensor] = [p for p in self.module.parameters() if p.is_floating_point()]
        current = [p.detach() for p in module.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averaged, current, weight)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)


class ExponentialMovingAverage(Average):
    """Keeps an average copy of a module's parameters, and its buffers as they are.

    After n images the weight of what was there n = `half_life` images ago is one half. While fewer than
    `half_life / ramp` images were seen the half-life is `ramp` times that number, so that a short run is not averaged
    with its initialisation (Karras et al. 2022, Appendix F). With a `half_life` of infinity it is that always: the
    average spans the same share of a run of any length, about as the power function of Karras et al. 2023 does. No
    average looks ahead, so that after n images it is that of a run of n images.
    """

    def __init__(self, module: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        super().__init__(module)
        self.half_life = half_life
        self.ramp = ramp

    def update(self, module: nn.Module, batch: int, images_seen: int) -> None:
        """Takes in the weights after a step of `batch` images; `images_seen` counts that step."""
        half_life = min(self.half_life, self.ramp * images_seen)
        self.move(module, 1 - 0.5 ** (batch / max(half_life, 1e-8)))
