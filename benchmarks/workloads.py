"""Denoisers, images and latents that all contests share: the same network, with the same weights, in both programs."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.data.contract import ImageCache
from ldm.data.fields import Fields
from ldm.data.latents import CachedLatents
from ldm.first_stage import IdentityFirstStage, build_first_stage
from ldm.first_stage.latent_scale import LatentScale
from ldm.interop.diffusers_denoiser import unet_from_diffusers
from ldm.pretrained.torchvision_ops import ensure_torchvision

IMAGES, SIDE = 512, 32


@dataclass(frozen=True)
class Workload:
    """An unconditional UNet with attention on all levels but the first, on latents of `side` and f = 32 / side."""

    side: int
    widths: tuple[int, ...]
    batch: int

    @property
    def size(self) -> str:
        """How rows name it."""
        return f"{self.side} px"


WORKLOADS = (Workload(32, (32, 64, 128), 32), Workload(8, (96, 192), 64))


def diffusers_unet(work: Workload) -> Any:
    """The UNet of diffusers, with its first weights."""
    ensure_torchvision()
    from diffusers import UNet2DModel

    attended = len(work.widths) - 1
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=work.side,
        block_out_channels=work.widths,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * attended),
        up_block_types=(*["AttnUpBlock2D"] * attended, "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=16,
        norm_eps=1e-5,
    )


def our_unet(theirs: Any) -> torch.nn.Module:
    """The same network as this program runs it."""
    found = unet_from_diffusers(dict(theirs.config), theirs.state_dict())
    return found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@cache
def images() -> ImageCache:
    """Decoded images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    labels, seen = np.zeros(IMAGES, dtype=np.int64), np.zeros(IMAGES, dtype=np.bool_)
    return ImageCache(Path(), "noise", SIDE, (), ("",) * IMAGES, (), pixels, labels, seen)


@cache
def latents(side: int) -> CachedLatents:
    """Batches of latents of that side as this program draws them: pixels, or from posteriors of a KL first stage."""
    one = torch.ones(3, dtype=torch.float64)
    scale, no_fields = LatentScale(0 * one, one), Fields(images(), {})
    if side == SIDE:
        return CachedLatents(None, images(), IdentityFirstStage(), scale, "cpu", no_fields)
    torch.manual_seed(0)
    levels = (1,) * (SIDE // side).bit_length()
    model = build_first_stage(
        regulariser="kl",
        factor=SIDE // side,
        resolution=SIDE,
        channels=3,
        ch=8,
        ch_mult=levels,
        num_res_blocks=1,
        attn_sides=(),
        mid_attention=False,
        dropout=0.0,
        options={},
    ).eval()
    with torch.no_grad():
        everything = images().batch(np.arange(IMAGES))
        packed = model.pack(model.encode(everything)).numpy()
    return CachedLatents(packed, images(), model, scale, "cpu", no_fields)
