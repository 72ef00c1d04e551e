"""The paper's UNet: residual blocks with time embedding, attention at chosen latent sides, skips from down to up."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.denoiser.attention import HeadOrder, SelfAttention, SpatialTransformer
from ldm.denoiser.blocks import (
    NORM_GROUPS,
    Block,
    Convolution,
    Convolution3,
    ResidualBlock,
    TimeEmbedding,
    check_inputs,
    doubled,
    group_norm,
    halved,
    zeroed,
)
from ldm.denoiser.contract import Hidden
from ldm.denoiser.patches import PATCHES, folded, unfolded
from ldm.errors import UserError
from ldm.layers import normalised
from ldm.parts import option


def level_sides(latent_side: int, levels: int, fold: int = 1) -> list[int]:
    """The side length at each level of a UNet, each half the one before; patches of side `fold` are one pixel.

    Raises: UserError where the side cannot be divided or halved so often.
    """
    if latent_side % fold:
        raise UserError(f"denoiser.fold={fold} does not divide the latent's side, {latent_side}")
    side = latent_side // fold
    if levels < 1 or side < 1 or side % 2 ** (levels - 1):
        folded_to, remedy = (f", {side} with denoiser.fold={fold},", ", or denoiser.fold=1") if fold > 1 else ("", "")
        raise UserError(
            f"a latent of side {latent_side}{folded_to} cannot be halved {levels - 1} times, as a UNet with {levels} "
            f"entries in channel_mult does: give channel_mult fewer entries{remedy}"
        )
    return [side >> level for level in range(levels)]


def level_widths(model_channels: int, channel_mult: Sequence[float]) -> list[int]:
    """The channels at each level: `model_channels` times the level's multiplier.

    Raises: UserError where one is no whole number.
    """
    widths = [model_channels * multiplier for multiplier in channel_mult]
    if any(width != int(width) or width < 1 for width in widths):
        raise UserError(
            f"channel_mult {list(channel_mult)} times model_channels {model_channels} gives the widths {widths}, "
            "but every width must be a whole number"
        )
    return [int(width) for width in widths]


def check_norms(side: int, channels: int, groups: int = NORM_GROUPS) -> None:
    """Refuses a level where every group of a group norm holds one value, which the norm would replace by 0.

    Raises: UserError there, which can only be at side 1.
    """
    if side == 1 and group_norm(channels, groups=groups).num_groups == channels:
        raise UserError(
            f"the UNet has {channels} channels at side 1, where each of its norms' groups would hold a single value: "
            "give this level more channels (such as 64), or the UNet fewer levels"
        )


def head_count(channels: int, num_heads: int | None, num_head_channels: int | None) -> int:
    """The number of attention heads at a width, from the number itself or from the channels of one head.

    Raises: UserError unless exactly one of the two is given and divides `channels`.
    """
    given = num_heads if num_head_channels is None else num_head_channels
    if given is None or (num_heads is not None and num_head_channels is not None):
        raise UserError("give the UNet either num_heads or num_head_channels, and not both")
    if given < 1 or channels % given:
        name = "num_heads" if num_head_channels is None else "num_head_channels"
        raise UserError(f"{name} {given} does not divide the {channels} channels of an attention layer of the UNet")
    return given if num_head_channels is None else channels // given


class UNet(nn.Module):
    """Predicts the diffusion target from x_t, the schedule's index, context tokens and maps (eps_theta of the paper).

    `channel_mult` has one entry a level, each level at half the side of the one before. `attention_sides` are the side
    lengths at which attention stands, counted for a latent of side `latent_side` (sides that no level has are passed
    over; the middle always has attention); the network itself takes maps of any sides that can be halved as often. With
    `context_dim` attention is a transformer of `transformer_depth` blocks with cross-attention, without it it is
    self-attention whose joint projection is laid out by `head_order`. With `adds_context` it is self-attention too, and
    the context, one token as wide as the time embedding (4 `model_channels`), is added to that. `in_channels` counts
    x_t and concatenated maps. `recompute` trades compute for memory in training (gradient checkpointing). Norms have
    `norm_groups`, or the largest divisor of their width below. `dense_small_maps`: see `Convolution3`. With `fold` p,
    patches of p x p are one pixel of p^2 times the channels to the network: its first level has side `latent_side` / p.

    Raises: UserError for sizes that do not fit each other.
    Source: Rombach et al. 2022, section 3.3 and appendix E.2; Dhariwal and Nichol 2021, section 3.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        model_channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: int,
        latent_side: int,
        attention_sides: Sequence[int],
        num_head_channels: int | None = None,
        num_heads: int | None = None,
        context_dim: int | None = None,
        adds_context: bool = False,
        transformer_depth: int = 1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        dropout: float = 0.0,
        head_order: HeadOrder = "heads_first",
        recompute: bool = False,
        norm_groups: int = NORM_GROUPS,
        dense_small_maps: bool = False,
        fold: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.context_dim = context_dim
        self.adds_context = adds_context
        self.fold = fold
        self.halvings = len(channel_mult) - 1
        self.recompute = recompute
        sides = level_sides(latent_side, len(channel_mult), fold)
        widths = level_widths(model_channels, channel_mult)
        for side, entering, width in zip(sides, [model_channels, *widths], widths, strict=False):
            check_norms(side, entering, norm_groups)
            check_norms(side, width, norm_groups)
        residual = partial(
            ResidualBlock,
            embedding_width=4 * model_channels,
            dropout=dropout,
            scale_shift=use_scale_shift_norm,
            norm_groups=norm_groups,
        )

        def attention(channels: int) -> Block:
            heads = head_count(channels, num_heads, num_head_channels)
            if context_dim is None or adds_context:
                return SelfAttention(channels, heads, head_order, norm_groups)
            return SpatialTransformer(channels, heads, transformer_depth, context_dim, dropout, norm_groups)

        def attention_at(side: int, channels: int) -> list[Block]:
            return [attention(channels)] if side in attention_sides else []

        def to_half(channels: int) -> Block:
            if resblock_updown:
                return residual(channels, channels, resample=halved)
            return Convolution(channels, channels, stride=2)

        def to_double(channels: int) -> Block:
            if resblock_updown:
                return residual(channels, channels, resample=doubled)
            return Convolution(channels, channels, upsample=True)

        down: list[list[Block]] = [[Convolution(fold**2 * in_channels, model_channels)]]
        skips = [model_channels]
        channels = model_channels
        for level, (side, width) in enumerate(zip(sides, widths, strict=True)):
            for _ in range(num_res_blocks):
                down.append([residual(channels, width), *attention_at(side, width)])
                channels = width
                skips.append(width)
            if level < self.halvings:
                down.append([to_half(channels)])
                skips.append(channels)

        middle = [residual(channels, channels), attention(channels), residual(channels, channels)]

        up: list[list[Block]] = []
        for level, (side, width) in reversed(list(enumerate(zip(sides, widths, strict=True)))):
            for place in range(num_res_blocks + 1):
                blocks = [residual(channels + skips.pop(), width), *attention_at(side, width)]
                channels = width
                if level > 0 and place == num_res_blocks:
                    blocks.append(to_double(channels))
                up.append(blocks)

        self.time_embedding = TimeEmbedding(model_channels, 4 * model_channels)
        self.down = nn.ModuleList(nn.ModuleList(blocks) for blocks in down)
        self.middle = nn.ModuleList(middle)
        self.middle_width = widths[-1]
        self.up = nn.ModuleList(nn.ModuleList(blocks) for blocks in up)
        self.norm_out = group_norm(channels, groups=norm_groups)
        self.conv_out = zeroed(Convolution3(channels, fold**2 * out_channels))
        for module in self.modules():
            if isinstance(module, Convolution3):
                module.dense = dense_small_maps

    @property
    def hidden(self) -> Hidden:
        """The last block of the middle."""
        return Hidden(self.middle[-1], self.middle_width)

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        context: Tensor | None = None,
        concat: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction for x_t, in its dtype.

        Shapes: x (N, C, H, W), index (N,), context (N, tokens, context_dim), concat (N, C', H, W) with C + C' =
        `in_channels`, context_mask (N, tokens) of the tokens that are seen; result (N, `out_channels`, H, W).
        Raises: ValueError for inputs that the network was not built for.
        """
        self._check(x, context, concat)
        embedding = self.time_embedding(index, context[:, 0] if self.adds_context and context is not None else None)
        h = x if concat is None else torch.cat([x, concat.to(x.dtype)], dim=1)
        h = folded(h.to(self.conv_out.weight.dtype), self.fold)
        skips = []
        for blocks in self.down:
            h = self._through(blocks, h, embedding, context, context_mask)
            skips.append(h)
        h = self._through(self.middle, h, embedding, context, context_mask)
        for blocks in self.up:
            h = self._through(blocks, torch.cat([h, skips.pop()], dim=1), embedding, context, context_mask)
        return unfolded(self.conv_out(F.silu(normalised(self.norm_out, h))), self.fold).to(x.dtype)

    def _through(self, blocks: nn.Module, h: Tensor, *told: Tensor | None) -> Tensor:
        """`h` after each of the blocks in turn, with inner activations recomputed backward under `recompute`.

        `told` is what else blocks read: time embedding, context and its mask.
        """
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            if self.recompute and torch.is_grad_enabled():
                h = checkpoint(block, h, *told, use_reentrant=False)
            else:
                h = block(h, *told)
        return h

    def _check(self, x: Tensor, context: Tensor | None, concat: Tensor | None) -> None:
        check_inputs("the UNet", self.in_channels, self.context_dim, x, context, concat)
        if any(side % (self.fold * 2**self.halvings) for side in x.shape[2:]):
            patches = f"be divided into patches of side {self.fold} and " if self.fold > 1 else ""
            raise ValueError(f"sides {tuple(x.shape[2:])} cannot {patches}be halved {self.halvings} times")


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """The options of a `UNet`, which is a `Denoiser`; see there for what they mean together."""

    title: ClassVar[str] = "the UNet"
    context_options: ClassVar[tuple[str, ...]] = ("transformer_depth",)

    model_channels: int = option(low=1, high=2**16, help="channels at the first level")
    channel_mult: tuple[float, ...] = option(above=0, help="what each level has times that")
    num_res_blocks: int = option(low=1, help="residual blocks a level")
    attention_sides: tuple[int, ...] = option(low=1, help="latent sides with attention")
    num_heads: int | None = option(low=1, help="attention heads, unless num_head_channels says how wide they are")
    num_head_channels: int | None = option(low=1, help="channels of one attention head")
    transformer_depth: int = option(1, low=1, help="blocks of each transformer with cross-attention")
    use_scale_shift_norm: bool = option(False, help="whether the time embedding scales and shifts")
    resblock_updown: bool = option(False, help="whether residual blocks change the side")
    dropout: float = option(0.0, low=0, below=1, help="share of activations dropped in training")
    dense_small_maps: bool = option(
        False, help="whether convolutions on sides 1 and 2 are computed as matrix products, equal up to rounding"
    )
    fold: int = option(1, choices=PATCHES, help="side of the patches that are one pixel to it")

    @property
    def halvings(self) -> int:
        """How often the latent's side must be even: once for each level but the first, and for `fold`."""
        return len(self.channel_mult) - 1 + self.fold.bit_length() - 1

    def build(self, *, in_channels: int, out_channels: int, latent_side: int, context_dim: int | None) -> UNet:
        """The network with its initial weights. Raises: UserError for sizes that do not fit each other."""
        return UNet(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_side=latent_side,
            context_dim=context_dim,
            **asdict(self),
        )
