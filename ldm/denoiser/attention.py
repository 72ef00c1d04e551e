"""Attention over the pixels of a feature map, alone or as a transformer that also attends to a context."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.denoiser.blocks import NORM_GROUPS, Block, group_norm, zeroed
from ldm.errors import UserError
from ldm.layers import attend, normalised

HeadOrder = Literal["heads_first", "qkv_first"]
"""How the rows of a joint query-key-value projection are laid out: for each head its q, k, v (the reference's
QKVAttentionLegacy, which all released models use), or all heads' q, then k, then v (its QKVAttention)."""


def reorder_heads(rows: Tensor, heads: int, source: HeadOrder, target: HeadOrder) -> Tensor:
    """The rows of a joint projection laid out as `source`, laid out as `target`.

    Shapes: rows (3 * channels, ...), a weight or a bias; result the same.
    """
    if source == target:
        return rows
    parts = (heads, 3) if source == "heads_first" else (3, heads)
    return rows.unflatten(0, (*parts, -1)).transpose(0, 1).flatten(0, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C); a view where x is channels_last."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(N, H W, C) -> (N, C, H, W) with the sides of `like`; a view, channels_last where tokens are contiguous."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


class SelfAttention(Block):
    """x + projection(attention(norm(x))) over all pixels, with one joint projection to queries, keys and values.

    Source: Dhariwal and Nichol 2021, section 3. Raises: UserError for an unknown `head_order`.
    """

    def __init__(self, channels: int, heads: int, head_order: HeadOrder, norm_groups: int = NORM_GROUPS) -> None:
        super().__init__()
        if head_order not in get_args(HeadOrder):
            raise UserError(f"head_order is '{head_order}', but must be one of {', '.join(get_args(HeadOrder))}")
        self.heads = heads
        self.head_order = head_order
        self.norm = group_norm(channels, groups=norm_groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj_out = zeroed(nn.Linear(channels, channels))

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, context_mask: Tensor | None = None
    ) -> Tensor:
        """Reads x alone. Shapes: as in `Block`; result as x."""
        rows = self.qkv(to_tokens(normalised(self.norm, x)))
        if self.head_order == "heads_first":
            q, k, v = rows.unflatten(2, (self.heads, 3, -1)).unbind(3)
        else:
            q, k, v = rows.unflatten(2, (3, self.heads, -1)).unbind(2)
        return x + to_map(self.proj_out(attend(q, k, v)), x)


class TokenAttention(nn.Module):
    """Multi-head attention from tokens to source tokens (to themselves, or to a context of another width)."""

    def __init__(self, width: int, source_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source_width, width, bias=False)
        self.to_v = nn.Linear(source_width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """The source as the tokens attend to it.

        Shapes: tokens (N, L, width), source (N, S, source_width), mask (N, S) of what is seen; result as tokens.
        """
        q, k, v = (
            rows.unflatten(2, (self.heads, -1)) for rows in (self.to_q(tokens), self.to_k(source), self.to_v(source))
        )
        return self.dropout(self.to_out(attend(q, k, v, mask)))


class FeedForward(nn.Module):
    """GEGLU: a linear layer to twice four times the width, one half gating the other by GELU, and one back.

    Source: Shazeer 2020, equation 6.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 8 * width)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The network at each token. Shapes: (N, L, width), result alike."""
        value, gate = self.expand(tokens).chunk(2, dim=-1)
        return self.contract(self.dropout(value * F.gelu(gate)))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context and feed-forward, each on a layer norm and added.

    Source: Rombach et al. 2022, appendix E.2.1.
    """

    def __init__(self, width: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = TokenAttention(width, width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = TokenAttention(width, context_dim, heads, dropout)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """All three branches, added one after the other.

        Shapes: tokens (N, L, width), context (N, S, context_dim), mask (N, S) of what is seen; result as tokens.
        """
        normal = self.norm1(tokens)
        tokens = tokens + self.self_attention(normal, normal)
        tokens = tokens + self.cross_attention(self.norm2(tokens), context, mask)
        return tokens + self.feed_forward(self.norm3(tokens))


class SpatialTransformer(Block):
    """x + projection(transformer blocks(projection(norm(x)))) with pixels as tokens.

    Source: Rombach et al. 2022, appendix E.2.1 (table 16).
    """

    def __init__(
        self, channels: int, heads: int, depth: int, context_dim: int, dropout: float, norm_groups: int = NORM_GROUPS
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps=1e-6, groups=norm_groups)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, context_dim, heads, dropout) for _ in range(depth))
        self.proj_out = zeroed(nn.Linear(channels, channels))

    def forward(
        self, x: Tensor, embedding: Tensor, context: Tensor | None, context_mask: Tensor | None = None
    ) -> Tensor:
        """Reads x and the context. Shapes: as in `Block`; result as x.

        Raises: ValueError without a context.
        """
        if context is None:
            raise ValueError("a denoiser with cross-attention needs a context, but was called without one")
        tokens = self.proj_in(to_tokens(normalised(self.norm, x)))
        for block in self.blocks:
            tokens = block(tokens, context, context_mask)
        return x + to_map(self.proj_out(tokens), x)
