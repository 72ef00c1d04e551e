"""Quality over the compute of diffusion training, fitted by cell and carried on, and where one overtakes another.

The milestones of a training are values at several budgets of one run with a constant rate, so each is what a run that
ends there would have been. A saturating power law a + b C^-c is fitted to those of each cell, C the FLOPs of diffusion
training, with b >= 0 and a no less than of decoded real images, which no diffusion model behind a first stage beats.
Metrics of which higher is better have no such bound, and are not carried on.

Errors come from a bootstrap over the milestones' errors: in each draw all milestones of all cells move with the noise
and reference images that they share, and the law is fitted anew.

The law is one of late training. The first milestones are left out, down to four, while it misses them by more than
chance; what it misses the rest by enlarges their errors (Birge's ratio, `analysis.compare`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from analysis.axes import REPEATED
from analysis.collect import Study
from analysis.compare import (
    Measured,
    SeedFactor,
    against_best,
    by_cell,
    error_of_mean,
    mean_deviations,
    mean_over_seeds,
    not_known,
    of_first_stage,
    one_cell,
    seed_factor,
)
from analysis.costs import TRAINED
from analysis.headline import Headline, chosen, floors_of, headline
from analysis.labels import RowLabels
from analysis.milestones import with_flops
from ldm.records import DECODED

DRAWS = 1000
SEED = 0
LEAST_MILESTONES = 4
"""Of a cell, that a law of three parameters is fitted to."""

POWERS = np.geomspace(0.05, 2.0, 40)
"""The exponents c that are tried; at the lower end the law is almost a straight line over log C."""

STEPS = 8
"""Halvings of the step from one exponent to the next."""

BY_CHANCE = 0.05
"""Probability of missing milestones as far by chance, below which the first of them is left out."""

REACH = 16.0
"""Times what a cell has spent, beyond which its curve is not carried on."""

ROUNDING = 1.01
"""Milestones of equal budgets are whole steps, and so differ by less."""

BUDGETS = 240
"""Budgets at which curves are compared."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """The milestones of a cell, whatever its seeds, and the law through them.

    `spent`: FLOPs of diffusion training at each milestone; `share`: of what comes before it, once. `seconds`: a FLOP of
    diffusion training takes; `share_seconds`: what comes before it. `laws`: (draws, 3) as a, b, c, with C in units of
    the last milestone's; the first is the fit to the values themselves. `fitted`: how many milestones
    that is of; `misfit`: by how much their errors were enlarged. `end`: the cell as the last milestone has it.
    """

    name: str
    f: int
    regulariser: str
    models: frozenset[str]
    spent: Array
    value: Array
    low: Array
    high: Array
    share: float
    seconds: float
    share_seconds: float
    laws: Array
    fitted: int
    misfit: float
    end: Measured

    @property
    def trainings(self) -> int:
        """How many there are, of the first stage where its seeds vary."""
        return len(self.end.trainings)

    @property
    def known(self) -> tuple[float, float]:
        """From and to which FLOPs of diffusion training the curve is known: the fit's first milestone and `REACH`."""
        return float(self.spent[-self.fitted]) / ROUNDING, float(self.spent[-1]) * REACH * ROUNDING

    def at(self, spent: Array) -> Array:
        """The metric of each law after so many FLOPs of diffusion training: (draws, budgets).

        Infinite below the first milestone of the fit and beyond `REACH`, where nothing is known.
        """
        a, b, c = (self.laws[:, index, None] for index in range(3))
        least, most = self.known
        found = a + b * (np.clip(spent, least, most) / self.spent[-1]) ** -c
        return np.where((spent < least) | (spent > most), np.inf, found)


@dataclass(frozen=True)
class Crossing:
    """A budget, in FLOPs of diffusion training, from which on `then` is better than `first`, by the fits to the values.

    `low`, `high`: its 95 % interval among the draws in which they cross at all within reach, which are `share` of all.
    """

    first: str
    then: str
    at: float
    low: float
    high: float
    share: float
    is_extrapolated: bool


@dataclass(frozen=True, eq=False)
class Race:
    """Curves that are measured alike, over budgets in FLOPs of diffusion training.

    `values`: by curve the metric, (draws, budgets). `chances`: by curve the share of draws in which it is best.
    """

    metric: Headline
    curves: tuple[Curve, ...]
    budgets: Array
    values: tuple[Array, ...]
    chances: Array

    @property
    def spent(self) -> float:
        """The budget that every cell was trained with at least."""
        return min(float(curve.spent[-1]) for curve in self.curves)

    @property
    def late(self) -> list[str]:
        """The cells whose first milestone, from which on they are known, lies beyond that budget."""
        at = self.place(self.spent)
        return [curve.name for curve, own in zip(self.curves, self.values, strict=True) if not np.isfinite(own[0, at])]

    @property
    def unknown(self) -> str:
        """What the order of the curves does not know, since something was trained once, in a line."""
        return not_known(against_best([curve.end for curve in self.curves]))

    def place(self, budget: float) -> int:
        """The index of the budget, of those on which curves are compared, that is nearest to this one."""
        return int(np.abs(np.log(self.budgets / budget)).argmin())

    @property
    def leaders(self) -> list[int]:
        """By budget the curve that is best by the fits to the values."""
        return [int(index) for index in np.argmin([values[0] for values in self.values], axis=0)]


@lru_cache(maxsize=4)
def race(study: Study, name: str | None = None) -> Race | None:
    """The curves of a study by the metric of this name, the headline of milestones for None.

    None where higher is better, or fewer than two cells have enough milestones that are measured alike.
    """
    metric = headline(study.frame, "progress") if name is None else chosen(study.frame, name, "progress")[0]
    if metric is None or metric.higher_is_better is not False:
        return None
    rows = study.frame[(study.frame["stage"] == "progress") & (study.frame["metric"] == metric.metric)]
    rows = with_flops(study, rows)
    if rows.empty or rows["protocol"].nunique() > 1:
        return None
    curves = _curves(study, rows, metric)
    if len(curves) < 2:
        return None
    starts, last = [float(curve.spent[0]) for curve in curves], min(float(curve.spent[-1]) for curve in curves)
    # From where all are measured on, if that is before one of them ends.
    first = max(starts) if max(starts) < last else min(starts)
    budgets = np.geomspace(first, REACH * last, BUDGETS)
    values = tuple(curve.at(budgets) for curve in curves)
    return Race(metric, tuple(curves), budgets, values, chances(values))


def chances(values: Sequence[Array]) -> Array:
    """By curve and budget the share of draws in which it is best; 0 for all where none is known."""
    stacked = np.stack(values)
    first = stacked.argmin(axis=0)
    known = np.isfinite(stacked).any(axis=0)
    return np.stack([((first == index) & known).mean(axis=0) for index in range(len(values))])


def chances_at(found: Race, spent: Mapping[str, float]) -> dict[str, float]:
    """By name the share of draws in which a cell is best that may spend so many FLOPs of diffusion training each.

    Cells that are not named, or whose curve does not reach there, take no part.
    """
    values = [curve.at(np.array([spent.get(curve.name, 0.0)])) for curve in found.curves]
    return {curve.name: float(own[0]) for curve, own in zip(found.curves, chances(values), strict=True)}


def crossings(found: Race) -> list[Crossing]:
    """Where the lead changes hands, by the fits to the values."""
    leaders, told = found.leaders, []
    for index in range(1, len(leaders)):
        before, after = leaders[index - 1], leaders[index]
        # A cell that begins to be measured, and leads at once, overtakes nobody.
        if before == after or not np.isfinite(found.values[after][0, index - 1]):
            continue
        one, other = (found.values[which] for which in (before, after))
        at = [_crossing(found.budgets, mine, others) for mine, others in zip(one, other, strict=True)]
        known = np.array([budget for budget in at if budget is not None])
        low, high = np.quantile(known, [0.025, 0.975])
        first = at[0]
        assert first is not None  # the fits to the values are the first draw
        names = (found.curves[before].name, found.curves[after].name)
        is_beyond = first > min(float(found.curves[which].spent[-1]) for which in (before, after)) * ROUNDING
        told.append(Crossing(*names, first, float(low), float(high), len(known) / len(at), is_beyond))
    return told


def _crossing(budgets: Array, first: Array, then: Array) -> float | None:
    """The last budget at which `then` becomes better than `first`, interpolated; None where there is none."""
    with np.errstate(invalid="ignore"):
        ahead = then - first
    places = np.flatnonzero((ahead[:-1] > 0) & (ahead[1:] <= 0) & np.isfinite(ahead[:-1]))
    if not len(places):
        return None
    k = int(places[-1])
    part = ahead[k] / (ahead[k] - ahead[k + 1])
    return float(budgets[k] * (budgets[k + 1] / budgets[k]) ** part)


def _curves(study: Study, rows: pd.DataFrame, metric: Headline) -> list[Curve]:
    """The cells with enough milestones; all are drawn together, since they share noise and reference images."""
    cells = []
    for own in by_cell(rows, study.axes):
        points = [one_cell(part, axes=study.axes) for _, part in own.groupby("images_seen")]
        if len(points) >= LEAST_MILESTONES:
            cells.append((own, points))
    factor = seed_factor([point for _, points in cells for point in points])
    labels = RowLabels(rows, study.axes, ("steps", *REPEATED))
    random = np.random.default_rng(SEED)
    shared: dict[int, Array] = {}
    found = []
    for own, points in cells:
        spent = own.groupby("images_seen")["spent"].mean().to_numpy(float)
        values = np.array([point.mean for point in points])
        noise, error = _noise(points, factor, shared, random)
        if noise is None:
            continue
        x, best = spent / spent[-1], _best_possible(study, own, metric)
        law, used, misfit = _late(x, values, error, best)
        moved = values[-used:] + misfit * noise[:, -used:]
        laws = np.concatenate([law, fit(x[-used:], moved, error[-used:], best)])
        means = [mean_over_seeds(point, factor) for point in points]
        bounds = [[math.nan if end is None else end for end in (mean.low, mean.high)] for mean in means]
        low, high = np.array(bounds).T
        one = own.sort_values("images_seen").iloc[-1]
        share, share_seconds = (
            float(
                own[[f"{stage}_{unit}" for stage in TRAINED if stage != "diffusion"]].astype(float).sum(axis=1).mean()
            )
            for unit in ("flops", "seconds")
        )
        name = labels.of(one.to_dict())
        found.append(
            Curve(
                name,
                int(one["f"]),
                str(one["regulariser"]),
                frozenset(own["model"]),
                spent,
                values,
                low,
                high,
                share,
                float((own["diffusion_seconds"] / own["diffusion_flops"]).mean()),
                share_seconds,
                laws,
                used,
                misfit,
                replace(points[-1], name=name),
            )
        )
    return found


def _noise(
    points: Sequence[Measured], factor: SeedFactor, shared: dict[int, Array], random: np.random.Generator
) -> tuple[Array | None, Array]:
    """Draws of the errors of a cell's milestones, (draws, milestones), and their standard deviations.

    `shared` holds the draws that belong to blocks of images, the same for all cells. What trainings scatter beyond that
    moves all milestones of a cell alike. None where nothing tells the errors.
    """
    errors = [error_of_mean(point, factor) for point in points]
    known = [error for error in errors if error is not None]
    if len(known) < len(points):
        return None, np.zeros(len(points))
    variance = np.array([error.variance for error in known])
    blocks = [mean_deviations(point) for point in points]
    told = [
        np.array([part for group in block for part in group]) if block is not None else np.zeros(0) for block in blocks
    ]
    alone = np.array([_alone(point) for point in points])
    alone = np.minimum(np.where(np.isnan(alone), variance, alone), variance)
    together = np.array([float(part @ part) for part in told])
    noise = random.standard_normal((DRAWS, len(points))) * np.sqrt(alone)
    for index, part in enumerate(told):
        if len(part):
            if len(part) not in shared:
                shared[len(part)] = random.standard_normal((DRAWS, len(part)))
            noise[:, index] += shared[len(part)] @ part
    noise += random.standard_normal((DRAWS, 1)) * np.sqrt(np.maximum(variance - alone - together, 0.0))
    return noise, np.sqrt(np.maximum(variance, 1e-300))


def _alone(point: Measured) -> float:
    """What of the variance of a milestone's mean is due to nothing that others share; NaN where it is not told."""
    trainings = list(point.trainings.values())
    own = [one.variance - sum(x * x for block in one.deviations or () for x in block) for one in trainings]
    return max(sum(own), 0.0) / len(own) ** 2


def fit(x: Array, values: Array, error: Array, best_possible: float) -> Array:
    """Laws a + b x^-c through values, (draws, milestones): (draws, 3).

    Least squares weighed by the errors with b >= 0 and a >= `best_possible`: in a and b exactly, in c by the best of
    `POWERS` and then by ever smaller steps from it.
    """
    weight, draws = 1 / error**2, len(values)
    best = _lines(x, values, weight, np.full(draws, POWERS[0]), best_possible)
    for power in POWERS[1:]:
        best = _better(best, _lines(x, values, weight, np.full(draws, power), best_possible))
    ratio = float(POWERS[1] / POWERS[0])
    for step in (ratio ** (sign / 2**k) for k in range(1, STEPS + 1) for sign in (1, -1)):
        power = np.clip(best[:, 3] * step, POWERS[0], POWERS[-1])
        best = _better(best, _lines(x, values, weight, power, best_possible))
    return best[:, 1:]


def _lines(x: Array, values: Array, weight: Array, power: Array, best_possible: float) -> Array:
    """Of each draw the best a + b x^-c for its c: (draws, 4) as loss, a, b, c."""
    basis, total = x ** -power[:, None], weight.sum()
    middle = (weight * basis).sum(axis=1) / total
    centred = basis - middle[:, None]
    slope = np.maximum((values * weight * centred).sum(axis=1) / (weight * centred**2).sum(axis=1), 0.0)
    level = (values * weight).sum(axis=1) / total - slope * middle
    held = level < best_possible
    beyond = ((values - best_possible) * weight * basis).sum(axis=1) / (weight * basis**2).sum(axis=1)
    slope = np.where(held, np.maximum(beyond, 0.0), slope)
    level = np.where(held, best_possible, level)
    loss = (weight * (values - level[:, None] - slope[:, None] * basis) ** 2).sum(axis=1)
    return np.column_stack([loss, level, slope, power])


def _better(these: Array, those: Array) -> Array:
    """By draw the one of less loss."""
    return np.where(those[:, :1] < these[:, :1], those, these)


def _late(x: Array, values: Array, error: Array, best_possible: float) -> tuple[Array, int, float]:
    """The law through as many of the last milestones as it fits, their number, and by how much it still misses them.

    The last: the factor by which errors must grow for the law to miss the values by no more, at least 1.
    """
    for used in range(len(x), LEAST_MILESTONES - 1, -1):
        law = fit(x[-used:], values[None, -used:], error[-used:], best_possible)
        a, b, c = law[0]
        missed = float((((values - a - b * x**-c) / error)[-used:] ** 2).sum())
        freedom = used - len(law[0])
        if chdtrc(freedom, missed) > BY_CHANCE:
            break
    return law, used, max(1.0, math.sqrt(missed / freedom))


def _best_possible(study: Study, rows: pd.DataFrame, metric: Headline) -> float:
    """The value that no diffusion model behind this first stage beats: of decoded real images, or 0.

    The lower end of the interval of the former; 0 where that is not measured, or depends on n.
    """
    floor = of_first_stage(floors_of(study.frame, metric.metric, DECODED), rows)
    if floor.empty or not metric.is_unbiased:
        return 0.0
    lowest = floor["ci_low"].fillna(floor["value"]).astype(float).min()
    return float(max(lowest, 0.0))


def band(values: Array, level: float = 0.95) -> tuple[Array, Array]:
    """The interval of a curve's draws at each budget; NaN where it is not known."""
    shown = np.where(np.isfinite(values), values, np.nan)
    ends = [(1 - level) / 2, (1 + level) / 2]
    if not np.isfinite(shown).any():
        return shown[0], shown[0]
    low, high = np.quantile(shown, ends, axis=0)
    return low, high
