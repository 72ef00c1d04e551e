"""Exponential moving average of weights, by its half-life in images."""

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Keeps an average copy of a module's parameters, and its buffers as they are.

    After n images the weight of what was there n = `half_life` images ago is one half. While fewer than
    `half_life / ramp` images were seen the half-life is `ramp` times that number, so that a short run is not averaged
    with its initialisation (Karras et al. 2022, Appendix F). With a `half_life` of infinity it is that always: the
    average spans the same share of a run of any length, about as the power function of Karras et al. 2023 does. No
    average looks ahead, so that after n images it is that of a run of n images.
    """

    def __init__(self, module: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        self.half_life = half_life
        self.ramp = ramp
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, batch: int, images_seen: int) -> None:
        """Takes in the weights after a step of `batch` images; `images_seen` counts that step."""
        half_life = min(self.half_life, self.ramp * images_seen)
        weight = 1 - 0.5 ** (batch / max(half_life, 1e-8))
        averaged: list[Tensor] = [p for p in self.module.parameters() if p.is_floating_point()]
        current = [p.detach() for p in module.parameters() if p.is_floating_point()]
        torch._foreach_lerp_(averaged, current, weight)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
