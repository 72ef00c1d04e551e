"""Patches of a map, as tokens of a transformer or as the pixels of a UNet, so that fewer positions are looked at."""

from typing import Final

from torch import Tensor

PATCHES: Final = (1, 2, 4, 8, 16)
"""Sides of patches that there may be: powers of two, as all downsampling factors are."""


def to_patches(x: Tensor, patch: int) -> Tensor:
    """Patches as tokens, each its pixels row by row with their channels: (N, C, H, W) -> (N, H W / p^2, p^2 C).

    A view at patch 1 where x is channels_last.
    """
    rows = x.permute(0, 2, 3, 1).unflatten(2, (-1, patch)).unflatten(1, (-1, patch))
    return rows.transpose(2, 3).flatten(3).flatten(1, 2)


def from_patches(tokens: Tensor, patch: int, sides: tuple[int, int]) -> Tensor:
    """The inverse of `to_patches` for a map of these sides: (N, H W / p^2, p^2 C) -> (N, C, H, W), channels_last."""
    height, width = sides
    rows = tokens.unflatten(1, (height // patch, width // patch)).unflatten(3, (patch, patch, -1))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def folded(x: Tensor, patch: int) -> Tensor:
    """Patches as pixels of many channels: (N, C, H, W) -> (N, p^2 C, H / p, W / p), channels_last; x at patch 1."""
    if patch == 1:
        return x
    return to_patches(x, patch).unflatten(1, (x.shape[2] // patch, -1)).permute(0, 3, 1, 2)


def unfolded(x: Tensor, patch: int) -> Tensor:
    """The inverse of `folded`: (N, p^2 C, h, w) -> (N, C, p h, p w), channels_last; x at patch 1."""
    if patch == 1:
        return x
    return from_patches(x.permute(0, 2, 3, 1).flatten(1, 2), patch, (patch * x.shape[2], patch * x.shape[3]))
