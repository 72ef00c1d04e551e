"""Encoder and decoder whose changes of side are residual, so that side can be traded for channels up to f = 64.

A change of side is a convolution added to a shortcut without weights: pixels into channels, which are then averaged in
groups (encoder), or channels duplicated and then into pixels (decoder). The latent has such shortcuts too. Where the
paper leaves a number of channels that groups do not divide, they are duplicated to a common multiple and then averaged.

Source: Chen et al., arXiv 2410.10733, section 3.2 and figure 4; of the blocks with attention, Cai et al., arXiv
2205.14756, section 3.1, and Xie et al., arXiv 2410.10629, section 2.2 (the gated convolutions behind it).
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.coder import IMAGE_CHANNELS, Coders, ImageDecoder, ImageEncoder, attended_levels
from ldm.layers import HALF_PRECISION, Recomputable

NORM_EPSILON: Final = 1e-5

SIDE: Final = 2
"""By which a level changes the side of feature maps."""

HEAD_CHANNELS: Final = 32
"""Of an attention head, or all that there are."""

ATTENTION_EPSILON: Final = 1e-15
"""Beside the sum of weights: a query may have nothing in common with any key."""

EXPANSION: Final = 4
"""Of channels within a gated convolution."""


def with_channels(x: Tensor, channels: int) -> Tensor:
    """x with another number of channels: duplicated, or averaged in groups, each channel beside the next.

    Shapes: x (N, C, H, W); result (N, channels, H, W).
    """
    common = math.lcm(x.shape[1], channels)
    return x.repeat_interleave(common // x.shape[1], dim=1).unflatten(1, (channels, -1)).mean(2)


class ChannelNorm(nn.Module):
    """Divides the channels of each position by their root mean square; with a gain and an offset for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Computed in float32 at least, in x's dtype. Shapes: (N, channels, H, W), result alike."""
        exact = x.float() if x.dtype in HALF_PRECISION else x
        scaled = exact * torch.rsqrt(exact.square().mean(1, keepdim=True) + NORM_EPSILON)
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class Residual(Recomputable):
    """A branch that ends in a normalisation, added to its input."""

    def __init__(self, channels: int, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x and its branch: (N, channels, H, W), result alike."""
        return x + self.norm(self.branch(x))

    def start_quiet(self) -> None:
        """The branch adds nothing."""
        nn.init.zeros_(self.norm.weight)


def convolutions(channels: int, dropout: float) -> nn.Sequential:
    """3x3 convolution, swish, 3x3 convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
    )


class LinearAttention(nn.Module):
    """Attention whose weights are products of rectified queries and keys, at two scales: positions and 5x5 windows.

    Each head at each scale attends as sum_j relu(q)·relu(k_j) v_j / sum_j relu(q)·relu(k_j), whose cost is linear in
    the number of positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head_channels = min(HEAD_CHANNELS, channels)
        heads = channels // self.head_channels
        inner = heads * self.head_channels
        self.qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.windows = nn.Sequential(
            nn.Conv2d(3 * inner, 3 * inner, 5, padding=2, groups=3 * inner, bias=False),
            nn.Conv2d(3 * inner, 3 * inner, 1, groups=3 * heads, bias=False),
        )
        self.project = nn.Conv2d(2 * inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What each position attends to: (N, channels, H, W), result alike."""
        qkv = self.qkv(x)
        scales = torch.cat((qkv, self.windows(qkv)), dim=1)
        heads = scales.flatten(2).unflatten(1, (-1, 3 * self.head_channels))
        attended = linearly_attended(*heads.chunk(3, dim=2))
        return self.project(attended.flatten(1, 2).unflatten(2, x.shape[2:]))


def linearly_attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The weighted means of `LinearAttention`, in float32 at least. Shapes: all (N, heads, d, positions)."""
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = (part.float() if part.dtype in HALF_PRECISION else part for part in (query, key, value))
        q, k = torch.relu(q), torch.relu(k)
        total = k.sum(-1)[:, :, None] @ q
        return ((v @ k.transpose(-1, -2)) @ q / (total + ATTENTION_EPSILON)).to(query.dtype)


class GatedConvolutions(nn.Module):
    """A depthwise convolution of more channels, half of which gate the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * EXPANSION * channels
        self.widen = nn.Conv2d(channels, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.narrow = nn.Conv2d(inner // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), result alike."""
        value, gate = self.depthwise(F.silu(self.widen(x))).chunk(2, dim=1)
        return self.narrow(value * F.silu(gate))


def block(channels: int, attention: bool, dropout: float) -> nn.Module:
    """Convolutions, or attention and gated convolutions behind it, each added to its input."""
    if not attention:
        return Residual(channels, convolutions(channels, dropout))
    return nn.Sequential(Residual(channels, LinearAttention(channels)), Residual(channels, GatedConvolutions(channels)))


class SpaceToChannel(nn.Module):
    """Halves the side: a convolution whose pixels become channels, and the input's pixels averaged as channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels // SIDE**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
        shortcut = with_channels(F.pixel_unshuffle(x, SIDE), self.out_channels)
        return F.pixel_unshuffle(self.conv(x), SIDE) + shortcut

    def start_quiet(self) -> None:
        """The shortcut alone."""
        nn.init.zeros_(self.conv.weight)


class ChannelToSpace(nn.Module):
    """Doubles the side: a convolution whose channels become pixels, and the input's channels duplicated as pixels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels * SIDE**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2 H, 2 W)."""
        return F.pixel_shuffle(self.conv(x) + with_channels(x, self.conv.out_channels), SIDE)

    def start_quiet(self) -> None:
        """The shortcut alone."""
        nn.init.zeros_(self.conv.weight)


def levels(
    widths: Sequence[int],
    attended: Sequence[bool],
    blocks: int,
    resample: Callable[[int, int], nn.Module],
    dropout: float,
) -> nn.ModuleList:
    """A change of side, but for the first level, and blocks at that side, in the order in which they run."""
    found = nn.ModuleList()
    for i, width in enumerate(widths):
        enter = [resample(widths[i - 1], width)] if i else []
        found.append(nn.Sequential(*enter, *(block(width, attended[i], dropout) for _ in range(blocks))))
    return found


class DCEncoder(ImageEncoder):
    """An `ImageEncoder` of one level a side, with factor = 2^(levels - 1), and residual changes of side.

    Level i has width ch * ch_mult[i] and `num_res_blocks` blocks, with attention where an image of `resolution` has one
    of `attn_sides` there. The last features' channels, averaged in groups, are added to the latent: of 2 z_channels to
    the first half, the means, since the noise on a latent has nothing to do with its features.
    """

    def __init__(self, coders: Coders, double_z: bool) -> None:
        super().__init__()
        self.z_channels, self.factor = coders.channels, coders.factor
        widths, attended = _sizes(coders)
        self.stem = nn.Conv2d(IMAGE_CHANNELS, widths[0], 3, padding=1)
        self.levels = levels(widths, attended, coders.num_res_blocks, SpaceToChannel, coders.dropout)
        self.head = nn.Conv2d(widths[-1], (1 + double_z) * coders.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """The features of an image. Shapes: as the class states.

        Raises: ValueError where a side of the image is no multiple of `factor`.
        """
        self.require_fitting(image)
        h = self.stem(image)
        for level in self.levels:
            h = level(h)
        without = self.head.out_channels - self.z_channels
        return self.head(h) + F.pad(with_channels(h, self.z_channels), (0, 0, 0, 0, 0, without))


class DCDecoder(ImageDecoder):
    """An `ImageDecoder` that mirrors `DCEncoder`; `levels` stand in the order in which they run, the latent's first."""

    def __init__(self, coders: Coders) -> None:
        super().__init__()
        self.z_channels, self.factor = coders.channels, coders.factor
        widths, attended = _sizes(coders)
        widths, attended = widths[::-1], attended[::-1]
        self.stem = nn.Conv2d(coders.channels, widths[0], 3, padding=1)
        self.levels = levels(widths, attended, coders.num_res_blocks, ChannelToSpace, coders.dropout)
        self.norm = ChannelNorm(widths[-1])
        self.head = nn.Conv2d(widths[-1], IMAGE_CHANNELS, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """The image, not clamped. Shapes: as the class states."""
        h = self.stem(features) + with_channels(features, self.stem.out_channels)
        for level in self.levels:
            h = level(h)
        return self.head(torch.relu(self.norm(h)))


def dc_coders(coders: Coders, double_z: bool) -> tuple[DCEncoder, DCDecoder]:
    """See `ldm.first_stage.coder.Family`. Raises: UserError for sizes that this family does not have."""
    wrong = [width for multiplier in coders.ch_mult[1:] if (width := round(coders.ch * multiplier)) % SIDE**2]
    if wrong:
        raise UserError(
            f"ae.architecture.family=dc makes {SIDE**2} channels of a pixel, so a level of {wrong[0]} channels "
            f"(ae.architecture.ch={coders.ch} times one of ae.architecture.ch_mult={list(coders.ch_mult)}) cannot be: "
            f"choose multiples of {SIDE**2}."
        )
    if not coders.mid_attention:
        raise UserError(
            "ae.architecture.mid_attention=false: ae.architecture.family=dc has no blocks beyond its levels, whose "
            "attention ae.architecture.attention_sides names: leave ae.architecture.mid_attention out."
        )
    return DCEncoder(coders, double_z), DCDecoder(coders)


def _sizes(coders: Coders) -> tuple[list[int], list[bool]]:
    """The width of each level and whether it has attention, the image's level first."""
    widths = [round(coders.ch * multiplier) for multiplier in coders.ch_mult]
    return widths, attended_levels(coders.resolution, len(widths), coders.attn_sides)
