"""Which cell to take: the best of those that fit a budget, how sure that is, and what would make it surer.

All comes from the records of a sweep. Cells that get no verdict (`analysis.limits`), and those whose samples copy
training images, are never recommended. Where something limits every cell that fits, none is. Whatever is not
distinguishable from the best cell, by the verdicts of `analysis.compare`, is named beside it and stands in no order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd

from analysis import chance, limits, speeds
from analysis.budgets import Budget, Spent, spent_on
from analysis.collect import Study
from analysis.compare import (
    ALIKE,
    BETTER,
    DISAGREE,
    LEVEL,
    NO_BETTER,
    Comparison,
    Mean,
    Measured,
    SeedFactor,
    Table,
    against_best,
    by_cell,
    compare,
    compared_rows,
    contradicted,
    error_of_difference,
    measured,
    not_known,
    other_extractors,
    quantile,
    seed_factor,
)
from analysis.headline import Headline, direction, headline
from analysis.headline import chosen as of_name
from ldm.errors import UserError, nearest
from ldm.records import Cell

WITHIN = 0.05
"""Share of the best value within which the cheapest cell is sought."""

COPIES = "memorisation"
"""The limit whose cells keep their verdict and are not recommended: a copy is as near as can be."""

UNTOLD = (ALIKE, DISAGREE, None)
"""Verdicts by which a cell is not told apart from the best."""

POWER = 0.8
"""Chance of telling two cells apart for which further seeds and samples are counted."""

MOST_TIMES = 50
"""Times the seeds or samples there are, beyond which two cells are called too near to be told apart."""

STANDARD = {"kid": "kd", "fid": "fd", "kernel": "kd", "frechet": "fd"}
"""Short names of metrics, by the formula that they ask for with whatever network there is."""


@dataclass(frozen=True)
class Option:
    """A cell that a person may take.

    `models`: the identities of its diffusion models; `results`: of the records of its values. `barred`: why it is not
    recommended whatever its value, "" where nothing bars it. `misses`: the budgets that it does not keep. `chance`: the
    probability that it is the best of those that may be taken, None where nothing tells; `near`: that it is within
    `Answer.within` of that. `is_on_front`: whether no cell is better, beyond the interval, that costs no more to train
    and to sample.
    """

    mean: Mean
    measured: Measured
    spent: Spent
    cell: Cell | None
    models: frozenset[str]
    results: frozenset[str] = frozenset()
    barred: str = ""
    misses: tuple[Budget, ...] = ()
    chance: float | None = None
    near: float | None = None
    is_on_front: bool = False

    @property
    def name(self) -> str:
        """As in the table."""
        return self.mean.name

    @property
    def may_be_taken(self) -> bool:
        """Whether it fits and nothing bars it."""
        return not self.barred and not self.misses


@dataclass(frozen=True)
class Open:
    """A cell that is not told apart from the best, and what would tell them.

    `seeds`, `samples`: about how many trainings of either, or samples of each, in all; None where further ones do not
    help, as where extractors disagree, or are too many. `is_trained_once`: whether nothing is known of how far another
    training would move them.
    """

    option: Option
    comparison: Comparison
    seeds: int | None
    samples: int | None
    is_trained_once: bool


@dataclass(frozen=True)
class Answer:
    """What the records say of one metric that was measured in one way.

    `options`: all cells, the best mean first; that is an order of numbers, not of cells. `best`: the cell that is
    recommended, None where none is. `alike`: those not distinguishable from it. `cheapest`, `fastest`: of the cells
    that are estimated within the share `within` of its value those that cost least to train and to sample, None where
    that is itself. `untimed`: how many cells have no speed since others were timed and they were not.
    """

    metric: Headline
    protocol: str
    options: tuple[Option, ...]
    budgets: tuple[Budget, ...] = ()
    within: float = WITHIN
    best: Option | None = None
    alike: tuple[Open, ...] = ()
    cheapest: Option | None = None
    fastest: Option | None = None
    is_tiny: bool = False
    unknown: str = ""
    untimed: int = 0

    @property
    def fitting(self) -> tuple[Option, ...]:
        """The cells within the budgets, whatever bars them."""
        return tuple(option for option in self.options if not option.misses)

    @property
    def front(self) -> tuple[Option, ...]:
        """The cells on the front of cost and quality."""
        return tuple(option for option in self.options if option.is_on_front)

    @property
    def trained_once(self) -> bool:
        """Whether the best cell was trained once, so that the variance of training is unknown."""
        return self.best is not None and self.best.mean.training_seeds < 2


@lru_cache(maxsize=4)
def answers(
    study: Study, metric: str | None = None, budgets: tuple[Budget, ...] = (), within: float = WITHIN
) -> tuple[Answer, ...]:
    """One answer for each way in which the metric was measured (None: the headline); none where it was not.

    Raises: UserError where no end of the metric is better, or it was not measured.
    """
    wanted = metric_of(study, metric)
    if wanted is None:
        return ()
    rows = compared_rows(study.frame)
    rows = rows[rows["metric"] == wanted.metric]
    return tuple(
        _answer(study, table, rows[rows["protocol"] == table.protocol], wanted, budgets, within)
        for table in limits.compared(study, None)
        if table.metric == wanted.metric
    )


def metric_of(study: Study, name: str | None) -> Headline | None:
    """The metric of that name: as results.csv has it, or without its network; the headline for None.

    Raises: UserError with the names that are known where it is none of them.
    """
    if name is None:
        found = headline(study.frame)
        return found if found is not None and found.higher_is_better is not None else None
    rows = compared_rows(study.frame)
    metrics = [str(metric) for metric, own in rows.groupby("metric", sort=False) if direction(own) is not None]
    rows = rows[rows["metric"].isin(metrics)]
    short = STANDARD.get(name, name)
    own = rows[(rows["network"] == rows["extractor"]) | (rows["network"] == "")]
    kinds = {str(kind): str(own["metric"][own["kind"] == kind].iloc[0]) for kind in own["kind"] if kind}
    chosen = name if name in metrics else kinds.get(short)
    if chosen is None:
        unnamed = set(own["metric"][own["kind"] == ""]) - set(kinds)
        names = [*kinds, *(metric for metric in metrics if metric in unnamed)]
        raise UserError(
            f"--metric '{name}' was not measured of the cells, or no end of it is better{nearest(name, names)}: give "
            f"one of {', '.join(names)}, or a name that results.csv has."
        )
    return of_name(study.frame, chosen, "evaluation")[0]


def _answer(
    study: Study, table: Table, rows: pd.DataFrame, metric: Headline, budgets: tuple[Budget, ...], within: float
) -> Answer:
    higher = bool(metric.higher_is_better)
    sign = -1.0 if higher else 1.0
    rows = with_speeds(study, rows)
    cells = measured(rows, study.axes)
    factor = seed_factor(cells)
    by_name = {cell.name: (cell, own) for cell, own in zip(cells, by_cell(rows, study.axes), strict=True)}
    given = {one.record.identity: one.cell for one in study.finished if one.record.stage in set(rows["stage"])}
    options = [_option(table, mean, *by_name[mean.name], budgets, given) for mean in table.means]
    front = on_front([option for option in options if not option.barred], factor, sign)
    options = [replace(option, is_on_front=option.name in front) for option in options]
    is_tiny = len(table.tiny) == len(table.means)
    untimed = 0 if study.timings.empty else sum(not option.spent.images_per_second > 0 for option in options)
    found = Answer(metric, table.protocol, tuple(options), budgets, within, is_tiny=is_tiny, untimed=untimed)
    running = [option for option in options if option.may_be_taken]
    if not running or all(option.mean.limits or option.barred for option in found.fitting):
        return found
    behind = chance.draws([option.measured for option in running], factor, sign)
    reach = within * abs(running[0].mean.value)
    if behind is not None:
        chances, near = chance.best(behind), (behind <= reach).mean(axis=0)
        for index, option in enumerate(running):
            running[index] = replace(option, chance=float(chances[index]), near=float(near[index]))
    best, told = running[0], {option.name: option for option in running}
    close = [option for option in running if sign * (option.mean.value - best.mean.value) <= reach]
    verdicts = contradicted(
        against_best([option.measured for option in running], higher), other_extractors(study.frame, rows, study.axes)
    )
    return replace(
        found,
        options=tuple(told.get(option.name, option) for option in options),
        best=best,
        alike=tuple(_open(told[item.cell], item, best, factor) for item in verdicts if item.verdict in UNTOLD),
        cheapest=_least(close, best, lambda option: option.spent.flops),
        fastest=_least(close, best, lambda option: 1 / option.spent.images_per_second),
        unknown=not_known(verdicts),
    )


def _option(
    table: Table,
    mean: Mean,
    cell: Measured,
    rows: pd.DataFrame,
    budgets: Sequence[Budget],
    given: Mapping[str, Cell],
) -> Option:
    own = [limit.name for limit in table.limits.get(mean.name, ()) if limit.takes_verdict or limit.name == COPIES]
    own += [NO_BETTER] if mean.name in table.unbeaten else []
    own += ["scale=tiny"] if mean.name in table.tiny else []
    spent = spent_on(rows)
    misses = tuple(budget for budget in budgets if not budget.fits(spent))
    repeated = rows.sort_values(["ae_seed", "seed", "sampler_seed"], kind="stable")["identity"]
    first = next((given[identity] for identity in repeated if identity in given), None)
    models = frozenset(rows["model"])
    results = frozenset(rows["identity"])
    return Option(mean, cell, spent, first, models, results, ", ".join(dict.fromkeys(own)), misses)


def with_speeds(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of samples with speeds as they were timed, on the slowest machine, where anything was."""
    if study.timings.empty:
        return rows
    timed = speeds.timed(study).frame
    slowest = timed[timed["samples"] != ""].groupby("samples")[speeds.SPEED].min()
    return rows.assign(**{speeds.SPEED: rows["samples"].map(slowest).astype(float)})


ALIKE_COST = 0.02
"""Costs that differ by less are called equal."""


def on_front(options: Sequence[Option], factor: SeedFactor, sign: float) -> set[str]:
    """The names of the cells that no other beats, beyond the interval, at no more cost of training and of sampling.

    Cells without a known cost of either kind are on no front.
    """
    known = [one for one in options if one.spent.flops > 0 and one.spent.images_per_second > 0]
    pairs = len(known) * (len(known) - 1) // 2
    best_first = sorted(known, key=lambda one: sign * one.mean.value)
    found = set()
    for index, one in enumerate(best_first):
        most, least = one.spent.flops * (1 + ALIKE_COST), one.spent.images_per_second * (1 - ALIKE_COST)
        rivals = (
            other
            for other in best_first[:index]
            if other.spent.flops <= most
            and other.spent.images_per_second >= least
            and sign * (other.mean.value - one.mean.value) < 0
        )
        # By Holm one of several is better just where the surest is by itself, corrected for all pairs.
        if not any(_beats(rival, one, factor, sign, pairs) for rival in rivals):
            found.add(one.name)
    return found


def _beats(rival: Option, one: Option, factor: SeedFactor, sign: float, pairs: int) -> bool:
    [item] = compare([rival.measured], one.measured, factor, sign, pairs)
    return item.verdict == BETTER


def _least(options: Sequence[Option], best: Option, cost: Callable[[Option], float]) -> Option | None:
    """The option of least cost, where it is less than that of the best one."""
    known = [option for option in options if cost(option) > 0]
    if not known or not cost(best) > 0:
        return None
    least = min(known, key=cost)
    return least if cost(least) < cost(best) * (1 - ALIKE_COST) else None


def _open(option: Option, comparison: Comparison, best: Option, factor: SeedFactor) -> Open:
    """What would tell a cell from the best one: repetitions of both such that a difference as found is significant.

    In a fraction `POWER` of the cases, after Bonferroni's correction for as many pairs as were compared; as if the
    variance fell with the number of trainings, or with that of samples and reference images. Each further training of
    both adds a degree of freedom, at least.
    """
    a, b = option.measured, best.measured
    once = min(len(a.trainings), len(b.trainings)) < 2
    error = error_of_difference(a, b, factor)
    if error is None or a.mean == b.mean or comparison.verdict == DISAGREE:
        return Open(option, comparison, None, None, once)
    level = LEVEL / comparison.pairs
    trainings = max(len(a.trainings), len(b.trainings))
    of_training = error.variance - error.common

    def wanted(seeds: int) -> float:
        """The variance at which the difference is significant, with so many trainings."""
        freedom = error.freedom + seeds - trainings
        return ((a.mean - b.mean) / (quantile(1 - level / 2, freedom) + quantile(POWER, freedom))) ** 2

    more = range(trainings + 1, MOST_TIMES * trainings + 1) if not once else ()
    enough = (n for n in more if error.common + of_training * trainings / n <= wanted(n))
    seeds = next(enough, None)
    reducible, n = error.variance if once else error.common, min(a.n, b.n)
    samples = math.ceil(n * reducible / wanted(trainings if seeds is None else seeds) / 100) * 100
    return Open(option, comparison, seeds, samples if n < samples <= MOST_TIMES * n else None, once)
