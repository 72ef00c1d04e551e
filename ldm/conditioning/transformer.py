"""The transformer that turns token sequences, of text or of boxes, into a context."""

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import attend

HEADS, HEAD_WIDTH = 8, 64
"""Fixed in the reference, whatever the width."""


class Attention(nn.Module):
    """Multi-head self-attention, its inner width HEADS x HEAD_WIDTH."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x attended to itself. Shapes: x (N, L, width), mask (N, L) of the tokens that are seen; result as x."""
        q, k, v = (layer(x).unflatten(2, (HEADS, HEAD_WIDTH)) for layer in (self.to_q, self.to_k, self.to_v))
        return self.to_out(attend(q, k, v, mask))


class Layer(nn.Module):
    """Self-attention and a feed-forward network of four times the width, each on a layer norm and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Both branches, added one after the other. Shapes: x (N, L, width), mask (N, L); result as x."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class TokenTransformer(nn.Module):
    """Token and position embeddings, `depth` layers, a last layer norm: the paper's unmasked transformer tau_theta.

    The reference's has one layer more, to logits of the vocabulary, which nothing reads; the paper's parameter counts
    include it. Source: Rombach et al. 2022, appendix E.2.1 (table 17).
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.length = length
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens' embeddings in their context.

        Shapes: tokens (N, L) of integers, mask (N, L) of those that are seen; result (N, L, width).
        Raises: ValueError for sequences longer than `length`.
        """
        if tokens.shape[1] > self.length:
            raise ValueError(f"sequences of {tokens.shape[1]} tokens do not fit the {self.length} of the transformer")
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)
