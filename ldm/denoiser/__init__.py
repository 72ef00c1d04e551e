"""Denoisers: (x_t, index, context, concat) -> tensor; they are independent of the diffusion."""

from ldm.denoiser.contract import ChecksSide, Denoiser
from ldm.denoiser.dit import DiT, DiTOptions
from ldm.denoiser.table import DENOISERS, denoiser_options
from ldm.denoiser.unet import UNet, UNetOptions

__all__ = ["DENOISERS", "ChecksSide", "Denoiser", "DiT", "DiTOptions", "UNet", "UNetOptions", "denoiser_options"]
