"""Samplers: one loop, one small step function each, and the grids of noise levels they visit."""

from ldm.samplers.ddim import DDIM
from ldm.samplers.loop import Noise, Sampler, sample
from ldm.samplers.spacing import step_indices, time_grid

__all__ = ["DDIM", "Noise", "Sampler", "sample", "step_indices", "time_grid"]
