"""Samplers: one loop, one small step function each, and the grids of noise levels they visit."""

from ldm.samplers.ddim import DDIM
from ldm.samplers.ddpm import DDPM
from ldm.samplers.dpmpp import DPMSolverPlusPlus
from ldm.samplers.euler import Euler
from ldm.samplers.heun import Heun
from ldm.samplers.loop import Sampler, asked_levels, sample
from ldm.samplers.plms import PLMS
from ldm.samplers.spacing import shifted, step_indices, time_grid
from ldm.samplers.table import SAMPLERS, build_sampler, inactive_options, own_options, sampler_axes
from ldm.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "PLMS",
    "SAMPLERS",
    "DPMSolverPlusPlus",
    "Euler",
    "Heun",
    "Sampler",
    "UniPC",
    "asked_levels",
    "build_sampler",
    "inactive_options",
    "own_options",
    "sample",
    "sampler_axes",
    "shifted",
    "step_indices",
    "time_grid",
]
