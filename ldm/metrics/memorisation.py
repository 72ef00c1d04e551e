"""Do samples repeat training images? Distances to the nearest one, beside those of images that were never trained on.

Near a training image lies whatever looks like the data; only what lies nearer than unseen real images do is suspect.
A space is an extractor's features or small pixels; the distance in it is Euclidean.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ldm.metrics.features import EXTRACTOR_TITLES
from ldm.metrics.intervals import LEVEL, Interval, proportion_interval
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import REAL_IMAGES, Metric, MetricValue, varied
from ldm.records import MEMORISATION, LeftOut

NEAREST: Final = Metric("nearest_train", "mean distance to the nearest training image", None, MEMORISATION)
NEARER: Final = Metric("nearer_train", "P(nearer than a held-out image)", None, MEMORISATION)
CLOSE_SHARE: Final = Metric(
    "close_train", "share within the distance of the nearest 5 % of held-out images", None, MEMORISATION
)
"""None has a better end: samples should lie as near as unseen images do."""

PIXEL_SIDE: Final = 32
"""Pixels are compared at most at this side: at full size fine texture drowns what two images share."""

CLOSE: Final = 0.05
"""The share of held-out images that lies within the distance that is called close."""

FEWEST_HELDOUT: Final = 2

PRECISION: Final = 1e-12
"""Of the bounds of a probability, which are found by bisection."""

BLOCK_BYTES: Final = 2**26
"""Of rows in float64, and of their products with others."""


@dataclass(frozen=True)
class Nearest:
    """Of each image the nearest of a set: distances, float64 (n,), and which one it is, int64 (n,)."""

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


def nearest(queries: NDArray[np.float32], among: NDArray[np.float32]) -> Nearest:
    """The nearest of `among` (m, d) to each of `queries` (n, d), a block of both at a time; the first of several alike.

    The product of matrices finds it; its distance is then taken from the difference, which no cancellation spoils.
    """
    centre = among.mean(axis=0, dtype=np.float64)
    least, indices = np.full(len(queries), np.inf), np.zeros(len(queries), np.int64)
    rows, block = _blocks(len(queries), *among.shape)
    for start in range(0, len(among), rows):
        for own, score, found in _nearest_of(among[start : start + rows], queries, centre, block):
            is_nearer = score < least[own]
            least[own][is_nearer], indices[own][is_nearer] = score[is_nearer], start + found[is_nearer]
    distances = np.empty(len(queries))
    for first in range(0, len(queries), rows):
        own = slice(first, first + rows)
        differences = queries[own].astype(np.float64)
        differences -= among[indices[own]]
        distances[own] = np.sqrt(np.square(differences, out=differences).sum(axis=1))
    return Nearest(distances, indices)


def _nearest_of(
    among: NDArray[np.float32], queries: NDArray[np.float32], centre: NDArray[np.float64], block: int
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.int64]]]:
    """Block by block of the queries, the nearest in `among`: its squared distance without what all share, and where."""
    candidates = among - centre
    lengths = np.einsum("ij,ij->i", candidates, candidates)
    for first in range(0, len(queries), block):
        own = slice(first, first + block)
        scores = (queries[own] - centre) @ candidates.T
        scores *= -2
        scores += lengths
        found = scores.argmin(axis=1)
        score = np.take_along_axis(scores, found[:, None], axis=1)[:, 0]
        del scores  # before the next ones take as much
        yield own, score, found


def _blocks(n: int, m: int, d: int) -> tuple[int, int]:
    """Rows of m candidates and of n queries that are looked at together."""
    rows = min(m, max(1, BLOCK_BYTES // (8 * d)))
    return rows, min(n, max(1, BLOCK_BYTES // (8 * max(rows, d))))


def bytes_to_find(n: int, m: int, d: int) -> int:
    """What finding the nearest of m to n rows of d numbers takes at its peak, besides all of these, about."""
    rows, block = _blocks(n, m, d)
    return 8 * (rows * d + block * (rows + d))


def pixel_numbers(side: int) -> int:
    """Numbers in a row of `small_pixels` of square images."""
    return 3 * min(PIXEL_SIDE, side) ** 2


def small_pixels(images: Tensor) -> NDArray[np.float32]:
    """uint8 images averaged to at most 32 px a side, one row each.

    Shapes: images (N, 3, H, W); result (N, 3 side^2). Units: the distance of two rows is the root mean square error on
    0 to 255.
    """
    side = min(PIXEL_SIDE, *images.shape[2:])
    rows = adaptive_avg_pool2d(images.float(), side).flatten(1)
    return (rows / math.sqrt(rows.shape[1])).numpy()


def memorisation_metrics(
    samples: NDArray[np.float64], heldout: NDArray[np.float64], space: str
) -> tuple[list[MetricValue], list[LeftOut]]:
    """Distances of samples to their nearest training image, against those of held-out images to theirs.

    `nearest_train_SPACE` is their mean, `nearer_train_SPACE` the probability that a sample lies nearer than a held-out
    image (0.5: as near as unseen images; 1: copies), `close_train_SPACE` the share of samples within the distance that
    5 % of the held-out images lie within (the interval takes that distance as given). The last two are left out where a
    single held-out image would have to say how near unseen images lie.
    Shapes: samples (n,), heldout (m,).
    """
    mean, (nearer, close) = (
        mean_value(_seen(NEAREST, space), samples),
        (_seen(one, space) for one in (NEARER, CLOSE_SHARE)),
    )
    if len(heldout) < FEWEST_HELDOUT:
        reason = (
            f"It needs at least {FEWEST_HELDOUT} held-out images to say what is near, here there are {len(heldout)}."
        )
        return [mean], [LeftOut(metric.name, reason) for metric in (nearer, close)]
    near = int((samples <= np.quantile(heldout, CLOSE)).sum())
    found = ((nearer, probability_below(samples, heldout)), (close, proportion_interval(near, len(samples))))
    return [mean, *(MetricValue(metric, i.value, len(samples), i.low, i.high) for metric, i in found)], []


def _seen(metric: Metric, space: str) -> Metric:
    return metric.seen_by(space, EXTRACTOR_TITLES.get(space))


def heldout_distance(distances: NDArray[np.float64], space: str) -> MetricValue:
    """The mean distance of held-out images to their nearest training image, which samples are measured against.

    Shapes: distances (m,).
    """
    return mean_value(varied(_seen(NEAREST, space), REAL_IMAGES), distances)


def probability_below(a: ArrayLike, b: ArrayLike, level: float = LEVEL) -> Interval:
    """P(a < b) + P(a = b) / 2 for independent draws of two samples, with a score interval.

    The larger of two variances makes it: DeLong's, which takes any distributions but vanishes where few values overlap,
    at most that of min(m, n) trials (van Dantzig's bound), which is taken where it vanishes; and the one of Hanley and
    McNeil in Newcombe's method 5, which stays right near 0 and 1 for distributions of similar shape.
    Source: DeLong et al. 1988, Biometrics 44(3), the placement values of the Mann-Whitney statistic; Newcombe 2006,
    Statistics in Medicine 25(4), effect size measure based on the Mann-Whitney statistic, part 2; Birnbaum and Klose
    1957, Annals of Mathematical Statistics 28(4), for the bound.
    """
    first, second = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    m, n = len(first), len(second)
    above = 1 - (np.searchsorted(second, first, "left") + np.searchsorted(second, first, "right")) / (2 * n)
    below = (np.searchsorted(first, second, "left") + np.searchsorted(first, second, "right")) / (2 * m)
    value = float(above.mean())
    variance = float(above.var(ddof=1) / m + below.var(ddof=1) / n) if min(m, n) > 1 else 0.0
    trials = max(value * (1 - value) / variance, min(m, n)) if variance > 0 else min(m, n)
    others, critical = (m + n) / 2 - 1, float(ndtri(0.5 + level / 2)) ** 2

    def is_within(p: float, estimate: float) -> bool:
        similar = (1 + others * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return (p - estimate) ** 2 <= critical * p * (1 - p) * max(1 / trials, similar)

    def upper(estimate: float) -> float:
        low, high = estimate, 1.0
        while high - low > PRECISION:
            middle = (low + high) / 2
            low, high = (middle, high) if is_within(middle, estimate) else (low, middle)
        return high

    return Interval(value, 1 - upper(1 - value), upper(value))
