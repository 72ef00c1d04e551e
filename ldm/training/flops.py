"""FLOPs, counted from the operations that ran (one multiply-add is 2)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ldm.layers import Recomputable, counted

Shape = tuple[int, ...]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """The two matrix products of softmax(q k^T) v."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Two products for each of the forward pass; the scores that fused kernels compute again are not counted."""
    return 2 * _attention(query, key, value)


_aten: Any = torch.ops.aten
# torch leaves out the CPU's kernel, and counts the recomputation of the others: one rule makes devices agree.
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}


def count_flops(call: Callable[[], object]) -> float:
    """FLOPs of the matrix products, convolutions and attention that `call` runs, forward and backward alike.

    What `Recomputable` blocks compute a second time is not counted.
    """
    again = [0.0]

    @contextmanager
    def set_apart() -> Iterator[None]:
        with _counter() as counter:
            try:
                yield
            finally:  # it is left by an exception as soon as all is there that is needed
                again[0] += counter.get_total_flops()

    before, Recomputable.recomputation = Recomputable.recomputation, set_apart  # autograd has threads of its own
    try:
        with counted(), _counter() as counter:
            call()
    finally:
        Recomputable.recomputation = before
    return float(counter.get_total_flops()) - again[0]


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_ATTENTION)
