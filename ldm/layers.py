"""Layers that first stages and denoisers share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

F_ = TypeVar("F_", bound=Callable[..., Any])

_COUNTED = ContextVar("counted", default=False)


@contextmanager
def counted() -> Iterator[None]:
    """Within it layers run as their FLOPs are to be counted, without what computes the same by other products."""
    before = _COUNTED.set(True)
    try:
        yield
    finally:
        _COUNTED.reset(before)


def constant_when_compiled(function: F_) -> F_:
    """Has torch.compile call it once for each graph, with what it gives as a constant; its arguments are no tensors.

    As `torch.compiler.assume_constant_result`, whose import takes seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def kept(function: F_) -> F_:
    """Tables that follow from a few numbers: computed once for each, outside of what torch.compile traces."""
    found = lru_cache(maxsize=64)(function)

    def table(*given: Any) -> Any:
        return found(*given)

    return constant_when_compiled(table)  # type: ignore[return-value]


@constant_when_compiled
def is_counted() -> bool:
    """Whether FLOPs are being counted."""
    return _COUNTED.get()


class Recomputable(nn.Module):
    """A block that can compute its inner activations again in the backward pass, where memory does not hold them.

    It then keeps its input alone, and its results are the same bit for bit. Source: Chen et al., arXiv 1604.06174.
    `recomputation` gives the context of the second computation.
    """

    recompute = False
    recomputation: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, *inputs: Tensor) -> Any:
        """The block of its inputs."""
        if not (self.recompute and torch.is_grad_enabled()):
            return super().__call__(*inputs)
        again = type(self).recomputation
        return checkpoint(super().__call__, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))


HALF_PRECISION = (torch.bfloat16, torch.float16)


def normalised(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """`norm(x)` computed in float32 where x is half precision, in x's dtype. Shapes: x (N, C, H, W); result alike."""
    if x.dtype not in HALF_PRECISION:
        return norm(x)
    # torch's half-precision kernels on the CPU take three times as long backward as float32 with both conversions.
    return F.group_norm(x.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, over the keys where `mask` is true (all where it is None).

    Shapes: q (N, heads, L, d), k and v (N, heads, S, d), mask one that expands to (N, heads, L, S); result as q.
    """
    if q.device.type != "cpu" or q.dtype not in HALF_PRECISION or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, mask)
    # The CPU's half-precision kernel takes up to six times as long backward as float32 with both conversions.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of tokens that hold all heads side by side, over the keys where `mask` is true.

    Shapes: q (N, L, heads, d), k and v (N, S, heads, d), mask (N, S); result (N, L, heads * d).
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    seen = None if mask is None else mask[:, None, None, :]
    return scaled_attention(q, k, v, seen).transpose(1, 2).flatten(2)
