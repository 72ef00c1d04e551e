"""The UNet's convolutional blocks. All blocks share one signature, so that a level is a plain list of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import is_counted, kept, normalised

PERIOD = 10_000.0

NORM_GROUPS = 32
"""Groups of every normalisation in the paper's networks."""

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def group_norm(channels: int, eps: float = 1e-5, groups: int = NORM_GROUPS) -> nn.GroupNorm:
    """Group normalisation with `groups`, or with the largest divisor of `channels` below where that is none."""
    fitting = next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(fitting, channels, eps=eps)


def zeroed(layer: Layer) -> Layer:
    """The layer with weight and bias 0, so that a residual branch starts as nothing (Ho et al. 2020)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoidal_embedding(index: Tensor, width: int, shift: float = 0.0) -> Tensor:
    """cos(index w_i), then sin(index w_i), with w_i = 10000^(-i / (half - shift)), half = width // 2.

    One 0 more if width is odd. Float32 whatever index's dtype, as in the reference, so that imported weights meet the
    features they know.

    Shapes: index (N,), any real numbers; result (N, width). Source: Vaswani et al. 2017, section 3.5.
    """
    half = width // 2
    place = torch.arange(half, dtype=torch.float32, device=index.device)
    frequency = torch.exp(-math.log(PERIOD) * place / (half - shift))
    angle = index.float()[:, None] * frequency
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, width % 2))


def halved(x: Tensor) -> Tensor:
    """Both sides halved by averaging 2 x 2 pixels: (N, C, H, W) to (N, C, H / 2, W / 2)."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Both sides doubled by repeating pixels: (N, C, H, W) to (N, C, 2 H, 2 W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Convolution3(nn.Conv2d):
    """A 3 x 3 convolution with padding 1; with `dense`, on maps of sides 1 and 2 a product with one matrix.

    There most taps fall on padding, and frameworks multiply by them all the same: at side 1 by nine where one counts.
    The product is equal up to rounding. FLOPs are counted as those of the convolution: the switch moves no budget.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1)
        self.dense = False

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (N, in_channels, H, W); result (N, out_channels, H / stride, W / stride)."""
        if not self.dense or is_counted() or self.stride != (1, 1) or x.shape[2:] not in SMALL_MAPS:
            return super().forward(x)
        assert self.bias is not None
        height, width = x.shape[2:]
        matrix = dense_matrix(self.weight, height, width)
        result = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, self.bias.repeat(height * width))
        return result.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)


SMALL_MAPS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Sides at which every output of a 3 x 3 convolution sees every input."""


def dense_matrix(weight: Tensor, height: int, width: int) -> Tensor:
    """The matrix of a 3 x 3 convolution on a map of `SMALL_MAPS`, positions before channels on both sides.

    Shapes: weight (out, in, 3, 3); result (height * width * out, height * width * in).
    """
    rows, columns = _taps(height, width, weight.device)
    taps = weight.permute(2, 3, 0, 1)[rows, columns]
    return taps.permute(0, 2, 1, 3).reshape(len(rows) * weight.shape[0], len(rows) * weight.shape[1])


@kept
def _taps(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of the tap from each output (first axis) to each input (second)."""
    with torch.inference_mode(False):  # a backward pass may keep what was first asked for while sampling
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        rows, columns = (places[None, :] - places[:, None] + 1).unbind(2)
        return rows.to(device), columns.to(device)


class TimeEmbedding(nn.Module):
    """The index's embedding that all blocks read: sinusoid of `features` numbers, linear, SiLU, linear, SiLU.

    The last SiLU stands here once rather than at the head of every block. `frequency_shift` moves the sinusoid's
    frequencies to 10000^(-i / (half - shift)). Shapes: (N,) -> (N, width); what is added before the last SiLU, such as
    the embedding of a class, (N, width).
    """

    def __init__(self, features: int, width: int, frequency_shift: float = 0.0) -> None:
        super().__init__()
        self.features, self.frequency_shift = features, frequency_shift
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)

    def forward(self, index: Tensor, added: Tensor | None = None) -> Tensor:
        """Embeds the index, (N,) to (N, width), in the dtype of the weights."""
        features = sinusoidal_embedding(index, self.features, self.frequency_shift).to(self.first.weight.dtype)
        embedded = self.second(F.silu(self.first(features)))
        return F.silu(embedded if added is None else embedded + added.to(embedded.dtype))


def check_inputs(
    title: str, in_channels: int, context_dim: int | None, x: Tensor, context: Tensor | None, concat: Tensor | None
) -> None:
    """Raises ValueError for inputs of other channels, or with or without a context unlike the network of that title."""
    given = x.shape[1] + (0 if concat is None else concat.shape[1])
    if given != in_channels:
        raise ValueError(f"{title} takes {in_channels} channels, x and concatenated maps, but got {given}")
    if (context is None) != (context_dim is None):
        called = "without a context" if context is None else "with a context"
        raise ValueError(f"{title} was built with context_dim {context_dim}, but called {called}")


class Block(nn.Module, ABC):
    """A part of the UNet that may read the time embedding and the context, or ignore them."""

    @abstractmethod
    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, context_mask: Tensor | None = None
    ) -> Tensor:
        """The block's output.

        Shapes: x (N, C, H, W), embedding (N, E), context (N, tokens, width) or None, context_mask (N, tokens) of the
        tokens that are seen (None: all); result (N, C', H', W').
        """


class Convolution(Block):
    """A 3 x 3 convolution with padding 1, with stride 2 where it halves, after repeating pixels where it doubles."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, upsample: bool = False) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv = Convolution3(in_channels, out_channels, stride)

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, context_mask: Tensor | None = None
    ) -> Tensor:
        """Reads x alone. Shapes: as in `Block`."""
        return self.conv(doubled(x) if self.upsample else x)


class ResidualBlock(Block):
    """x + conv(SiLU(norm(conv(SiLU(norm(x))) + time))), with a 1 x 1 convolution on x where the width changes.

    With `scale_shift` the time embedding instead scales and shifts what the second norm gives; `resample` acts on both
    branches, before the first convolution. Source: Dhariwal and Nichol 2021, section 3 (BigGAN blocks, adaptive norm).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        dropout: float,
        scale_shift: bool,
        resample: Callable[[Tensor], Tensor] | None = None,
        norm_groups: int = NORM_GROUPS,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = group_norm(in_channels, groups=norm_groups)
        self.conv1 = Convolution3(in_channels, out_channels)
        self.time = nn.Linear(embedding_width, out_channels * (2 if scale_shift else 1))
        self.norm2 = group_norm(out_channels, groups=norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(Convolution3(out_channels, out_channels))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, context_mask: Tensor | None = None
    ) -> Tensor:
        """Reads x and the time embedding. Shapes: as in `Block`."""
        h = F.silu(normalised(self.norm1, x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        time = self.time(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = normalised(self.norm2, h) * (1 + scale) + shift
        else:
            h = normalised(self.norm2, h + time)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))
