"""Classifier-free guidance and clipping: they wrap a denoising model, so that every sampler gets them for nothing."""

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition
from ldm.diffusion.model import Denoise, DenoisingModel


def guided(model: DenoisingModel, condition: Condition, null: Condition | None = None, scale: float = 1.0) -> Denoise:
    """uncond + scale (cond - uncond) on all channels, both from one batched call (Ho and Salimans 2022).

    `scale` 1 calls the network once and ignores `null`. The combination is made of x_0 estimates, which is the same
    as one of noise predictions, since both are affine in each other at a given x_t.

    Raises: ValueError for a scale other than 1 without a null condition.
    """
    if scale == 1:
        return lambda x_t, t: model.denoise(x_t, t, condition)
    if null is None:
        raise ValueError("guidance needs the null condition")
    both = null.cat(condition)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        without, given = model.denoise(torch.cat([x_t, x_t]), t, both).chunk(2)
        return without + scale * (given - without)

    return denoise


def clipped(denoise: Denoise, low: float, high: float) -> Denoise:
    """Clamps every x_0 estimate to the range that the training latents have."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)
