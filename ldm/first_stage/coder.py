"""Encoder and decoder of the first stages, and what every family of them has in common.

Source: Rombach et al., arXiv 2112.10752, appendix G, after Esser et al., arXiv 2012.09841, table 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.layers import Recomputable, normalised, scaled_attention

NORM_GROUPS = 32
"""Groups of every normalisation in the paper's networks."""

IMAGE_CHANNELS = 3


class ImageEncoder(nn.Module):
    """Image (N, in_channels, H, W) to features (N, z_channels, H / factor, W / factor), 2 z_channels of a Gaussian.

    `head` is its last convolution.
    """

    factor: int
    z_channels: int
    head: nn.Conv2d

    def require_fitting(self, image: Tensor) -> None:
        """Raises: ValueError where a side of the image (N, in_channels, H, W) is no multiple of `factor`."""
        if image.shape[-1] % self.factor or image.shape[-2] % self.factor:
            raise ValueError(f"image sides {tuple(image.shape[-2:])} are no multiples of f = {self.factor}")


class ImageDecoder(nn.Module):
    """Features (N, z_channels, h, w) to image (N, out_channels, h * factor, w * factor); `head` is its last layer."""

    factor: int
    z_channels: int
    head: nn.Conv2d


def norm_groups(narrowest: int, deepest: int, latent_side: int) -> int:
    """How many groups the normalisations have: the paper's 32 wherever they leave enough to normalise over.

    A group has 4 channels at least, as the paper's narrowest layers (128 in 32 groups): with one channel a group, the
    last normalisation of the decoder all but removes the mean colour. It also has 16 values at least at the latent's
    side: at side 1, a group of one value would always be normalised to zero.
    """
    return max(1, min(NORM_GROUPS, narrowest // 4, deepest * latent_side**2 // 16))


def group_norm(channels: int, groups: int = NORM_GROUPS) -> nn.GroupNorm:
    """Group normalisation with the largest number of groups up to `groups` that divides `channels`."""
    fitting = next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(fitting, channels, eps=1e-6)


class ResidualBlock(Recomputable):
    """Twice normalise, swish, 3x3 convolution, added to the (if need be projected) input."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The block of x: (N, in_channels, H, W) to (N, out_channels, H, W)."""
        h = self.conv1(F.silu(normalised(self.norm1, x)))
        h = self.conv2(self.dropout(F.silu(normalised(self.norm2, h))))
        return self.shortcut(x) + h

    def start_quiet(self) -> None:
        """The branch adds nothing."""
        nn.init.zeros_(self.conv2.weight)


class SelfAttention(Recomputable):
    """Single-head self-attention over all positions, added to its input."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, norm_groups)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x with what it attends to added: (N, channels, H, W), result alike."""
        h = normalised(self.norm, x)
        query, key, value = (
            layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.query, self.key, self.value)
        )
        attended = scaled_attention(query, key, value)
        return x + self.project(attended.squeeze(1).transpose(1, 2).reshape(x.shape))

    def start_quiet(self) -> None:
        """The branch adds nothing."""
        nn.init.zeros_(self.project.weight)


class Downsample(nn.Module):
    """Halves the side by a 3x3 convolution of stride 2, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x at half its side: (N, C, H, W) to (N, C, H / 2, W / 2)."""
        return self.conv(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """x as the convolution takes it, padded: (N, C, H, W) to (N, C, H + 1, W + 1)."""
        return F.pad(x, (0, 1, 0, 1))


class Upsample(nn.Module):
    """Doubles the side by nearest neighbour and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x at twice its side: (N, C, H, W) to (N, C, 2 H, 2 W)."""
        return self.conv(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """x as the convolution takes it, enlarged: (N, C, H, W) to (N, C, 2 H, 2 W)."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Level(nn.Module):
    """Residual blocks at one side length, each followed by attention where the level has it, then a change of side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: int,
        attention: bool,
        resample: nn.Module,
        dropout: float,
        norm_groups: int,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, dropout, norm_groups) for before, after in pairwise(widths)
        )
        self.attentions = nn.ModuleList(
            SelfAttention(out_channels, norm_groups) if attention else nn.Identity() for _ in range(blocks)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """x after all blocks: (N, in_channels, H, W) to (N, out_channels, H', W')."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = attention(block(x))
        return self.resample(x)


def middle(channels: int, attention: bool, dropout: float, norm_groups: int) -> nn.Sequential:
    """The blocks at the latent's side: residual, attention, residual."""
    return nn.Sequential(
        ResidualBlock(channels, channels, dropout, norm_groups),
        SelfAttention(channels, norm_groups) if attention else nn.Identity(),
        ResidualBlock(channels, channels, dropout, norm_groups),
    )


def attended_levels(resolution: int, levels: int, attn_sides: Sequence[int]) -> list[bool]:
    """For each level, from the image's side downwards, whether it has attention.

    Raises: UserError where a side in `attn_sides` belongs to no level.
    """
    sides = [resolution // 2**level for level in range(levels)]
    for side in attn_sides:
        if side not in sides:
            raise UserError(
                f"attn_sides names {side}, but a first stage of {resolution} px with {levels} levels has the feature "
                f"sides {', '.join(map(str, sides))}: choose among these."
            )
    return [side in attn_sides for side in sides]


class Encoder(ImageEncoder):
    """Image (N, in_channels, H, W) to features (N, z_channels, H / factor, W / factor), 2 z_channels with `double_z`.

    Level i has width ch * ch_mult[i] and `num_res_blocks` blocks; factor = 2^(levels - 1). Where attention stands is
    settled here, by the feature sides that an image of `resolution` gives (`attn_sides`); images of other sizes pass
    through the same layers.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        z_channels: int,
        double_z: bool,
        ch: int,
        ch_mult: Sequence[float],
        num_res_blocks: int,
        resolution: int,
        attn_sides: Sequence[int],
        mid_attention: bool,
        dropout: float,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.z_channels = z_channels
        self.factor = 2 ** (len(ch_mult) - 1)
        widths = [round(ch * multiplier) for multiplier in (1, *ch_mult)]
        attended = attended_levels(resolution, len(ch_mult), attn_sides)
        last = len(ch_mult) - 1
        self.stem = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                widths[i],
                widths[i + 1],
                num_res_blocks,
                attended[i],
                nn.Identity() if i == last else Downsample(widths[i + 1]),
                dropout,
                norm_groups,
            )
            for i in range(len(ch_mult))
        )
        self.middle = middle(widths[-1], mid_attention, dropout, norm_groups)
        self.norm = group_norm(widths[-1], norm_groups)
        self.head = nn.Conv2d(widths[-1], 2 * z_channels if double_z else z_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """The features of an image. Shapes: as the class states.

        Raises: ValueError where a side of the image is no multiple of `factor`.
        """
        self.require_fitting(image)
        h = self.stem(image)
        for level in self.levels:
            h = level(h)
        return self.head(F.silu(normalised(self.norm, self.middle(h))))


class Decoder(ImageDecoder):
    """Features (N, z_channels, h, w) to image (N, out_channels, h * factor, w * factor).

    Mirrors `Encoder`, with num_res_blocks + 1 blocks a level; `levels` stand in the order in which they run, from the
    latent's side upwards.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        z_channels: int,
        ch: int,
        ch_mult: Sequence[float],
        num_res_blocks: int,
        resolution: int,
        attn_sides: Sequence[int],
        mid_attention: bool,
        dropout: float,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.z_channels = z_channels
        self.factor = 2 ** (len(ch_mult) - 1)
        widths = [round(ch * multiplier) for multiplier in reversed((*ch_mult, ch_mult[-1]))]
        attended = attended_levels(resolution, len(ch_mult), attn_sides)[::-1]
        last = len(ch_mult) - 1
        self.stem = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.middle = middle(widths[0], mid_attention, dropout, norm_groups)
        self.levels = nn.ModuleList(
            Level(
                widths[i],
                widths[i + 1],
                num_res_blocks + 1,
                attended[i],
                nn.Identity() if i == last else Upsample(widths[i + 1]),
                dropout,
                norm_groups,
            )
            for i in range(len(ch_mult))
        )
        self.norm = group_norm(widths[-1], norm_groups)
        self.head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """The image, not clamped. Shapes: as the class states."""
        h = self.middle(self.stem(features))
        for level in self.levels:
            h = level(h)
        return self.head(F.silu(normalised(self.norm, h)))


Family = Callable[["Coders", bool], tuple[ImageEncoder, ImageDecoder]]
"""Makes an encoder and a decoder of stated sizes; with True the encoder gives 2 `channels`."""


def reference_coders(coders: Coders, double_z: bool) -> tuple[Encoder, Decoder]:
    """Those of Rombach et al.; see `Family`."""
    narrowest, deepest = coders.ch * min(1, *coders.ch_mult), coders.ch * coders.ch_mult[-1]
    groups = norm_groups(narrowest, deepest, coders.resolution // coders.factor)
    shared: dict[str, Any] = {
        "z_channels": coders.channels,
        "ch": coders.ch,
        "ch_mult": coders.ch_mult,
        "num_res_blocks": coders.num_res_blocks,
        "resolution": coders.resolution,
        "attn_sides": coders.attn_sides,
        "mid_attention": coders.mid_attention,
        "dropout": coders.dropout,
        "norm_groups": groups,
    }
    encoder = Encoder(in_channels=IMAGE_CHANNELS, double_z=double_z, **shared)
    return encoder, Decoder(out_channels=IMAGE_CHANNELS, **shared)


@dataclass(frozen=True)
class Coders:
    """The sizes of an encoder and a decoder that belong together, for images of `resolution` and latents of `channels`.

    `family` makes the two networks of these sizes; those of Rombach et al. where nothing else is said.
    Raises: UserError, when they are made, where there are other levels than `factor` takes.
    """

    factor: int
    channels: int
    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    resolution: int
    attn_sides: Sequence[int]
    mid_attention: bool
    dropout: float
    family: Family = reference_coders

    def make(self, double_z: bool = False) -> tuple[ImageEncoder, ImageDecoder]:
        """Both with random weights; with `double_z` the encoder gives 2 `channels`."""
        if 2 ** (len(self.ch_mult) - 1) != self.factor:
            raise UserError(
                f"ae.architecture.ch_mult={list(self.ch_mult)} has {len(self.ch_mult)} levels, but ae.f={self.factor} "
                f"takes {self.factor.bit_length()}: give one multiplier for each halving and one more."
            )
        return self.family(self, double_z)
