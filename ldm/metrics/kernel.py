"""Kernel distances: unbiased squared maximum mean discrepancies, on all images, with their jackknife spread.

`cubic`     (x . y / d + 1)^3, the kernel of KID (Binkowski et al. 2018, arXiv 1801.01401)
`gaussian`  1000 exp(-|x - y|^2 / 200) on embeddings of unit length, that of CMMD (Jayasumana et al. 2024,
            arXiv 2401.09603)
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ldm.metrics.intervals import Spread, block_sizes, combine, jackknife_spread

Array = NDArray[np.float64]

Kernel = Callable[[Array, Array], Array]
"""Kernel values of items (n, d) and (m, d), (n, m)."""

KERNEL_SUBSET: Final = 1000
JACKKNIFE_BLOCKS: Final = 50
BANDWIDTH: Final = 10.0
SCALE: Final = 1000.0


def cubic(a: Array, b: Array) -> Array:
    """(x . y / d + 1)^3. Shapes: a (n, d), b (m, d); result (n, m)."""
    product = a @ b.T / a.shape[1] + 1
    return product * product * product


def gaussian(a: Array, b: Array) -> Array:
    """1000 exp(-|x - y|^2 / (2 10^2)) of x and y divided by their lengths.

    Shapes: a (n, d), b (m, d); result (n, m).
    """
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    squared = np.maximum(2 - 2 * (x @ y.T), 0.0)
    return SCALE * np.exp(-squared / (2 * BANDWIDTH**2))


def _strips(a: Array, b: Array, sizes: NDArray[np.int64], kernel: Kernel) -> Iterator[tuple[slice, Array]]:
    """The kernel of each block of a with all of b, and the rows of a that the block is."""
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        rows = slice(int(end - size), int(end))
        yield rows, kernel(a[rows], b)


def _across(a: Array, b: Array, sizes_a: NDArray[np.int64], sizes_b: NDArray[np.int64], kernel: Kernel) -> Array:
    """Sums of the kernel over pairs of blocks, (blocks of a, blocks of b)."""
    starts_b = np.cumsum(sizes_b) - sizes_b
    return np.stack([np.add.reduceat(k.sum(axis=0), starts_b) for _, k in _strips(a, b, sizes_a, kernel)])


def _within(a: Array, sizes: NDArray[np.int64], kernel: Kernel) -> Array:
    """Block sums of the kernel of a set with itself, without the pairs of an item with itself."""
    starts, sums = np.cumsum(sizes) - sizes, []
    for block, (rows, values) in enumerate(_strips(a, a, sizes, kernel)):
        sums.append(np.add.reduceat(values.sum(axis=0), starts))
        sums[block][block] -= values[:, rows].trace()
    return np.stack(sums)


def kernel_distance(
    features_a: NDArray[np.floating],
    features_b: NDArray[np.floating],
    blocks: int = JACKKNIFE_BLOCKS,
    kernel: Kernel = cubic,
) -> tuple[float, Spread]:
    """Unbiased squared maximum mean discrepancy on all images, with its jackknife spread.

    With the cubic kernel equal to torch-fidelity's estimate with one subset of all images. Both sets may differ in
    size; each is varied alone by deleting one block of it, and the variances add. Kernel matrices are computed once, a
    strip at a time.
    Shapes: features_a (n, d), features_b (m, d).
    Source: Gretton et al. 2012, equation 3.
    """
    a, b = np.asarray(features_a, dtype=np.float64), np.asarray(features_b, dtype=np.float64)
    sizes_a, sizes_b = (block_sizes(len(x), min(blocks, len(x) // 2)) for x in (a, b))
    aa, bb = _within(a, sizes_a, kernel), _within(b, sizes_b, kernel)
    ab = _across(a, b, sizes_a, sizes_b, kernel)
    mean_aa, mean_bb = aa.sum() / (len(a) * (len(a) - 1)), bb.sum() / (len(b) * (len(b) - 1))
    value = float(mean_aa + mean_bb - 2 * ab.sum() / (len(a) * len(b)))

    def spread(own: Array, sizes: NDArray[np.int64], other_mean: float, cross: Array, other_n: int) -> Spread:
        left = sizes.sum() - sizes
        own_left = own.sum() - 2 * own.sum(axis=1) + np.diag(own)
        cross_left = cross.sum() - cross.sum(axis=1)
        without = own_left / (left * (left - 1)) + other_mean - 2 * cross_left / (left * other_n)
        return jackknife_spread(value, without, sizes)

    return value, combine(spread(aa, sizes_a, mean_bb, ab, len(b)), spread(bb, sizes_b, mean_aa, ab.T, len(a)))


def kernel_subsets(n_a: int, n_b: int) -> tuple[int, int]:
    """Size and number of the random subsets of the kernel distance.

    The size is 1000 or all images of the smaller set. One subset where it is all of both sets, the standard 100 at the
    standard size, else 10.
    """
    size = min(n_a, n_b, KERNEL_SUBSET)
    if n_a == n_b == size:
        return size, 1
    return size, 100 if size == KERNEL_SUBSET else 10
