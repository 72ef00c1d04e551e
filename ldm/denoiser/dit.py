"""The diffusion transformer: patches of the latent are tokens, and noise level and class steer the blocks' norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.denoiser.blocks import PERIOD, TimeEmbedding, check_inputs, zeroed
from ldm.denoiser.contract import Hidden
from ldm.denoiser.patches import PATCHES, from_patches, to_patches
from ldm.errors import UserError
from ldm.layers import attend, kept
from ldm.parts import option

SIZES: Mapping[str, Mapping[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""The paper's, table 1. Source: Peebles and Xie 2022."""

LEVEL_FEATURES = 256
"""Sines and cosines of the noise level."""

EMBEDDING_STD = 0.02
"""Of the initial weights of what embeds noise level and class."""

NORM_EPSILON = 1e-6

FREQUENCY_SHIFT = 1.0
"""Of what is trained here: that of diffusers' class, so that it can be exported. The paper's code has 0."""


def grid_embedding(height: int, width: int, channels: int) -> np.ndarray:
    """Sines and cosines of each token's column, then those of its row; float32 of values computed in float64.

    Shapes: result (height * width, channels), `channels` a multiple of 4. Source: Peebles and Xie 2022, section 3.2,
    as their code has them.
    """
    rows, columns = _angles(height, width, channels)
    return np.concatenate([wave(angle) for angle in (columns, rows) for wave in (np.sin, np.cos)], 1).astype(np.float32)


def grid_rotation(height: int, width: int, channels: int) -> np.ndarray:
    """Cosines and sines of angles by which rotary attention turns pairs of channels: half by row, half by column.

    Shapes: result (2, height * width, channels / 2), `channels` of one head, a multiple of 4.
    Source: Su et al. 2021, section 3.2.2, along both axes as in Yao and Wang 2025 (LightningDiT).
    """
    angle = np.concatenate(_angles(height, width, channels), axis=1)
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def _angles(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Each token's row and its column, times falling frequencies. Shapes: (height * width, channels / 4) both."""
    frequency = PERIOD ** -(np.arange(channels // 4) / (channels // 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return rows.reshape(-1, 1) * frequency, columns.reshape(-1, 1) * frequency


@kept
def _embedded(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference could not be trained with later
        return torch.from_numpy(grid_embedding(height, width, channels)).to(device, dtype)


@kept
def _rotation(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(grid_rotation(height, width, channels)[:, :, None]).to(device, dtype)


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Each pair of neighbouring channels turned by its token's angle, in x's dtype.

    Shapes: x (N, L, heads, d), rotation (2, L, 1, d / 2) of cosines and sines; result as x.
    """
    cos, sin = rotation
    first, second = x.unflatten(3, (-1, 2)).unbind(4)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=4).flatten(3).to(x.dtype)


def norm(width: int, is_rms: bool, epsilon: float = NORM_EPSILON) -> nn.Module:
    """Layer normalisation without weights, which the modulation replaces; or that by the root mean square alone."""
    return nn.RMSNorm(width, eps=epsilon) if is_rms else nn.LayerNorm(width, eps=epsilon, elementwise_affine=False)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift. Shapes: x (N, L, width), shift and scale (N, width); result as x."""
    return x * (1 + scale)[:, None] + shift[:, None]


class SelfAttention(nn.Module):
    """Multi-head attention among tokens, with one joint projection: all heads' queries, then keys, then values."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.RMSNorm(width // heads, eps=NORM_EPSILON) if qk_norm else None
        self.norm_k = nn.RMSNorm(width // heads, eps=NORM_EPSILON) if qk_norm else None
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: Tensor | None) -> Tensor:
        """Shapes: tokens (N, L, width), rotation as in `rotated` or None; result as tokens."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).unbind(2)
        if self.norm_q is not None and self.norm_k is not None:
            # In the weights' own dtype: torch has no fused kernel for two, and says so at every step.
            exact = self.norm_q.weight.dtype
            q, k = self.norm_q(q.to(exact)).to(v.dtype), self.norm_k(k.to(exact)).to(v.dtype)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        return self.out(attend(q, k, v))


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to those of a context of another width; nothing at first."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_dim, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes: tokens (N, L, width), context (N, S, context_dim), mask (N, S) of what is seen; result as tokens."""
        k, v = self.kv(context).unflatten(2, (2, self.heads, -1)).unbind(2)
        return self.out(attend(self.q(tokens).unflatten(2, (self.heads, -1)), k, v, mask))


class FeedForward(nn.Module):
    """Two layers, the inner four times as wide, with GELU; or gated by SiLU, the inner two thirds of that.

    Source: Peebles and Xie 2022; Shazeer 2020, equation 6 (SwiGLU, of as many weights).
    """

    def __init__(self, width: int, is_gated: bool) -> None:
        super().__init__()
        self.is_gated = is_gated
        inner = 8 * width // 3 if is_gated else 4 * width
        self.expand = nn.Linear(width, 2 * inner if is_gated else inner)
        self.contract = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The network at each token. Shapes: (N, L, width), result alike."""
        inner = self.expand(tokens)
        if self.is_gated:
            gate, value = inner.chunk(2, dim=-1)
            return self.contract(F.silu(gate) * value)
        return self.contract(F.gelu(inner, approximate="tanh"))


class DiTBlock(nn.Module):
    """Self-attention, cross-attention where there is a context, and feed-forward, each on a norm and added.

    The embedding of level and class shifts and scales what the norms give, and scales what is added: by 0 at first, so
    that a fresh block is the identity (adaLN-zero). Source: Peebles and Xie 2022, section 3.2; the place of
    cross-attention, which the embedding does not steer, as in Chen et al. 2023 (PixArt-alpha), section 2.3.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_dim: int | None,
        *,
        rms_norm: bool,
        swiglu: bool,
        qk_norm: bool,
        feed_forward_epsilon: float,
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1 = norm(width, rms_norm)
        self.attention = SelfAttention(width, heads, qk_norm)
        self.norm_cross = None if context_dim is None else norm(width, rms_norm)
        self.cross_attention = None if context_dim is None else CrossAttention(width, context_dim, heads)
        self.norm2 = norm(width, rms_norm, feed_forward_epsilon)
        self.feed_forward = FeedForward(width, swiglu)

    def forward(
        self, tokens: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None, rotation: Tensor | None
    ) -> Tensor:
        """All branches, added one after the other.

        Shapes: tokens (N, L, width), embedding (N, width), context (N, S, context_dim), mask (N, S) of what is seen,
        rotation as in `rotated`; result as tokens.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding).chunk(6, dim=1)
        attended = self.attention(modulated(self.norm1(tokens), shift1, scale1), rotation)
        tokens = tokens + gate1[:, None] * attended
        if self.cross_attention is not None and self.norm_cross is not None:
            assert context is not None
            tokens = tokens + self.cross_attention(self.norm_cross(tokens), context, mask)
        return tokens + gate2[:, None] * self.feed_forward(modulated(self.norm2(tokens), shift2, scale2))


class DiT(nn.Module):
    """Predicts the diffusion target from x_t, the schedule's index, a context and maps, by a transformer over patches.

    Patches of `patch` x `patch` latent pixels are tokens. Sines and cosines of their place are added to them, for a
    grid of any sides. With `adds_context` the context is one token, which is brought to `width` and added to the
    embedding of the noise level (or is that wide already: `projects_context` false); else blocks attend to it. Maps
    stand beside x_t: `in_channels` counts both. Beyond the paper: norms by the root mean square (`rms_norm`), a gated
    feed-forward (`swiglu`), rotary attention along rows and columns (`rope`), normalised queries and keys (`qk_norm`).
    `frequency_shift` and `feed_forward_epsilon` are what other programs' weights were trained with.

    A fresh network gives 0, and each of its blocks the identity. Raises: UserError for sizes that do not fit.
    Source: Peebles and Xie 2022 (DiT); Yao and Wang 2025 (LightningDiT) for the four beyond it.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        context_dim: int | None = None,
        adds_context: bool = False,
        projects_context: bool = True,
        rms_norm: bool = False,
        swiglu: bool = False,
        rope: bool = False,
        qk_norm: bool = False,
        frequency_shift: float = FREQUENCY_SHIFT,
        feed_forward_epsilon: float = NORM_EPSILON,
    ) -> None:
        super().__init__()
        check_width(width, heads, rope)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.width = width
        self.head_width = width // heads
        self.patch = patch
        self.halvings = patch.bit_length() - 1
        self.context_dim = context_dim
        self.adds_context = adds_context
        self.rope = rope
        self.feed_forward_epsilon = feed_forward_epsilon
        beyond = {"rms_norm": rms_norm, "swiglu": swiglu, "rope": rope, "qk_norm": qk_norm}
        self.beyond_the_paper = tuple(name for name, is_on in beyond.items() if is_on)
        crossed = None if adds_context else context_dim
        self.embed = nn.Linear(patch * patch * in_channels, width)
        self.level = TimeEmbedding(LEVEL_FEATURES, width, frequency_shift)
        projects = adds_context and projects_context and context_dim is not None
        self.project_context = nn.Linear(context_dim or 0, width, bias=False) if projects else nn.Identity()
        self.blocks = nn.ModuleList(
            DiTBlock(
                width,
                heads,
                crossed,
                rms_norm=rms_norm,
                swiglu=swiglu,
                qk_norm=qk_norm,
                feed_forward_epsilon=feed_forward_epsilon,
            )
            for _ in range(depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.norm_out = norm(width, rms_norm)
        self.out = nn.Linear(width, patch * patch * out_channels)
        self._initialise()

    @property
    def hidden(self) -> Hidden:
        """The block behind which 8 of 28 lie, as far as REPA aligns the largest ones (arXiv 2410.06940)."""
        return Hidden(self.blocks[max(1, round(len(self.blocks) * 8 / 28)) - 1], self.width)

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
        dtype, sides = self.embed.weight.dtype, (x.shape[2], x.shape[3])
        maps = x if concat is None else torch.cat([x, concat.to(x.dtype)], dim=1)
        grid = sides[0] // self.patch, sides[1] // self.patch
        added = self.project_context(context[:, 0]) if self.adds_context and context is not None else None
        embedding = self.level(index, added)
        tokens = self.embed(to_patches(maps.to(dtype), self.patch)) + _embedded(*grid, self.width, x.device, dtype)
        rotation = _rotation(*grid, self.head_width, x.device, dtype) if self.rope else None
        for block in self.blocks:
            tokens = block(tokens, embedding, context, context_mask, rotation)
        shift, scale = self.modulation(embedding).chunk(2, dim=1)
        return from_patches(self.out(modulated(self.norm_out(tokens), shift, scale)), self.patch, sides).to(x.dtype)

    def _initialise(self) -> None:
        """As the paper's code: Xavier's uniform weights; small ones of embeddings; 0 of all that must give nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.level.first, self.level.second, self.project_context):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            zeroed(block.modulation)
            if block.cross_attention is not None:
                zeroed(block.cross_attention.out)
        zeroed(self.modulation)
        zeroed(self.out)

    def _check(self, x: Tensor, context: Tensor | None, concat: Tensor | None) -> None:
        check_inputs("the DiT", self.in_channels, self.context_dim, x, context, concat)
        if any(side % self.patch for side in x.shape[2:]):
            raise ValueError(f"sides {tuple(x.shape[2:])} cannot be divided into patches of side {self.patch}")
        if self.adds_context and context is not None and context.shape[1] != 1:
            raise ValueError(f"the DiT adds one token to the noise level's, but was given {context.shape[1]}")


def check_width(width: int, heads: int, rope: bool) -> None:
    """Raises UserError for a width that heads or positions cannot share."""
    if width % heads:
        raise UserError(f"denoiser.heads={heads} does not divide denoiser.width={width}: give heads that do")
    if width % 4:
        raise UserError(f"denoiser.width={width} is no multiple of 4, as sines and cosines of two coordinates need")
    if rope and (width // heads) % 4:
        raise UserError(
            f"denoiser.rope=true needs heads of a multiple of 4 channels, and denoiser.width={width} over "
            f"denoiser.heads={heads} gives {width // heads}: give fewer heads"
        )


@dataclass(frozen=True, kw_only=True)
class DiTOptions:
    """The options of a `DiT`, which is a `Denoiser`; see there for what they mean together."""

    title: ClassVar[str] = "the DiT"
    context_options: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    counts_tokens: ClassVar[bool] = True

    size: str | None = option(None, choices=SIZES, help="width, depth and heads by the paper's name")
    width: int = option(low=4, high=2**16, help="channels of each token")
    depth: int = option(low=1, help="blocks")
    heads: int = option(low=1, help="attention heads")
    patch: int = option(choices=PATCHES, help="side of the patches that are tokens, in latent pixels")
    rms_norm: bool = option(False, help="whether norms divide by the root mean square alone")
    swiglu: bool = option(False, help="whether the feed-forward is gated by SiLU")
    rope: bool = option(False, help="whether attention turns queries and keys by row and column")
    qk_norm: bool = option(False, help="whether queries and keys are normalised")

    @property
    def halvings(self) -> int:
        """As often as two divides the patch's side."""
        return self.patch.bit_length() - 1

    @property
    def divides(self) -> str:
        """What the sides of latents must be divisible by, in words."""
        return f"denoiser.patch={self.patch}"

    def check_side(self, latent_side: int) -> None:
        """Raises UserError for a patch that does not divide the latent's side; names those that do."""
        if latent_side % self.patch:
            fitting = [str(each) for each in PATCHES if latent_side % each == 0]
            raise UserError(
                f"denoiser.patch={self.patch} does not divide the latent's side, {latent_side}: use denoiser.patch="
                f"{' or '.join(fitting)}"
            )

    def build(
        self,
        *,
        in_channels: int,
        out_channels: int,
        latent_side: int,
        context_dim: int | None,
        tokens: int | None = None,
    ) -> DiT:
        """The network with its initial weights; a context of one token is added to the noise level's embedding.

        Raises: UserError for sizes that do not fit each other or the side.
        """
        self.check_side(latent_side)
        return DiT(
            in_channels=in_channels,
            out_channels=out_channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            context_dim=context_dim,
            adds_context=tokens == 1,
            rms_norm=self.rms_norm,
            swiglu=self.swiglu,
            rope=self.rope,
            qk_norm=self.qk_norm,
        )
