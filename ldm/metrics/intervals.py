"""Confidence intervals: Student's for means, Wilson's for shares, delete-a-block jackknife for everything smooth."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval.

    `deviations`: what each block of each set of images contributes (`Spread.deviations`), so that estimates on the same
    blocks can be compared; None where it is not known. `alone`: variance of the estimate beside theirs.
    """

    value: float
    low: float
    high: float
    deviations: tuple[tuple[float, ...], ...] | None = None
    alone: float = 0.0


@dataclass(frozen=True)
class Spread:
    """Variance of an estimate, the estimate of its bias, and the degrees of freedom behind the variance.

    `deviations`: for each sample that was varied what its blocks contribute; all squares add up to the variance.
    """

    variance: float
    bias: float
    freedom: float
    deviations: tuple[tuple[float, ...], ...] = ()


def student_interval(value: float, variance: float, freedom: float, level: float = LEVEL) -> Interval:
    """value -+ t sqrt(variance), t the quantile of Student's distribution with `freedom` degrees of freedom."""
    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(max(variance, 0.0))
    return Interval(value, value - half, value + half)


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """The mean of independent values, of any shape, with Student's interval.

    Raises: ValueError for fewer than two values, which have a mean but no spread.
    """
    data = np.asarray(values, dtype=np.float64).ravel()
    if data.size < 2:
        raise ValueError(f"an interval needs at least 2 values, here are {data.size}")
    return student_interval(float(data.mean()), float(data.var(ddof=1)) / data.size, data.size - 1, level)


def block_sizes(n: int, blocks: int) -> NDArray[np.int64]:
    """Sizes of `blocks` consecutive blocks of n items, as equal as they can be.

    Shapes: result (blocks,).
    Raises: ValueError where there are fewer than two blocks or more blocks than items.
    """
    if not 2 <= blocks <= n:
        raise ValueError(f"{n} items cannot be cut into {blocks} blocks: use 2 to {n}")
    return np.diff(np.arange(blocks + 1) * n // blocks)


def jackknife_spread(value: float, left_out: ArrayLike, sizes: ArrayLike) -> Spread:
    """Variance and bias of a statistic from its values with each block left out; blocks may differ in size.

    Shapes: left_out and sizes (blocks,).
    Source: Busing, Meijer and van der Leeden 1999, Delete-m jackknife for unequal m, Statistics and Computing 9.
    """
    without, m = np.asarray(left_out, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    n, g = float(m.sum()), m.size
    h = n / m
    estimate = g * value - float(((1 - m / n) * without).sum())
    pseudo = h * value - (h - 1) * without
    variance = float(((pseudo - estimate) ** 2 / (h - 1)).mean())
    deviations = (pseudo - estimate) / np.sqrt((h - 1) * g)
    return Spread(variance, value - estimate, g - 1, (tuple(deviations.tolist()),))


def combine(*spreads: Spread) -> Spread:
    """The spread of a statistic of independent samples, each of which was varied alone.

    Variances and biases add; the degrees of freedom are those of Welch and Satterthwaite.
    """
    variance = sum(spread.variance for spread in spreads)
    shares = sum(spread.variance**2 / spread.freedom for spread in spreads)
    freedom = variance**2 / shares if shares > 0 else sum(spread.freedom for spread in spreads)
    deviations = tuple(sample for spread in spreads for sample in spread.deviations)
    return Spread(variance, sum(spread.bias for spread in spreads), freedom, deviations)


def block_jackknife(
    samples: Sequence[NDArray[np.float64]],
    statistic: Callable[..., float],
    blocks: int,
    level: float = LEVEL,
    correct_bias: bool = False,
) -> Interval:
    """A statistic of one or more independent samples with its delete-a-block jackknife interval.

    Blocks are consecutive rows, so rows in an order that means something must be shuffled first. With `correct_bias`
    the value and the interval are shifted by the jackknife's estimate of the bias.
    Shapes: each sample (n, ...), n its own; `statistic` takes them all.
    """
    value = statistic(*samples)
    spreads = []
    for index, sample in enumerate(samples):
        sizes = block_sizes(len(sample), blocks)
        ends = np.cumsum(sizes)
        without = [
            statistic(*samples[:index], np.delete(sample, np.s_[end - size : end], axis=0), *samples[index + 1 :])
            for size, end in zip(sizes, ends, strict=True)
        ]
        spreads.append(jackknife_spread(value, without, sizes))
    spread = combine(*spreads)
    return student_interval(value - spread.bias if correct_bias else value, spread.variance, spread.freedom, level)


def proportion_interval(successes: int, n: int, level: float = LEVEL) -> Interval:
    """The share of successes among n independent trials with Wilson's score interval.

    Raises: ValueError for no trials.
    Source: Wilson 1927, Probable inference, Journal of the American Statistical Association 22.
    """
    if n < 1:
        raise ValueError("a share needs at least one trial")
    z = float(ndtri(0.5 + level / 2))
    share, extra = successes / n, z * z / n
    centre = (share + extra / 2) / (1 + extra)
    half = math.sqrt(extra * share * (1 - share) + extra * extra / 4) / (1 + extra)
    return Interval(share, centre - half, centre + half)


def difference(a: Interval, b: Interval, shared: Collection[int] = ()) -> Interval:
    """a - b with its interval. What both owe to the same blocks of the samples `shared` drops out.

    `shared` numbers those of `deviations` that belong to samples that both estimates were made of. Where an estimate
    has no deviations, its variance is read off its interval, and nothing drops out.
    """
    value = a.value - b.value
    if a.deviations is None or b.deviations is None:
        variance = sum(((one.high - one.low) / 2 / float(ndtri(0.5 + LEVEL / 2))) ** 2 for one in (a, b))
        return student_interval(value, variance, math.inf)
    parts = []
    for index, (mine, other) in enumerate(zip(a.deviations, b.deviations, strict=True)):
        if index in shared and len(mine) == len(other):
            parts.append(np.subtract(mine, other))
        else:
            parts += [np.asarray(mine), np.asarray(other)]
    spreads = [Spread(float(part @ part), 0.0, len(part) - 1) for part in parts]
    spreads.append(Spread(a.alone + b.alone, 0.0, math.inf))
    spread = combine(*spreads)
    return student_interval(value, spread.variance, spread.freedom)
