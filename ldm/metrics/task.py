"""Whether samples show what they were conditioned on: counts of probes, image by image, summed up with intervals.

`class_accuracy`          share of images whose class the probe recognises
`layout_accuracy`         share of boxes whose object the probe recognises
`semantic_miou`           intersection over union of found and asked-for pixels, mean over the classes asked for
`text_balanced_accuracy`  mean over attributes of (share found of those named + share not found of those not named) / 2

Counts are int (N, ...), images first, as the probes of `ldm.probes` give them. Intervals are at 95 %: Wilson's for
single answers, else the delete-a-block jackknife over images, since the answers within one image depend on each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ldm.metrics.intervals import block_jackknife, proportion_interval
from ldm.metrics.values import Metric, MetricValue, Variant, varied
from ldm.records import TASK, LeftOut

MINIMUM: Final = 16
"""Images below which a score is left out."""

JACKKNIFE_BLOCKS: Final = 50

LEAST_NAMED: Final = 5
"""Images that must name an attribute, and that must not, for it to count."""

Counts = NDArray[Any]


def shuffled_partners(n: int, seed: int) -> NDArray[np.int64]:
    """For each of n samples another one, whose condition it is scored against for the floor: one random cycle of all.

    Shapes: result (n,).
    """
    cycle = np.random.default_rng(seed).permutation(n)
    partners = np.empty(n, np.int64)
    partners[cycle] = np.roll(cycle, -1)
    return partners


def accuracy(metric: Metric, counts: Counts) -> MetricValue | LeftOut:
    """Right answers (N, 2: right, asked) of at most one question an image."""
    asked = counts[counts[:, 1] > 0]
    if len(asked) < MINIMUM:
        return _too_few(metric, len(asked), "images with a question")
    right = int(asked[:, 0].sum())
    interval = proportion_interval(right, len(asked))
    return MetricValue(metric, interval.value, len(asked), interval.low, interval.high)


def clustered_accuracy(metric: Metric, counts: Counts) -> MetricValue | LeftOut:
    """Right answers (N, 2: right, asked) of any number of questions an image."""
    asked = counts[counts[:, 1] > 0]
    if len(asked) < MINIMUM:
        return _too_few(metric, len(asked), "images with a question")
    return _jackknifed(metric, asked, lambda sums: float(sums[0] / sums[1]))


def mean_intersection_over_union(metric: Metric, counts: Counts) -> MetricValue | LeftOut:
    """Pixels by class (N, 3: found and true, found, true; classes); classes of no true pixel do not count."""
    asked = counts[counts[:, 2].sum(axis=1) > 0]
    if len(asked) < MINIMUM:
        return _too_few(metric, len(asked), "images with a label map")

    def mean(sums: NDArray[np.float64]) -> float:
        both, found, true = sums[:, sums[2] > 0]
        return float((both / (found + true - both)).mean())

    return _jackknifed(metric, asked, mean)


def mean_balanced_accuracy(metric: Metric, counts: Counts) -> MetricValue | LeftOut:
    """Answers by attribute (N, 2: named, found; attributes).

    An attribute counts where at least 5 images name it and at least 5 do not.
    """
    named, found = counts[:, 0].astype(bool), counts[:, 1].astype(bool)
    counted = (named.sum(axis=0) >= LEAST_NAMED) & ((~named).sum(axis=0) >= LEAST_NAMED)
    if len(counts) < MINIMUM or not counted.any():
        return _too_few(metric, len(counts), f"images, and an attribute that {LEAST_NAMED} of them name")
    named, found = named[:, counted], found[:, counted]
    answers = np.stack([named & found, named, ~named & ~found, ~named], axis=1)

    def mean(sums: NDArray[np.float64]) -> float:
        hits, positive, rejections, negative = np.maximum(sums, 1e-300)
        return float((hits / positive + rejections / negative).mean() / 2)

    return _jackknifed(metric, answers, mean)


@dataclass(frozen=True)
class TaskMetric:
    """A score, and what makes it of counts."""

    metric: Metric
    of_counts: Callable[[Metric, Counts], MetricValue | LeftOut]


def _score(
    name: str, title: str, of_counts: Callable[[Metric, Counts], MetricValue | LeftOut]
) -> tuple[str, TaskMetric]:
    return name, TaskMetric(Metric(name, title, True, TASK, images=MINIMUM, headline_from=0), of_counts)


TASK_METRICS: Final[Mapping[str, TaskMetric]] = dict(
    (
        _score("class_accuracy", "class accuracy", accuracy),
        _score("layout_accuracy", "layout accuracy", clustered_accuracy),
        _score("semantic_miou", "mean IoU of label maps", mean_intersection_over_union),
        _score("text_balanced_accuracy", "balanced accuracy of attributes", mean_balanced_accuracy),
    )
)
"""By the name of the score, which is the probe's `metric`."""


def task_score(metric: str, counts: Counts, *variants: Variant) -> MetricValue | LeftOut:
    """The score of that name, or a variant of it (`REAL_IMAGES`, `OTHER_CONDITIONS`).

    Shapes: counts (N, ...), as the score's own function states.
    """
    score = TASK_METRICS[metric]
    return score.of_counts(varied(score.metric, *variants), counts)


def _jackknifed(metric: Metric, counts: Counts, statistic: Callable[[NDArray[np.float64]], float]) -> MetricValue:
    """A statistic of the sums over images, with its interval."""
    # Samples may stand in an order that means something (images of a folder by class); blocks must not.
    mixed = counts[np.random.default_rng(0).permutation(len(counts))]
    blocks = min(JACKKNIFE_BLOCKS, len(counts))
    summed = np.add.reduceat(mixed, np.arange(blocks) * len(mixed) // blocks, axis=0, dtype=np.float64)
    interval = block_jackknife([summed], lambda part: statistic(part.sum(axis=0)), blocks)
    return MetricValue(metric, interval.value, len(counts), interval.low, interval.high)


def _too_few(metric: Metric, n: int, what: str) -> LeftOut:
    return LeftOut(metric.name, f"It needs at least {MINIMUM} {what}, here there are {n}.")
