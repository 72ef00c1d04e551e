"""Predict, prune, prove: which first stages of a sweep diffusion is trained on, chosen by what was measured before.

All first stages of the grid are trained and measured (stage `predictors`), a predictor that finished studies of the
store support ranks them, and the best are kept. Some of the others are drawn at random and trained on too: without
these nothing could tell whether the best was left out (`analysis/shortlist.py`). The choice is kept in the store under
a hash of grid and rule, so a call that is resumed repeats it, whatever the store has learnt since.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.stage import Settings
from experiments.store import Store, now
from experiments.sweep import Point
from ldm.errors import UserError, nearest
from ldm.metrics.distribution import KERNEL, metric_of
from ldm.randomness import numpy_generator
from ldm.rank_correlation import Ranking, ranking
from ldm.records import Shortlist, StageRecord, Sweep, content_hash

PREDICTING, MEASURING = "predictors", "evaluation"
"""The stage whose rows rank first stages, and the one whose rows are to be foretold."""

FIRST = "first_stage"
"""What `until=` asks for of every candidate."""

AUTO = "auto"

A_STUDY = "run one that trains on all of its first stages, such as +experiment=predictors_kl"

UNSUPPORTED = (
    f"no study in this store supports a predictor: {A_STUDY}, or name one to be taken on trust, such as "
    "shortlist.predictor=small_denoiser_error"
)

ALONE = "shortlist.keep chooses among first stages, and here is one alone: nothing is left out"


@dataclass(frozen=True)
class Study:
    """First stages whose samples were measured in one way: f, predictors (NaN where there is none), kernel distance.

    Shapes: all (n,).
    """

    factors: NDArray[np.int64]
    predicted: Mapping[str, NDArray[np.float64]]
    outcomes: NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """The predictor that ranks first stages, which end of it is better, and how well it did in a study, if in one."""

    predictor: str
    lower_is_better: bool
    ranking: Ranking | None = None

    @property
    def surely(self) -> float:
        """How strong the correlation is at least, by the end of its interval that is nearer to none; 0: it may be 0."""
        if self.ranking is None or not self.ranking.low * self.ranking.high > 0:
            return 0.0
        return min(abs(self.ranking.low), abs(self.ranking.high))


def is_asked(config: Settings) -> bool:
    """Whether a config asks for a choice among the first stages of its sweep."""
    return config["shortlist"]["keep"] is not None


def chooses(points: Sequence[Point]) -> bool:
    """Whether a sweep asks for a choice and has several first stages; one that failed may be repeated by itself."""
    return any(is_asked(point.plan.config) for point in points) and len(_candidates(points)) > 1


def check(points: Sequence[Point], store: Store) -> None:
    """Raises: UserError for a shortlist that leaves nothing out, changes within the sweep, or has nothing to go by.

    Whether a study of the store supports a predictor is known when the first stages are measured, whether there is a
    study before.
    """
    asked = points[0].plan.config["shortlist"]
    if any(point.plan.config["shortlist"] != asked for point in points):
        raise UserError("shortlist cannot be swept: it chooses among all first stages of a sweep; give one value each")
    if any(PREDICTING not in point.plan.stages for point in points):
        raise UserError("shortlist.keep ranks first stages by their predictors: add metrics.predictors=true")
    count, trained = len(_candidates(points)), asked["keep"] + asked["controls"]
    if trained >= count:
        raise UserError(
            f"shortlist.keep={asked['keep']} and shortlist.controls={asked['controls']} leave none of this sweep's "
            f"{count} first stages out: sweep more of them, keep fewer, or leave shortlist.keep out to train on all"
        )
    if asked["predictor"] == AUTO and store.shortlist(_name(points)) is None and not studies(store):
        raise UserError(UNSUPPORTED)


def settled(points: Sequence[Point], store: Store) -> Shortlist:
    """The choice for these points, whose predictors are finished: the one the store holds, or a new one, kept there.

    Raises: UserError where no study of the store supports the predictor.
    """
    asked, candidates, name = points[0].plan.config["shortlist"], _candidates(points), _name(points)
    if held := store.shortlist(name):
        return held
    records = {first: _records(store, PREDICTING, own) for first, own in candidates.items()}
    predicted = {first: _means(own) for first, own in records.items()}
    shared = set.intersection(*(set(own) for own in predicted.values()))
    ends = {row.metric: row.higher_is_better for own in records.values() for record in own for row in record.rows}
    within_f = len({point.plan.axes["f"] for point in points}) == 1
    rule = rule_of(studies(store), asked["predictor"], {metric: ends[metric] for metric in sorted(shared)}, within_f)
    choice = chosen(name, rule, {first: own[rule.predictor] for first, own in predicted.items()}, asked, within_f)
    store.write_shortlist(choice)
    return choice


def rule_of(known: Sequence[Study], asked: str, predictors: Mapping[str, bool | None], within_f: bool = False) -> Rule:
    """What ranks candidates that all have these predictors, each with whether its higher end is the better one.

    `asked`: a predictor, or `AUTO` for that which the studies support best. One that is asked for by name and that no
    study supports is taken on trust where the metric itself says which end is better.
    Raises: UserError where no predictor is supported, or the one asked for is not measured or has no better end.
    """
    if asked != AUTO and asked not in predictors:
        raise UserError(
            f"shortlist.predictor={asked} is none that all of these first stages have{nearest(asked, predictors)} "
            f"(they have {', '.join(predictors)})"
        )
    rules = [rule for rule in _rules(known, predictors, within_f) if asked in (AUTO, rule.predictor)]
    if rules:
        return max(rules, key=lambda rule: (rule.surely, rule.predictor))
    if asked == AUTO:
        raise UserError(UNSUPPORTED)
    if predictors[asked] is None:
        raise UserError(f"no study in this store says which end of {asked} is better: {A_STUDY}")
    return Rule(asked, lower_is_better=not predictors[asked])


def _rules(known: Sequence[Study], predictors: Iterable[str], within_f: bool) -> list[Rule]:
    """The predictors that a study supports: by an interval without 0, though so many of them were looked at."""
    names = list(predictors)
    found = []
    for study in known:
        for name in names:
            x = study.predicted.get(name, np.full(len(study.outcomes), math.nan))
            groups = study.factors if within_f else np.zeros_like(study.factors)
            own = np.isfinite(x) & (np.bincount(groups, np.isfinite(x))[groups] > 1)
            told = ranking(x[own], study.outcomes[own], groups[own], among=len(known) * len(names))
            found.append(Rule(name, told.value > 0, told))
    return [rule for rule in found if rule.surely > 0]


def chosen(name: str, rule: Rule, predicted: Mapping[str, float], asked: Settings, within_f: bool = False) -> Shortlist:
    """The best candidates by a rule, and controls among the others."""
    sign = 1 if rule.lower_is_better else -1
    order = sorted(predicted, key=lambda first: (sign * predicted[first], first))
    others = sorted(order[asked["keep"] :])
    draws = numpy_generator(asked["seed"], "shortlist")
    drawn = draws.choice(np.arange(len(others)), asked["controls"], replace=False)
    told = rule.ranking
    return Shortlist(
        name=name,
        created=now(),
        predictor=rule.predictor,
        lower_is_better=rule.lower_is_better,
        seed=asked["seed"],
        predicted=predicted,
        kept=tuple(order[: asked["keep"]]),
        controls=tuple(others[i] for i in sorted(drawn)),
        correlation=told.value if told else None,
        low=told.low if told else None,
        high=told.high if told else None,
        studied=told.n if told else 0,
        within_f=within_f,
    )


def of_trained(points: Sequence[Point], choice: Shortlist) -> list[Point]:
    """The points whose first stage diffusion is trained on."""
    return [point for point in points if point.plan.stages[FIRST].identity in choice.trained]


def as_cut(whole: Sweep, trained: Sweep) -> Sweep:
    """The sweep of all points, of which those that are trained on ask for all that they ask for in the other."""
    instead = {cell.overrides: cell for cell in trained.cells}
    return dataclasses.replace(whole, cells=tuple(instead.get(cell.overrides, cell) for cell in whole.cells))


def sentence(choice: Shortlist) -> str:
    """What was chosen, and by what."""
    if choice.correlation is None:
        why = "taken on trust: no study in this store supports it"
    else:
        within = " within f" if choice.within_f else ""
        why = (
            f"rank correlation{within} {choice.correlation:+.2f} [{choice.low:+.2f}, {choice.high:+.2f}] with the "
            f"kernel distance of samples over {choice.studied} first stages of this store"
        )
    return (
        f"shortlist {choice.name}: {len(choice.predicted)} first stages ranked by {choice.predictor}, the "
        f"{'lowest' if choice.lower_is_better else 'highest'} first ({why}); diffusion is trained on the best "
        f"{len(choice.kept)} and on {len(choice.controls)} of the others, drawn at random (seed {choice.seed})"
    )


def studies(store: Store) -> list[Study]:
    """What the finished cells of a store tell of predictors: a study for each way of measuring samples.

    The kernel distance of the cells' own extractor, which has no bias that depends on n, at the number of steps that
    most first stages have, means over all else.
    """
    cells = [cell for sweep in store.sweeps() for cell in sweep.cells]
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    predicted: dict[str, Mapping[str, float]] = {}
    factors: dict[str, int] = {}
    for cell in {cell.stages.get(MEASURING): cell for cell in cells if PREDICTING in cell.stages}.values():
        of_space = store.record(PREDICTING, cell.stages[PREDICTING])
        of_samples = store.record(MEASURING, cell.stages[MEASURING]) if MEASURING in cell.stages else None
        if of_space is None or of_samples is None:
            continue
        first = cell.stages[FIRST]
        predicted[first], factors[first] = _means([of_space]), int(cell.axes["f"])
        extractor = cell.axes.get("extractor")
        for row in of_samples.rows if extractor else ():
            if row.metric == metric_of(KERNEL, str(extractor)).name:
                by_steps = found.setdefault(row.protocol, {}).setdefault(int(cell.axes["steps"]), {})
                by_steps.setdefault(first, []).append(row.value)
    return [_study(by_steps, predicted, factors) for by_steps in found.values()]


def _study(
    by_steps: Mapping[int, Mapping[str, Sequence[float]]],
    predicted: Mapping[str, Mapping[str, float]],
    factors: Mapping[str, int],
) -> Study:
    outcomes = by_steps[max(by_steps, key=lambda steps: (len(by_steps[steps]), steps))]
    names = dict.fromkeys(name for first in outcomes for name in predicted[first])
    return Study(
        factors=np.array([factors[first] for first in outcomes]),
        predicted={name: np.array([predicted[first].get(name, math.nan) for first in outcomes]) for name in names},
        outcomes=np.array([math.fsum(values) / len(values) for values in outcomes.values()]),
    )


def _name(points: Iterable[Point]) -> str:
    """The choice's, of its grid and its rule."""
    cells = [point.plan for point in points]
    return content_hash(
        [sorted({cell.stages[PREDICTING].identity for cell in cells}), dict(cells[0].config["shortlist"])]
    )


def _candidates(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points of each first stage, by its identity."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.plan.stages[FIRST].identity, []).append(point)
    return found


def _records(store: Store, stage: str, points: Iterable[Point]) -> list[StageRecord]:
    """The finished records of a stage of these points, each once."""
    found = (store.record(stage, name) for name in dict.fromkeys(point.plan.stages[stage].identity for point in points))
    return [record for record in found if record is not None]


def _means(records: Iterable[StageRecord]) -> dict[str, float]:
    """By metric, the mean over its rows."""
    found: dict[str, list[float]] = {}
    for record in records:
        for row in record.rows:
            found.setdefault(row.metric, []).append(row.value)
    return {metric: math.fsum(values) / len(values) for metric, values in found.items()}
