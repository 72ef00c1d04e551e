"""Bilinear resizing as TensorFlow 1 did it, which FID is defined with: no half-pixel centres, no antialiasing."""

import torch
from torch import Tensor


def resized_as_tensorflow1(x: Tensor, side: int) -> Tensor:
    """Images of any size at `side` x `side`, bit for bit as by torch-fidelity's function of TensorFlow 1's rule.

    Rows are interpolated along their length first and then between each other, as there, but each row of the input once
    instead of once for every row of the result that lies beside it.

    Shapes: x float32 (N, C, H, W); result (N, C, side, side).
    """
    left, right, across = _neighbours(x.shape[3], side, x.device)
    rows = _between(x.index_select(3, left), x.index_select(3, right), across)
    above, below, along = _neighbours(x.shape[2], side, x.device)
    return _between(rows.index_select(2, above), rows.index_select(2, below), along[:, None])


def _neighbours(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each position of the result: the positions of the input on both sides, and how far it lies from the first."""
    position = torch.arange(side, dtype=torch.float32, device=device) * torch.tensor(length / side, dtype=torch.float32)
    first = position.long()
    return first, (first + 1).clamp_max(length - 1), position - first


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """first + (second - first) share, in the memory of `second`."""
    return second.sub_(first).mul_(share).add_(first)
