"""Fidelity and diversity from balls around items that reach to their k-th nearest neighbour.

`precision`, `recall`            share of samples within a ball of the reference, and of the reference within a ball of
                                 the samples; k = 3 (Kynkaanniemi et al. 2019, arXiv 1904.06991)
`density`, `coverage`            mean number of reference balls that a sample lies in, over k; share of reference balls
                                 that hold a sample; k = 5 (Naeem et al. 2020, arXiv 2002.09797)
`clipped_density`,               the same robust to outliers and read as shares of good samples: radii at most the
`clipped_coverage`               median and no sample above 1, over what the reference reaches against itself; samples
                                 in a ball counted up to k, over what so many good samples would reach
                                 (Salvy et al. 2025, arXiv 2507.01761)

Distances are computed in float64 a tile at a time, never as a whole matrix, so memory does not grow with n squared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaln, gammaln
from torch import Tensor

MANIFOLD_NEIGHBOUR: Final = 3
"""Precision and recall."""

BALL_NEIGHBOUR: Final = 5
"""Density and coverage, clipped or not."""

TILE: Final = 2048
"""Rows of a tile a side: a tile of distances takes 32 MiB."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbourhoods:
    """All six measures of one pair of sets."""

    precision: float
    recall: float
    density: float
    coverage: float
    clipped_density: float
    clipped_coverage: float


def neighbourhoods(generated: NDArray[np.float32], reference: NDArray[np.float32], limit: int = 1) -> Neighbourhoods:
    """The measures of features (n, d) and (m, d), each with more items than `BALL_NEIGHBOUR`.

    `limit`: where the clipped two end, 1 by definition; spreads are taken of what chance brings above it too.
    Raises: ValueError where a set is too small.
    """
    if min(len(generated), len(reference)) <= BALL_NEIGHBOUR:
        raise ValueError(f"balls need more than {BALL_NEIGHBOUR} items a side, here {len(generated)}, {len(reference)}")
    samples, real = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (generated, reference))
    k = BALL_NEIGHBOUR
    nearest_real = _nearest(real, k)
    manifold, balls = nearest_real.squared[:, MANIFOLD_NEIGHBOUR - 1], nearest_real.squared[:, k - 1]
    clipped = balls.clamp(max=balls.median())
    generated_manifold = _nearest(samples, MANIFOLD_NEIGHBOUR).squared[:, -1]

    within_real = torch.zeros(len(samples), dtype=torch.bool)
    within_generated = torch.zeros(len(real), dtype=torch.bool)
    held = torch.zeros(len(real), dtype=torch.int64)  # samples strictly within each ball
    touched = torch.zeros(len(real), dtype=torch.bool)
    holding, holding_clipped = (torch.zeros(len(samples), dtype=torch.int64) for _ in range(2))
    for rows, columns, squared in _tiles(samples, real):
        within_real[rows] |= (squared <= manifold[columns]).any(dim=1)
        within_generated[columns] |= (squared <= generated_manifold[rows, None]).any(dim=0)
        inside = squared <= balls[columns]
        holding[rows] += inside.sum(dim=1)
        touched[columns] |= inside.any(dim=0)
        holding_clipped[rows] += (squared <= clipped[columns]).sum(dim=1)
        held[columns] += (squared < balls[columns]).sum(dim=0)
    ideal = _share(_self_holding(nearest_real, clipped), k)
    return Neighbourhoods(
        precision=float(within_real.double().mean()),
        recall=float(within_generated.double().mean()),
        density=float(holding.double().mean()) / k,
        coverage=float(touched.double().mean()),
        clipped_density=min(_share(holding_clipped, k) / ideal, float(limit)),
        clipped_coverage=_as_share_of_good(_share(held, k), len(samples), len(real), k, limit),
    )


def expected_coverage(good: NDArray[np.int64], m: int, k: int = BALL_NEIGHBOUR) -> Array:
    """What clipped coverage counts on average where `good` samples follow the distribution of the m reference items.

    The ball of a reference item reaches to the k-th of m - 1 others, so it holds a Beta(k, m - k) share of the
    distribution, and of the good samples a beta-binomial number.
    Shapes: good (n,); result alike. Source: Salvy et al. 2025, section 4.
    """
    n = np.asarray(good, dtype=np.float64)
    short = np.zeros(n.shape)
    for held in range(k):
        possible = n >= held
        safe = np.where(possible, n, held)
        choose = gammaln(safe + 1) - gammaln(held + 1) - gammaln(safe - held + 1)
        probability = np.exp(choose + betaln(k + held, m - k + safe - held) - betaln(k, m - k))
        short += (k - held) * np.where(possible, probability, 0.0)
    return 1 - short / k


def _as_share_of_good(counted: float, n: int, m: int, k: int, limit: int) -> float:
    """The share of n samples that would have to be good to reach what was counted."""
    good = np.arange(limit * n + 1)
    return float(np.interp(counted, expected_coverage(good, m, k), good / n))


def _share(counts: Tensor, k: int) -> float:
    """Mean over items of counts that are full at k."""
    return float(counts.clamp(max=k).double().mean()) / k


def _self_holding(nearest: "_Nearest", radii: Tensor) -> Tensor:
    """In how many balls of the others each item lies; radii reach no further than the nearest that are known."""
    inside = nearest.squared <= radii[:, None]
    return torch.bincount(nearest.index[inside], minlength=len(radii))


@dataclass(frozen=True)
class _Nearest:
    """The nearest others of each item, the nearest first: squared distances and who they are, (n, k)."""

    squared: Tensor
    index: Tensor


def _nearest(items: Tensor, k: int) -> _Nearest:
    squared = torch.full((len(items), k), torch.inf, dtype=torch.float64)
    index = torch.zeros((len(items), k), dtype=torch.int64)

    def meet(rows: slice, columns: slice, tile: Tensor) -> None:
        best = tile.topk(min(k, tile.shape[1]), dim=1, largest=False)
        candidates = torch.cat([squared[rows], best.values], dim=1)
        chosen = candidates.topk(k, dim=1, largest=False)
        squared[rows] = chosen.values
        index[rows] = torch.cat([index[rows], best.indices + columns.start], dim=1).gather(1, chosen.indices)

    for rows, columns, tile in _tiles(items, items, half=True):
        if rows == columns:
            tile.fill_diagonal_(torch.inf)  # an item is no neighbour of itself
        else:
            meet(columns, rows, tile.T)
        meet(rows, columns, tile)
    order = squared.argsort(dim=1)
    return _Nearest(squared.gather(1, order), index.gather(1, order))


def _tiles(a: Tensor, b: Tensor, half: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances in float64, a tile at a time with the rows and columns that it is of.

    `half`: only tiles on the diagonal and right of it, where a and b are the same items.
    """
    centre = b[: min(len(b), TILE)].double().mean(dim=0)  # so that distances are small differences of small numbers
    for top in range(0, len(a), TILE):
        rows = slice(top, min(top + TILE, len(a)))
        x = a[rows].double() - centre
        x_squares = x.square().sum(dim=1, keepdim=True)
        for left in range(top if half else 0, len(b), TILE):
            columns = slice(left, min(left + TILE, len(b)))
            y = b[columns].double() - centre
            squared = torch.addmm(x_squares + y.square().sum(dim=1), x, y.T, alpha=-2).clamp_(min=0)
            yield rows, columns, squared
