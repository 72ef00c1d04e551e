"""Decoding in overlapping tiles: images larger than memory would let a decoder make at once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Decode = Callable[[Tensor], Tensor]
"""Raw latents (N, C, h, w) -> images (N, 3, h * factor, w * factor), e.g. `FirstStage.decode`."""


@dataclass(frozen=True)
class Seam:
    """Where one tile goes over into the next along an axis: from pixel `first` up to, and without, pixel `end`."""

    first: int
    end: int


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `tile` latents a side, neighbours sharing `overlap` latents at least.

    The middle half of what neighbours share is cross-faded; the quarters beside it only give the tile's convolutions
    something to see, since a decoder is at its worst at the border of what it is given.

    Raises: ValueError for tiles without latents, or an overlap above half of a tile.
    """

    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"a tile has one latent a side at least, not {self.tile}")
        if not 0 <= 2 * self.overlap <= self.tile:
            raise ValueError(f"an overlap of {self.overlap} latents is outside 0 to half of a tile of {self.tile}")

    def starts(self, side: int) -> list[int]:
        """The first latent of each tile along a side, spread evenly; a single 0 where one tile covers it."""
        if side <= self.tile:
            return [0]
        last = math.ceil((side - self.overlap) / (self.tile - self.overlap)) - 1
        return [round(i * (side - self.tile) / last) for i in range(last + 1)]

    def seams(self, side: int, factor: int) -> list[Seam]:
        """The cross-fades along a side of `side` latents, in the middle of what two neighbours share."""
        width = self.overlap * factor // 2
        middles = [(before + self.tile + after) * factor // 2 for before, after in pairwise(self.starts(side))]
        return [Seam(middle - width // 2, middle - width // 2 + width) for middle in middles]

    def covers(self, height: int, width: int) -> bool:
        """Whether one tile holds all of a latent."""
        return max(height, width) <= self.tile


def decode_tiled(decode: Decode, latent: Tensor, factor: int, tiling: Tiling) -> Iterator[Tensor]:
    """The image of `latent` from the top down, in pieces that follow each other without a gap.

    One tile gives exactly what `decode` does. In memory at a time: what `decode` needs for one tile, the latent, and
    about two tiles' rows of the image; a caller that turns pieces into bytes as they come keeps the image small as
    well.
    Shapes: latent (N, C, h, w); each piece (N, 3, rows, w * factor).
    """
    height, width = latent.shape[2:]
    tops, lefts = tiling.starts(height), tiling.starts(width)

    def strip(top: int) -> Tensor:
        rows = latent[:, :, top : top + tiling.tile]
        tiles = (decode(rows[:, :, :, left : left + tiling.tile]) for left in lefts)
        return torch.cat(list(_faded(tiles, [left * factor for left in lefts], tiling.seams(width, factor), dim=3)), 3)

    return _faded(map(strip, tops), [top * factor for top in tops], tiling.seams(height, factor), dim=2)


def _faded(tiles: Iterable[Tensor], starts: Sequence[int], seams: Sequence[Seam], dim: int) -> Iterator[Tensor]:
    """What tiles show along one axis, piece by piece, one going over linearly into the next at each seam."""
    fading, shown = None, 0
    for start, tile, seam in zip(starts, tiles, [*seams, None], strict=True):
        size = tile.shape[dim]
        if fading is not None:
            width = fading.shape[dim]
            ramp = (torch.arange(width, device=tile.device, dtype=tile.dtype) + 0.5) / max(1, width)
            ramp = ramp.view(-1, *[1] * (tile.dim() - dim - 1))
            yield torch.lerp(fading, tile.narrow(dim, shown - start, width), ramp)
            shown += width
        end = start + size if seam is None else seam.first
        yield tile.narrow(dim, shown - start, end - shown)
        shown = end
        # A copy, or the whole tile would stay in memory while the next one is made.
        fading = None if seam is None else tile.narrow(dim, end - start, seam.end - end).clone()


@dataclass(frozen=True)
class TilingDifference:
    """How images decoded in tiles differ from the same latents decoded whole.

    rmse: of pixels, in grey levels of 255. relative: root of the mean squared difference in parts of the whole images'
    standard deviation; relative_between_seams: the same away from all cross-fades. seam_gradient: mean absolute
    difference of neighbouring pixels across the cross-fades in parts of that elsewhere, the larger of both axes;
    seam_gradient_whole: at the same places of the images decoded whole, where content alone makes it differ from 1.
    None where there is nothing to compare: no cross-fade, or nothing but cross-fades.
    """

    rmse: float
    relative: float
    relative_between_seams: float | None
    seam_gradient: float | None
    seam_gradient_whole: float | None


@torch.no_grad()
def tiling_difference(decode: Decode, latent: Tensor, factor: int, tiling: Tiling) -> TilingDifference:
    """Decodes each of `latent` (N, C, h, w) both ways, which needs the memory of one whole image."""
    images = [
        (decode(one), torch.cat(list(decode_tiled(decode, one, factor, tiling)), dim=2)) for one in latent.split(1)
    ]
    whole, tiled = (torch.cat(side).double() for side in zip(*images, strict=True))
    squared, deviation = (tiled - whole).square(), whole.std()
    seams = [tiling.seams(side, factor) for side in latent.shape[2:]]
    rows, columns = (_across(found, side) for found, side in zip(seams, whole.shape[2:], strict=True))
    between = squared[:, :, ~rows[:, None] & ~columns]
    return TilingDifference(
        rmse=float(squared.mean().sqrt() * 127.5),
        relative=float(squared.mean().sqrt() / deviation),
        relative_between_seams=float(between.mean().sqrt() / deviation) if between.numel() else None,
        seam_gradient=_seam_gradient(tiled, rows, columns),
        seam_gradient_whole=_seam_gradient(whole, rows, columns),
    )


def _across(seams: Sequence[Seam], side: int) -> Tensor:
    """For each pixel along a side, whether it lies in a cross-fade or is the last before one."""
    found = torch.zeros(side, dtype=torch.bool)
    for seam in seams:
        found[seam.first - 1 : seam.end] = True
    return found


def _seam_gradient(image: Tensor, rows: Tensor, columns: Tensor) -> float | None:
    """Gradient along the axis that cross-fades cross, over the same elsewhere; the larger of both axes."""
    ratios = []
    for dim, mask in ((2, rows[:-1]), (3, columns[:-1])):
        steps = image.diff(dim=dim).abs().movedim(dim, 0)
        if mask.any() and not mask.all():
            ratios.append(float(steps[mask].mean() / steps[~mask].mean()))
    return max(ratios, default=None)
