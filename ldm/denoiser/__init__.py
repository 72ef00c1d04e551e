"""Denoisers: (x_t, index, context, concat) -> tensor; they know no diffusion."""

from ldm.denoiser.unet import UNet

__all__ = ["UNet"]
