"""Which cells are better than others, and which cannot be told apart.

A cell is a grid point without its seeds. Its values over sampler seeds are averaged within a training, and trainings
are its repetitions: those of the first stage where `ae_seed` varies, else those of the diffusion model. What a mean, or
a difference of means, owes to chance has two parts:
- What it has in common with all its trainings: the same samples i start from the same noise, and all are measured
  against the same reference images. Rows tell what each block of both contributes to their deviation. The inner product
  of two trainings' deviations is the variance that they have in common, which no further training averages away; and in
  the difference of two cells all drops out that they owe to the same blocks.
- The scatter of trainings, with all that other samples do to one alone. Two or three trainings of one cell say little,
  so their variance, in units of the sampling variance, is pooled over all cells. A cell or pair that scatters far more
  than the others (F test at 20 %, Bonferroni over cells) counts by itself, with its own few degrees of freedom.
Cells with the same trainings are compared training by training. P-values are two-sided, from Student's distribution,
and corrected by Holm's procedure. The best cell is chosen by the data, so it is corrected for all pairs from which it
was chosen. What is no better than a Gaussian of its latents, which needs no network, is not among these: it gets no
verdict (`against_gaussian`). Nor do cells whose limits take the verdict (`analysis.limits`), or those of `scale=tiny`.
A pair that another extractor's kernel distance tells apart the other way round has none either (`contradicted`).

Source of the factor: Birge 1932, Phys. Rev. 40, 207 (the ratio by which errors that do not explain a scatter grow); of
degrees of freedom of sums: Welch 1947, Biometrika 34.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtrc, ndtri, stdtr, stdtrit

from analysis.axes import Axes, is_given
from analysis.headline import OF_SAMPLES, direction, floors_of, is_of_samples
from analysis.labels import named_value, varying
from ldm.errors import UserError
from ldm.records import DECODED, GAUSSIAN, GAUSSIAN_BY_CLASS, GENERATION, GROUPS, ResultRow

LEVEL = 0.05

BETTER, WORSE, ALIKE = "better", "worse", "not distinguishable"
UNKNOWN = "training variance unknown"
FIRST_STAGE_UNKNOWN = "first-stage training variance unknown"
DISAGREE = "extractors disagree"
"""What is said of two cells that another extractor tells apart the other way round."""

UNLIKE = 0.2
"""Chance that cells that scatter alike have one that is taken to scatter more."""

ROUNDING = 1e-9
"""Relative to the values: deviations below are none."""

BETTER_THAN_GAUSSIAN, NO_BETTER = "better than the Gaussian", "no better than the Gaussian"
"""What is said of a cell against what needs no network; the second stands in place of a verdict."""

SUFFICES = "a Gaussian suffices"
"""In place of "no better" where decoded images are not told apart from it either, so that nothing could be better."""

PROVISIONAL = "provisional order"
"""What is added to a verdict that hangs on one training of either stage."""

TINY = "tiny"
"""The scale whose numbers mean nothing, so that its cells get no verdict."""

NO_VERDICT = "no verdict: nothing tells how far the values may be off"

MOST_NAMED = 10
"""Cells that an error names."""


@dataclass(frozen=True)
class Limit:
    """What keeps a cell from saying what its latent space can do: a name, and a sentence with the numbers.

    `takes_verdict`: whether the cell is called neither best nor better nor worse.
    """

    name: str
    sentence: str
    takes_verdict: bool = False


def names_of(limits: Iterable[Limit]) -> str:
    """The names of limits in a line."""
    return ", ".join(limit.name for limit in limits)


Deviations = tuple[tuple[float, ...], ...]
"""What each block of the samples, and of the reference images, contributes to a value's deviation."""


@dataclass(frozen=True)
class Training:
    """What one training gave: the mean over its sampler seeds, and how far other images would move it.

    `variance`: of all that other samples and reference images change, NaN where no interval tells; `deviations` where
    it is told apart (`ldm.records.ResultRow`).
    """

    value: float
    variance: float = math.nan
    deviations: Deviations | None = None


@dataclass(frozen=True)
class Measured:
    """A cell's trainings by their seed, all values that went into them, the least n of these, and what they estimate.

    `first_stage` names what was trained before, "" where that was given or is the identity; `ae_seeds`: how many times.
    `bounds`: the interval that came with the value, where it is one.
    """

    name: str
    trainings: Mapping[str, Training]
    values: tuple[float, ...]
    n: int
    estimand: str = ""
    first_stage: str = ""
    ae_seeds: int = 1
    bounds: tuple[float, float] | None = None

    @property
    def mean(self) -> float:
        """Over its trainings."""
        return _mean([training.value for training in self.trainings.values()])

    @property
    def std(self) -> float | None:
        """Over its trainings, over sampler seeds where there is one; None where there is one value."""
        values = [training.value for training in self.trainings.values()] if len(self.trainings) > 1 else self.values
        return math.sqrt(_variance(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class SeedFactor:
    """How far trainings of one cell scatter: squares of what they are off its mean, in units of its sampling variance.

    `scatter` is their sum over so many cells, with `freedom` degrees of freedom; 0: not known.
    """

    scatter: float
    freedom: int
    cells: int

    @property
    def factor(self) -> float:
        """How many times the sampling variance they vary; 0 where nothing tells."""
        return self.scatter / self.freedom if self.freedom else 0.0

    def without(self, cells: Sequence[Measured]) -> "SeedFactor":
        """That of the others."""
        theirs = seed_factor(cells)
        others = (self.scatter - theirs.scatter, self.freedom - theirs.freedom, self.cells - theirs.cells)
        return SeedFactor(*others)


@dataclass(frozen=True)
class Error:
    """Variance of an estimate and its degrees of freedom; `common`: what of it no further training averages away."""

    variance: float
    freedom: float
    common: float = 0.0


@dataclass(frozen=True)
class Mean:
    """A cell's mean over its trainings with a 95 % interval (None where nothing tells one), what of, and its limits."""

    name: str
    value: float
    std: float | None
    repetitions: int
    training_seeds: int
    low: float | None
    high: float | None
    estimand: str
    n: int
    limits: str = ""


@dataclass(frozen=True)
class Comparison:
    """What is known of `cell` against `other`: difference of means, its plain 95 % interval, p by Holm, verdict.

    `verdict` is None where nothing tells how far the values may be off; `unknown`: what else it does not know;
    `limits`: what limits `cell`, in a line; `contradicted_by`: the extractors that say the contrary, in a line.
    """

    cell: str
    other: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    verdict: str | None
    seeds: int
    pairs: int
    unknown: str
    n: int
    limits: str = ""
    contradicted_by: str = ""

    @property
    def sentence(self) -> str:
        """The verdict, with what it does not know, and where it is about an order what limits the cell."""
        if self.verdict is None:
            return NO_VERDICT
        if self.verdict == DISAGREE:
            return f"no verdict: {DISAGREE} ({self.contradicted_by} has it the other way round)"
        is_order = self.verdict in (BETTER, WORSE, ALIKE)
        said = [self.verdict, *([self.unknown, *([PROVISIONAL] if is_order else [])] if self.unknown else [])]
        return with_limits(", ".join(said), self.limits if is_order else "")


def with_limits(said: str, limits: str) -> str:
    """What is said of a cell, and behind it what limits it."""
    return f"{said} (limited by {limits})" if limits else said


def alike(rows: pd.DataFrame, columns: Sequence[str]) -> list[list[int]]:
    """The places of the rows that have the same of all these columns, in their order."""
    found: dict[tuple[str, ...], list[int]] = {}
    for at, key in enumerate(_keys(rows, columns)):
        found.setdefault(key, []).append(at)
    return list(found.values())


def by_cell(rows: pd.DataFrame, axes: Axes) -> list[pd.DataFrame]:
    """The rows of each cell, whatever its seeds, in their order."""
    return [rows.iloc[own] for own in alike(rows, axes.settings)]


Columns = Mapping[str, Sequence[Any]]
"""Rows as lists by column: of thousands of cells each has a few rows, of which a frame apiece would take seconds."""

OF_CELL = (
    *("value", "ci_low", "ci_high", "estimand", "deviations", "alone", "n"),
    *("seed", "ae_seed", "regulariser", "ae_weights"),
)
"""Columns that a cell is made of."""


OF_FLOOR = ("variant", "data", "resolution", "network", "protocol")
"""Columns that say beside which cells a floor stands, with its first stage and n."""


def columns_of(rows: pd.DataFrame, more: Iterable[str] = ()) -> Columns:
    """The columns that cells are made of, and `more`."""
    return {name: rows[name].tolist() for name in dict.fromkeys((*OF_CELL, *more))}


def measured(rows: pd.DataFrame, axes: Axes) -> list[Measured]:
    """The cells among rows of one stage, metric and protocol, in their order."""
    said = varying(rows, [axis for axis in axes.settings if axis not in NAMED])
    columns = columns_of(rows, ("f", "channels", "steps", *said, *axes.first_stage))
    return [
        cell_at(columns, own, _name({axis: values[own[0]] for axis, values in columns.items()}, axes, said), axes)
        for own in alike(rows, axes.settings)
    ]


def one_cell(rows: pd.DataFrame, name: str = "", axes: Axes | None = None) -> Measured:
    """The cell whose rows of one metric, protocol and number of images seen these are, one a repetition.

    `axes`: of the study, where it counts which first stage is behind it.
    """
    more = () if axes is None else axes.first_stage
    return cell_at(columns_of(rows, more), range(len(rows)), name, axes)


def cell_at(columns: Columns, own: Sequence[int], name: str = "", axes: Axes | None = None) -> Measured:
    """As `one_cell`, of the rows at these places of the columns."""
    first, ae_seeds = own[0], _by_value(columns["ae_seed"], own)
    trainings = ae_seeds if len(ae_seeds) > 1 else _by_value(columns["seed"], own)
    is_trained = columns["regulariser"][first] != "identity" and not is_given(columns["ae_weights"][first])
    first_stage = [str(columns[axis][first]) for axis in (() if axes is None else axes.first_stage)]
    low, high = columns["ci_low"][first], columns["ci_high"][first]
    return Measured(
        name,
        {seed: _training(columns, places) for seed, places in trainings.items()},
        tuple(float(columns["value"][at]) for at in own),
        int(min(columns["n"][at] for at in own)),
        str(columns["estimand"][first]),
        " ".join(first_stage) if is_trained else "",
        sum(bool(pd.notna(columns["ae_seed"][places[0]])) for places in ae_seeds.values()),
        (float(low), float(high)) if len(own) == 1 and pd.notna(low) else None,
    )


def _by_value(values: Sequence[Any], own: Iterable[int]) -> dict[str, list[int]]:
    """Places by the value that is there, in words."""
    found: dict[str, list[int]] = {}
    for at in own:
        found.setdefault(str(values[at]), []).append(at)
    return found


def one_value(name: str, row: ResultRow) -> Measured:
    """The cell of which this row is all that was measured."""
    numbers = {"value": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high, "alone": row.alone}
    columns = {column: [math.nan if number is None else number] for column, number in numbers.items()}
    training = _training({**columns, "deviations": [row.deviations]}, [0])
    return Measured(name, {"": training}, (row.value,), row.n, row.estimand)


def _training(columns: Columns, own: Sequence[int]) -> Training:
    value, n = _mean_of_told(columns["value"][at] for at in own), len(own)
    deviations = _mean_deviations(columns["deviations"][at] for at in own)
    if deviations is not None:
        alone = _mean_of_told(columns["alone"][at] for at in own)
        return Training(value, _inner(deviations, deviations) + alone / n, deviations)
    errors = [(columns["ci_high"][at] - columns["ci_low"][at]) / 2 / ERRORS_A_SIDE for at in own]
    return Training(value, _mean_of_told(error * error for error in errors) / n)


ERRORS_A_SIDE = float(ndtri(0.975))
"""Standard errors from a value to the end of its 95 % interval."""


def _mean_of_told(values: Iterable[float]) -> float:
    """The mean of what is no NaN; NaN of nothing."""
    told = [float(value) for value in values if not math.isnan(value)]
    return float(np.sum(told)) / len(told) if told else math.nan


NAMED = ("f", "regulariser", "channels", "steps", "extractor")
"""Axes that a cell's name says anyway, or the metric does."""


def _keys(rows: pd.DataFrame, axes: Sequence[str]) -> list[tuple[str, ...]]:
    """Of each row what it has of the axes, in words; by column, since studies have forty axes and small groups."""
    if not axes:
        return [()] * len(rows)
    return list(zip(*(map(_in_words, rows[axis].tolist()) for axis in axes), strict=True))


def _in_words(value: Any) -> str:
    """A value of an axis; empty where there is none."""
    return str(value) if is_given(value) else ""


def _name(row: Mapping[str, Any], axes: Axes, said: Sequence[str]) -> str:
    parts = [f"{axes.title('regulariser', row['regulariser'])} f = {row['f']}", f"{row['channels']} channels"]
    parts += [f"{row['steps']} steps"] if pd.notna(row["steps"]) else []
    return ", ".join([*parts, *(named_value(axis, row[axis]) for axis in said if is_given(row[axis]))])


def seed_factor(cells: Sequence[Measured]) -> SeedFactor:
    """The factor pooled over cells."""
    scatter, freedom = 0.0, 0
    for cell in cells:
        scale = _scale(cell)
        if len(cell.trainings) > 1 and scale:
            scatter += sum((training.value - cell.mean) ** 2 for training in cell.trainings.values()) / scale
            freedom += len(cell.trainings) - 1
    return SeedFactor(scatter, freedom, len(cells))


def mean_over_seeds(cell: Measured, factor: SeedFactor) -> Mean:
    """The mean of a cell; over trainings where there are several, else of the one model that was trained."""
    several = len(cell.trainings) > 1
    estimand = f"mean over training seeds of {cell.estimand or 'the value'}" if several else cell.estimand
    error = error_of_mean(cell, factor)
    low, high = (None, None) if error is None else cell.bounds or _bounds(cell.mean, error)
    counts = (len(cell.values), len(cell.trainings))
    return Mean(cell.name, cell.mean, cell.std, *counts, low, high, estimand, cell.n)


def error_of_mean(cell: Measured, factor: SeedFactor) -> Error | None:
    """Of the mean over a cell's trainings; None where nothing tells it."""
    trainings = list(cell.trainings.values())
    error = _error(trainings, _scale(cell), factor, [cell])
    if error is not None and len(trainings) > 1 and mean_deviations(cell) is None:
        # Where it is not told apart, all of the sampling variance may be common to all trainings.
        error = _sum(error, Error(_scale(cell) or 0.0, math.inf))
    return error


def against_best(cells: Sequence[Measured], higher_is_better: bool = False, level: float = LEVEL) -> list[Comparison]:
    """Every other cell against the one of the best mean, which comes first in name only; none below two cells."""
    if len(cells) < 2:
        return []
    sign = -1.0 if higher_is_better else 1.0
    best = min(cells, key=lambda cell: sign * cell.mean)
    pairs = len(cells) * (len(cells) - 1) // 2
    return compare([cell for cell in cells if cell is not best], best, seed_factor(cells), sign, pairs, level)


def compare(
    cells: Sequence[Measured],
    other: Measured,
    factor: SeedFactor,
    sign: float = 1.0,
    pairs: int | None = None,
    level: float = LEVEL,
) -> list[Comparison]:
    """Each of `cells` against `other`; `sign` 1 where lower is better, -1 where higher is.

    `pairs` comparisons are corrected for, those made here where None. Were the others made too, a p-value's rank could
    only be later and its multiplier smaller, so ranks among those made here are on the safe side.
    """
    pairs = len(cells) if pairs is None else pairs
    differences = [_difference(cell, other, factor) for cell in cells]
    ranked = sorted((item.p, index) for index, item in enumerate(differences) if item.p is not None)
    corrected: dict[int, float] = {}
    running = 0.0
    for rank, (plain, index) in enumerate(ranked):
        running = max(running, min(1.0, (pairs - rank) * plain))
        corrected[index] = running
    found = []
    for index, (cell, item) in enumerate(zip(cells, differences, strict=True)):
        p = corrected.get(index)
        verdict = None
        if p is not None:
            verdict = ALIKE if p > level else BETTER if sign * item.value < 0 else WORSE
        seeds, n = min(len(cell.trainings), len(other.trainings)), min(cell.n, other.n)
        known = (item.value, item.low, item.high, p, verdict, seeds, pairs, _unknown(cell, other), n)
        found.append(Comparison(cell.name, other.name, *known))
    return found


def _unknown(a: Measured, b: Measured) -> str:
    """What a comparison of two cells cannot know, since it was done once."""
    if min(len(a.trainings), len(b.trainings)) < 2:
        return UNKNOWN
    once = [cell for cell in (a, b) if cell.first_stage and cell.ae_seeds < 2]
    return FIRST_STAGE_UNKNOWN if once and a.first_stage != b.first_stage else ""


def not_known(found: Iterable[Comparison]) -> str:
    """What some of the comparisons do not know, in a line."""
    return ", ".join(dict.fromkeys(item.unknown for item in found if item.unknown))


@dataclass(frozen=True)
class _Difference:
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def error_of_difference(a: Measured, b: Measured, factor: SeedFactor) -> Error | None:
    """Of the difference of two means, training by training where both have the same; None where nothing tells it."""
    error = None
    mine, others = list(a.trainings.values()), list(b.trainings.values())
    if a.trainings.keys() == b.trainings.keys():
        pairs = [_less(a.trainings[key], b.trainings[key]) for key in a.trainings]
        scales = [scale for cell in (a, b) if (scale := _scale(cell)) is not None]
        error = _error(pairs, sum(scales) if len(scales) == 2 else None, factor, [a, b])
    else:
        apart = [_error(one, _scale(cell), factor, [cell]) for one, cell in ((mine, a), (others, b))]
        if apart[0] is not None and apart[1] is not None:
            error = _sum(apart[0], apart[1])
            u, v = mean_deviations(a), mean_deviations(b)
            if u is not None and v is not None and _alike(u, v):
                shared = 2 * _inner(u, v)
                variance, common = max(error.variance - shared, ROUNDING * error.variance), error.common - shared
                error = Error(variance, error.freedom, min(max(common, 0.0), variance))
    # Shares of few images come in steps, and two may be the same.
    if error is None or error.variance <= (ROUNDING * max(abs(a.mean), abs(b.mean))) ** 2:
        return None
    return error


def _difference(a: Measured, b: Measured, factor: SeedFactor) -> _Difference:
    """The difference of means and its uncorrected p-value."""
    value, error = a.mean - b.mean, error_of_difference(a, b, factor)
    if error is None:
        return _Difference(value)
    p = 2 * float(stdtr(error.freedom, -abs(value) / math.sqrt(error.variance)))
    return _Difference(value, *_bounds(value, error), p)


def _less(a: Training, b: Training) -> Training:
    """The difference of two trainings, from which all drops out that they owe to the same blocks."""
    u, v = a.deviations, b.deviations
    if u is None or v is None or not _alike(u, v):
        return Training(a.value - b.value, a.variance + b.variance)
    apart = tuple(tuple(x - y for x, y in zip(*pair, strict=True)) for pair in zip(u, v, strict=True))
    alone = sum(one.variance - _inner(d, d) for one, d in ((a, u), (b, v)))
    return Training(a.value - b.value, _inner(apart, apart) + alone, apart)


def _error(
    trainings: Sequence[Training], scale: float | None, factor: SeedFactor, cells: Sequence[Measured]
) -> Error | None:
    """Of the mean of trainings, or of differences of them, of these cells; None where nothing tells it.

    `scale`: the sampling variance in whose units `factor` is.
    """
    n, variance = len(trainings), _known_mean(training.variance for training in trainings)
    if n == 1:
        return None if variance is None else Error(variance, _freedom(trainings[0].deviations), variance)
    scatter = Error(_variance([training.value for training in trainings]) / n, n - 1)
    if variance is None or not scale:
        return scatter
    mean = _mean_deviations(training.deviations for training in trainings)
    common = 0.0
    if mean is not None:
        apart = math.fsum(_inner(one.deviations, one.deviations) for one in trainings if one.deviations is not None)
        common = max((n * n * _inner(mean, mean) - apart) / (n * (n - 1)), 0.0)
    # Samples alone make trainings vary by what these do not have in common.
    least = max(variance - common, 0.0)
    pooled = Error(max(factor.factor * scale, least) / n, factor.freedom or math.inf)
    if scatter.variance > pooled.variance:
        others = factor.without(cells)
        if not others.freedom:  # nothing says whether these are unlike others
            pooled = Error(scatter.variance, pooled.freedom)
        else:
            expected = max(others.factor * scale, least) / n
            if fdtrc(scatter.freedom, others.freedom, scatter.variance / expected) < UNLIKE / factor.cells:
                pooled = scatter
    return _sum(pooled, Error(common, _freedom(mean), common))


def _scale(cell: Measured) -> float | None:
    """The sampling variance of one of its trainings."""
    return _known_mean(training.variance for training in cell.trainings.values())


def _inner(u: Deviations, v: Deviations) -> float:
    return math.fsum(x * y for a, b in zip(u, v, strict=True) for x, y in zip(a, b, strict=True))


def _alike(u: Deviations, v: Deviations) -> bool:
    """Whether they are of as many blocks."""
    return [len(blocks) for blocks in u] == [len(blocks) for blocks in v]


def _freedom(deviations: Deviations | None) -> float:
    """Of the sum of squares (Welch and Satterthwaite); infinite where it is not told."""
    return _sum(*(Error(_inner((d,), (d,)), len(d) - 1) for d in deviations or ())).freedom


def _sum(*errors: Error) -> Error:
    """Of a sum of independent estimates."""
    variance = math.fsum(error.variance for error in errors)
    shares = math.fsum(error.variance**2 / error.freedom for error in errors)
    common = math.fsum(error.common for error in errors)
    return Error(variance, variance**2 / shares if shares else math.inf, common)


def mean_deviations(cell: Measured) -> Deviations | None:
    """What blocks of images do to the mean over a cell's trainings; None where that is not told apart."""
    return _mean_deviations(one.deviations for one in cell.trainings.values())


def _mean_deviations(given: Iterable[Deviations | None]) -> Deviations | None:
    """Block by block; None where one does not tell, or they are not of the same blocks."""
    told = list(given)
    known = [deviations for deviations in told if deviations is not None]
    if len(known) < len(told) or not all(_alike(known[0], deviations) for deviations in known):
        return None
    return tuple(tuple(map(_mean, zip(*blocks, strict=True))) for blocks in zip(*known, strict=True))


def quantile(probability: float, freedom: float) -> float:
    """Of Student's t, by which verdicts are made, or of a normal variable where the variance is known."""
    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))


def _bounds(value: float, error: Error) -> tuple[float, float]:
    half = quantile(0.975, error.freedom) * math.sqrt(error.variance)
    return value - half, value + half


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _known_mean(values: Iterable[float]) -> float | None:
    known = [float(value) for value in values if not math.isnan(value)]
    return _mean(known) if known else None


def of_first_stage(rows: pd.DataFrame, cell: pd.DataFrame) -> pd.DataFrame:
    """Those of the rows that are of the first stage of a cell's rows; pixels are one for all data sets."""
    first = cell.iloc[0]
    is_its = rows["first_stage"].isin(set(cell["first_stage"]))
    return rows[is_its & (rows["data"] == first["data"]) & (rows["resolution"] == first["resolution"])]


@dataclass(frozen=True)
class Place:
    """What says which floors stand beside a cell: its first stages, its images, and how it was measured.

    `is_any_n`: whether floors of another n will do. `is_told_class`: whether the condition holds a class.
    """

    first_stages: frozenset[str]
    data: str
    resolution: int
    network: str
    protocol: str
    is_any_n: bool
    is_told_class: bool


def places(rows: pd.DataFrame, axes: Axes) -> list[Place]:
    """Those of the cells among rows of one metric, in the order of `measured`."""
    names = ("first_stage", "data", "resolution", "network", "protocol", "headline_from", "conditioning")
    columns = {name: rows[name].tolist() for name in names}
    found = []
    for own in alike(rows, axes.settings):
        first = {name: values[own[0]] for name, values in columns.items()}
        least = first["headline_from"]
        found.append(
            Place(
                frozenset(columns["first_stage"][at] for at in own),
                first["data"],
                first["resolution"],
                first["network"],
                first["protocol"],
                is_any_n=bool(pd.notna(least) and least == 0),
                is_told_class="class" in str(first["conditioning"]).split("+"),
            )
        )
    return found


class Floors:
    """What needs no diffusion model, by one metric: decoded images, and Gaussians of latents.

    Many cells stand beside the same, which is sought once.
    """

    def __init__(self, frame: pd.DataFrame, metric: str) -> None:
        rows = floors_of(frame, metric, DECODED, GAUSSIAN, GAUSSIAN_BY_CLASS)
        self._columns = columns_of(rows, ("first_stage", *OF_FLOOR))
        self._of_first_stage = _by_value(self._columns["first_stage"], range(len(rows)))
        self._decoded: dict[tuple[Place, int], Measured | None] = {}
        self._gaussians: dict[Place, list[Measured]] = {}

    def decoded(self, place: Place, n: int) -> Measured | None:
        """Decoded images, beside a cell of n samples; None where there are none that may be compared with it.

        They may be more or fewer than the samples where the metric has no bias that depends on n.
        """
        if (place, n) not in self._decoded:
            of_n = {} if place.is_any_n else {"n": n}
            own = self._beside(place, variant=DECODED, network=place.network, **of_n)
            is_one = len({self._columns["protocol"][at] for at in own}) == 1
            self._decoded[place, n] = cell_at(self._columns, own, DECODED) if is_one else None
        return self._decoded[place, n]

    def gaussians(self, place: Place) -> list[Measured]:
        """Samples of a Gaussian of the latents, of its protocol; and of each class where it is told the class."""
        if place not in self._gaussians:
            variants = (GAUSSIAN, GAUSSIAN_BY_CLASS) if place.is_told_class else (GAUSSIAN,)
            places = {name: self._beside(place, variant=name, protocol=place.protocol) for name in variants}
            self._gaussians[place] = [cell_at(self._columns, own, name) for name, own in places.items() if own]
        return self._gaussians[place]

    def _beside(self, place: Place, **wanted: object) -> list[int]:
        """The rows of the first stages of a place that have all that is wanted, in their order."""
        wanted |= {"data": place.data, "resolution": place.resolution}
        own = sorted(at for name in place.first_stages for at in self._of_first_stage.get(str(name), ()))
        return [at for at in own if all(self._columns[name][at] == value for name, value in wanted.items())]


def above_decoded(floors: Floors, place: Place, cell: Measured, factor: SeedFactor) -> Comparison | None:
    """A cell against decoded images; None where there are none that may be compared with it."""
    floor = floors.decoded(place, cell.n)
    return None if floor is None else _against_no_network(cell, floor, factor, 1.0)


def against_gaussian(
    floors: Floors, place: Place, cell: Measured, factor: SeedFactor, sign: float
) -> Comparison | None:
    """A cell against samples of a Gaussian of its latents, of the same protocol; None without any.

    Where the cell is told the class, against the better of that and samples of a Gaussian of each class. It suffices
    where neither the cell nor decoded images are told apart from it.
    """
    baselines = floors.gaussians(place)
    if not baselines:
        return None
    better = min(baselines, key=lambda one: sign * one.mean)
    found = _against_no_network(cell, better, factor, sign)
    room = above_decoded(floors, place, better, factor)
    is_room = room is None or room.verdict != ALIKE
    said = {BETTER: BETTER_THAN_GAUSSIAN, ALIKE: NO_BETTER if is_room else SUFFICES, WORSE: NO_BETTER}
    return replace(found, verdict=said.get(found.verdict or ""))


def _against_no_network(cell: Measured, other: Measured, factor: SeedFactor, sign: float) -> Comparison:
    """Against what no diffusion model made, so that only the cell's own trainings count."""
    [found] = compare([cell], other, factor, sign)
    seeds = len(cell.trainings)
    return replace(found, seeds=seeds, unknown=UNKNOWN if seeds < 2 else "")


@dataclass(frozen=True)
class Table:
    """One metric under one protocol: the cells' means, the best first, and the others against it.

    `gaussian`, `decoded`: by cell what it is against the Gaussian of its latents, and against the decoded floor, where
    these were measured. `limits`: by cell what limits it. `tiny`: the cells of `scale=tiny`. `others`: the extractors
    that were asked beside the metric's own.
    """

    metric: str
    protocol: str
    means: list[Mean]
    comparisons: list[Comparison]
    factor: SeedFactor
    gaussian: Mapping[str, Comparison] = field(default_factory=dict)
    decoded: Mapping[str, Comparison] = field(default_factory=dict)
    limits: Mapping[str, Sequence[Limit]] = field(default_factory=dict)
    tiny: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()

    @property
    def unbeaten(self) -> frozenset[str]:
        """Cells that are no better than their Gaussian."""
        return frozenset(name for name, item in self.gaussian.items() if item.verdict == NO_BETTER)

    @property
    def unable(self) -> frozenset[str]:
        """Cells that get no verdict, and are compared with no other."""
        taken = (name for name, limits in self.limits.items() if any(limit.takes_verdict for limit in limits))
        return self.unbeaten | self.tiny | frozenset(taken)

    @property
    def is_all_limited(self) -> bool:
        """Whether something limits every cell, so that none is called best."""
        return all(mean.limits for mean in self.means)


def tables(
    frame: pd.DataFrame,
    axes: Axes,
    against: str | None = None,
    limits: Mapping[str, Sequence[Limit]] = {},
) -> list[Table]:
    """Of every metric of samples whose better end is known, by protocol; against the best, or the cell so named.

    Those of stages behind the samples are among them where their group is none that this program knows. `limits`: by
    column `cell`, what limits it.
    Raises: UserError where not exactly one cell's name begins with `against`.
    """
    rows = compared_rows(frame)
    found = []
    for _, own in rows.groupby(["metric", "protocol"], sort=False):
        higher = direction(own)
        if higher is not None:
            found.append(_table(frame, own, axes, higher, against, limits))
    return found


def compared_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of samples by which cells may be compared."""
    is_evaluation = (frame["stage"] == "evaluation") & frame["variant"].isin(OF_SAMPLES)
    return frame[is_evaluation | (is_of_samples(frame) & ~frame["group"].isin(GROUPS))]


def _table(
    frame: pd.DataFrame,
    rows: pd.DataFrame,
    axes: Axes,
    higher: bool,
    against: str | None,
    limits: Mapping[str, Sequence[Limit]],
) -> Table:
    """The table of rows of one metric and protocol, in a frame that holds their floors too."""
    sign = -1.0 if higher else 1.0
    firsts = rows.iloc[[own[0] for own in alike(rows, axes.settings)]][["cell", "scale"]].to_dict("records")
    pairs = list(zip(measured(rows, axes), places(rows, axes), firsts, strict=True))
    pairs.sort(key=lambda pair: sign * pair[0].mean)
    cells = [cell for cell, _, _ in pairs]
    factor = seed_factor(cells)
    floors = Floors(frame, str(rows["metric"].iloc[0]))
    gaussian, decoded = dict[str, Comparison](), dict[str, Comparison]()
    tiny = frozenset(cell.name for cell, _, first in pairs if first["scale"] == TINY)
    known = {cell.name: limits.get(first["cell"], ()) for cell, _, first in pairs}
    words = {name: names_of(own) for name, own in known.items()}
    for cell, place, _ in pairs:
        if cell.name not in tiny and (baseline := against_gaussian(floors, place, cell, factor, sign)) is not None:
            gaussian[cell.name] = replace(baseline, limits=words[cell.name])
        if (floor := above_decoded(floors, place, cell, factor)) is not None:
            decoded[cell.name] = floor
    first = rows.iloc[0]
    means = [replace(mean_over_seeds(cell, factor), limits=words[cell.name]) for cell in cells]
    names = (str(first["metric"]), str(first["protocol"]))
    table = Table(*names, means, [], factor, gaussian, decoded, known, tiny)
    able = [cell for cell in cells if cell.name not in table.unable]
    if against is None:
        found = against_best(able, higher)
    else:
        other = _named(cells, against)
        found = compare([cell for cell in able if cell is not other], other, factor, sign)
    others = other_extractors(frame, rows, axes)
    found = [replace(item, limits=words[item.cell]) for item in contradicted(found, others)]
    return replace(table, comparisons=found, others=tuple(dict.fromkeys(one.name for one in others)))


KERNEL = "kd"
"""The kind of kernel distances, whichever extractor saw the images."""


@dataclass(frozen=True)
class OtherExtractor:
    """An extractor beside a table's own: its kernel distances of cells, by the names that they have in the table."""

    name: str
    cells: Mapping[str, Measured]


def contradicted(found: Sequence[Comparison], others: Sequence[OtherExtractor]) -> list[Comparison]:
    """The comparisons, without a verdict where another extractor tells the two cells apart the other way round.

    Each is asked about the same pairs at the same level, corrected for as many. One that does not tell two cells apart,
    or has not measured both, changes nothing.
    """
    contrary: dict[int, list[str]] = {}
    for one in others:
        asked = [i for i, item in enumerate(found) if item.cell in one.cells and item.other in one.cells]
        factor = seed_factor(list(one.cells.values()))
        for other in dict.fromkeys(found[i].other for i in asked):
            own = [i for i in asked if found[i].other == other]
            cells = [one.cells[found[i].cell] for i in own]
            for i, said in zip(own, compare(cells, one.cells[other], factor, 1.0, found[own[0]].pairs), strict=True):
                if {found[i].verdict, said.verdict} == {BETTER, WORSE}:
                    contrary.setdefault(i, []).append(one.name)
    said_by = {i: ", ".join(dict.fromkeys(names)) for i, names in contrary.items()}
    return [
        replace(item, verdict=DISAGREE, contradicted_by=said_by[i]) if i in said_by else item
        for i, item in enumerate(found)
    ]


def other_extractors(frame: pd.DataFrame, rows: pd.DataFrame, axes: Axes) -> list[OtherExtractor]:
    """Those that measured two of the cells with these rows or more; none beside other metrics.

    Asked are only distances that may stand for quality. A cell is the same whichever extractor is its own.
    """
    first = rows.iloc[0]
    if pd.isna(first["headline_from"]) or first["group"] != GENERATION:
        return []
    apart = [axis for axis in axes.settings if axis != "extractor"]

    def keyed(rows: pd.DataFrame) -> dict[tuple[str, ...], Measured]:
        keys = _keys(rows, apart)
        firsts = (keys[own[0]] for own in alike(rows, axes.settings))
        return dict(zip(firsts, measured(rows, axes), strict=True))

    names = {key: cell.name for key, cell in keyed(rows).items()}
    is_like = (frame["stage"] == first["stage"]) & (frame["variant"] == first["variant"])
    beside = frame[is_like & (frame["kind"] == KERNEL) & (frame["network"] != first["network"])]
    found = []
    for (network, _), own in beside.groupby(["network", "protocol"], sort=False):
        cells = {names[key]: replace(cell, name=names[key]) for key, cell in keyed(own).items() if key in names}
        found += [OtherExtractor(str(network), cells)] if len(cells) > 1 else []
    return found


def _named(cells: Sequence[Measured], start: str) -> Measured:
    found = [cell for cell in cells if cell.name.startswith(start)]
    if len(found) != 1:
        names = "; ".join(cell.name for cell in cells[:MOST_NAMED]) + ("; ..." if len(cells) > MOST_NAMED else "")
        raise UserError(f"--against '{start}' begins the name of {len(found)} cells, not of one of: {names}.")
    return found[0]


def means_frame(found: Sequence[Table]) -> pd.DataFrame:
    """Means over seeds, one row a cell, metric and protocol."""
    rows = [{"metric": t.metric, "protocol": t.protocol, **asdict(mean)} for t in found for mean in t.means]
    columns = ["metric", "protocol", *(column.name for column in fields(Mean))]
    return pd.DataFrame(rows, columns=columns).rename(columns={"name": "cell", "low": "ci_low", "high": "ci_high"})


def comparisons_frame(found: Sequence[Table]) -> pd.DataFrame:
    """Comparisons with the best cell and with Gaussians, one row a pair, metric and protocol."""
    rows = [
        {"metric": t.metric, "protocol": t.protocol, **asdict(item), "verdict": item.sentence}
        for t in found
        for item in (*t.comparisons, *t.gaussian.values())
    ]
    columns = ["metric", "protocol", *(column.name for column in fields(Comparison))]
    return pd.DataFrame(rows, columns=columns).rename(columns={"low": "ci_low", "high": "ci_high"})
