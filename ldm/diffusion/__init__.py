"""Diffusion: schedules, targets, the denoising model and guidance; is handed a network and imports none."""

from ldm.diffusion.guidance import Guidance, autoguided, clipped, guided
from ldm.diffusion.model import Denoise, DenoisingModel
from ldm.diffusion.schedule import FlowSchedule, Schedule, VariancePreservingSchedule, make_schedule

__all__ = [
    "Denoise",
    "DenoisingModel",
    "FlowSchedule",
    "Guidance",
    "Schedule",
    "VariancePreservingSchedule",
    "autoguided",
    "clipped",
    "guided",
    "make_schedule",
]
