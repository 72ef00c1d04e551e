"""FLOPs, counted from the operations that ran (one multiply-add is 2)."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], object]) -> float:
    """FLOPs of the matrix products, convolutions and attention that `call` runs, forward and backward alike."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
