"""Which cells are better than others, and which cannot be told apart.

A cell is a grid point without its seeds; its values over seeds are repetitions. Two cells are compared over the seeds
they share, so that what a seed does to both drops out. The variance of their mean difference is the larger of
- the sampling variance that the rows' intervals tell, times a factor by which values of one cell vary over seeds beyond
  it. Two or three seeds of one cell say little, so the factor is pooled over all cells; it is never below 1;
- the variance of the pair's own differences over seeds.
P-values are two-sided, from Student's distribution with the degrees of freedom of the pooled factor, and corrected by
Holm's procedure. The best cell is chosen by the data, so it is corrected for all pairs from which it was chosen.

Source of the factor: Birge 1932, Phys. Rev. 40, 207 (the ratio by which errors that do not explain a scatter grow).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit

from analysis.collect import ALL_AXES, choices, family_name
from analysis.labels import is_given, named_value
from ldm.errors import UserError

LEVEL = 0.05
REPEATED = ("seed", "ae_seed", "sampler_seed")
"""Axes whose values are repetitions of one cell. Of these `seed` alone trains the diffusion model anew."""

SETTING = tuple(axis for axis in ALL_AXES if axis not in REPEATED)
HIGHER_IS_BETTER = r"(window_)?((clipped_)?(precision|recall|density|coverage)_|is_|is$)"
LOWER_IS_BETTER = r"(window_)?(fd_|fid$|fid_infinity$|sfd_|sfid$|kd_|kid$|cmmd_)"

BETTER, WORSE, ALIKE = "better", "worse", "not distinguishable"
UNKNOWN = "training variance unknown"

MOST_NAMED = 10
"""Cells that an error names."""

Repetition = tuple[str, ...]
"""The values of `REPEATED` of one row."""


@dataclass(frozen=True)
class Measured:
    """A cell's values of one metric by repetition, with the sampling variance of each (NaN where no interval tells)."""

    name: str
    values: Mapping[Repetition, float]
    variances: Mapping[Repetition, float]
    estimand: str = ""

    @property
    def mean(self) -> float:
        """Over its repetitions."""
        return sum(self.values.values()) / len(self.values)

    @property
    def std(self) -> float | None:
        """Over its repetitions; None where there is one."""
        return math.sqrt(_variance(list(self.values.values()))) if len(self.values) > 1 else None

    @property
    def training_seeds(self) -> int:
        """How many times its diffusion model was trained."""
        return len({repetition[0] for repetition in self.values})


@dataclass(frozen=True)
class SeedFactor:
    """How many times the sampling variance values of one cell vary over seeds, at least 1; 0 `freedom`: not known."""

    factor: float
    freedom: int


@dataclass(frozen=True)
class Mean:
    """A cell's mean over its repetitions with a 95 % interval (None where nothing tells one), and what of."""

    name: str
    value: float
    std: float | None
    repetitions: int
    training_seeds: int
    low: float | None
    high: float | None
    estimand: str


@dataclass(frozen=True)
class Comparison:
    """What is known of `cell` against `other`: difference of means, its plain 95 % interval, p by Holm, verdict.

    `verdict` is None where neither intervals nor seeds tell how far the values may be off.
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

    @property
    def sentence(self) -> str:
        """The verdict, with what it does not know."""
        if self.verdict is None:
            return "no verdict: no interval and no second seed"
        return self.verdict if self.seeds > 1 else f"{self.verdict}, {UNKNOWN}"


def by_cell(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each cell, whatever its seeds, in their order."""
    keys = [rows[axis].astype(object).where(rows[axis].notna(), "").map(str) for axis in SETTING]
    return [own for _, own in rows.groupby(keys, sort=False)]


def measured(rows: pd.DataFrame) -> list[Measured]:
    """The cells among rows of one stage, metric and protocol, in their order."""
    varying = [axis for axis in SETTING if axis not in NAMED and choices(rows[axis]) > 1]
    return [one_cell(own, _name(own.iloc[0], varying)) for own in by_cell(rows)]


def one_cell(rows: pd.DataFrame, name: str = "") -> Measured:
    """The cell whose rows of one metric, protocol and number of images seen these are, one a repetition."""
    repetitions = [tuple(map(str, row)) for row in rows[list(REPEATED)].itertuples(index=False)]
    half = (rows["ci_high"] - rows["ci_low"]) / 2
    values = dict(zip(repetitions, rows["value"].astype(float), strict=True))
    variances = dict(zip(repetitions, (half / ndtri(0.975)) ** 2, strict=True))
    return Measured(name, values, variances, str(rows["estimand"].iloc[0]))


NAMED = ("f", "regulariser", "channels", "steps", "extractor")
"""Axes that a cell's name says anyway, or the metric does."""


def _name(row: "pd.Series[Any]", varying: Sequence[str]) -> str:
    parts = [f"{family_name(row['regulariser'])} f = {row['f']}", f"{row['channels']} channels"]
    parts += [f"{row['steps']} steps"] if pd.notna(row["steps"]) else []
    return ", ".join([*parts, *(named_value(axis, row[axis]) for axis in varying if is_given(row[axis]))])


def seed_factor(cells: Sequence[Measured]) -> SeedFactor:
    """The pooled factor: squared deviations from each cell's mean, in units of its sampling variance."""
    total, freedom = 0.0, 0
    for cell in cells:
        sampling = _known_mean(cell.variances.values())
        if len(cell.values) > 1 and sampling:
            total += sum((value - cell.mean) ** 2 for value in cell.values.values()) / sampling
            freedom += len(cell.values) - 1
    return SeedFactor(max(total / freedom, 1.0) if freedom else 1.0, freedom)


def mean_over_seeds(cell: Measured, factor: SeedFactor) -> Mean:
    """The mean of a cell; over training seeds where there are several, else of the one model that was trained."""
    several = cell.training_seeds > 1
    estimand = f"mean over training seeds of {cell.estimand or 'the value'}" if several else cell.estimand
    found = _error(cell.values, cell.variances, factor)
    low, high = (None, None) if found is None else _bounds(cell.mean, *found)
    return Mean(cell.name, cell.mean, cell.std, len(cell.values), cell.training_seeds, low, high, estimand)


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
        seeds = min(cell.training_seeds, other.training_seeds)
        found.append(Comparison(cell.name, other.name, item.value, item.low, item.high, p, verdict, seeds, pairs))
    return found


@dataclass(frozen=True)
class _Difference:
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def _difference(a: Measured, b: Measured, factor: SeedFactor) -> _Difference:
    """The difference of means, over shared repetitions where there are any, and its uncorrected p-value."""
    shared = [repetition for repetition in a.values if repetition in b.values]
    found: tuple[float, float] | None
    if shared:
        values = {r: a.values[r] - b.values[r] for r in shared}
        found = _error(values, {r: a.variances[r] + b.variances[r] for r in shared}, factor)
        value = sum(values.values()) / len(values)
    else:
        value = a.mean - b.mean
        errors = [_error(cell.values, cell.variances, factor) for cell in (a, b)]
        known = [error for error in errors if error is not None]
        both = (math.fsum(e[0] for e in known), min(e[1] for e in known))
        found = both if len(known) == 2 else None
    if found is None:
        return _Difference(value)
    variance, freedom = found
    if variance == 0:
        return _Difference(value, value, value, 1.0 if value == 0 else 0.0)
    p = 2 * float(stdtr(freedom, -abs(value) / math.sqrt(variance)))
    return _Difference(value, *_bounds(value, variance, freedom), p)


def _error(
    values: Mapping[Repetition, float], variances: Mapping[Repetition, float], factor: SeedFactor
) -> tuple[float, float] | None:
    """Variance and degrees of freedom of the mean of values, None where neither intervals nor repetitions tell."""
    n = len(values)
    own = _variance(list(values.values())) / n if n > 1 else 0.0
    sampling = _known_mean(variances.values())
    if sampling is None:
        return (own, float(n - 1)) if n > 1 else None
    return max(factor.factor * sampling / n, own), float(factor.freedom) if factor.freedom else math.inf


def _bounds(value: float, variance: float, freedom: float) -> tuple[float, float]:
    half = float(ndtri(0.975) if math.isinf(freedom) else stdtrit(freedom, 0.975)) * math.sqrt(variance)
    return value - half, value + half


def _variance(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _known_mean(values: Any) -> float | None:
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Table:
    """One metric under one protocol: the cells' means, the best first, and the others against it."""

    metric: str
    protocol: str
    means: list[Mean]
    comparisons: list[Comparison]
    factor: SeedFactor


def tables(frame: pd.DataFrame, against: str | None = None) -> list[Table]:
    """Of every metric of samples whose better end is known, by protocol; against the best, or the cell so named.

    Raises: UserError where not exactly one cell's name begins with `against`.
    """
    rows = frame[frame["stage"] == "evaluation"]
    found = []
    for (metric, protocol), own in rows.groupby(["metric", "protocol"], sort=False):
        higher = re.match(HIGHER_IS_BETTER, str(metric)) is not None
        if higher or re.match(LOWER_IS_BETTER, str(metric)):
            cells = sorted(measured(own), key=lambda cell: -cell.mean if higher else cell.mean)
            factor = seed_factor(cells)
            means = [mean_over_seeds(cell, factor) for cell in cells]
            if against is None:
                comparisons = against_best(cells, higher)
            else:
                other = _named(cells, against)
                rest = [cell for cell in cells if cell is not other]
                comparisons = compare(rest, other, factor, -1.0 if higher else 1.0)
            found.append(Table(str(metric), str(protocol), means, comparisons, factor))
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
    columns = ["metric", "protocol", *(field.name for field in fields(Mean))]
    return pd.DataFrame(rows, columns=columns).rename(columns={"name": "cell", "low": "ci_low", "high": "ci_high"})


def comparisons_frame(found: Sequence[Table]) -> pd.DataFrame:
    """Comparisons with the best cell, one row a cell, metric and protocol."""
    rows = [
        {"metric": t.metric, "protocol": t.protocol, **asdict(item), "verdict": item.sentence}
        for t in found
        for item in t.comparisons
    ]
    columns = ["metric", "protocol", *(field.name for field in fields(Comparison))]
    return pd.DataFrame(rows, columns=columns).rename(columns={"low": "ci_low", "high": "ci_high"})
