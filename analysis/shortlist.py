"""What leaving first stages out before diffusion saved, and what it risked: the page of a shortlist.

The kept first stages are the best by a predictor; the controls, a random part of the others, were trained on too. What
the rest would have come to is not known. Their outcomes are taken as a straight line over the normal score of the
predictor's rank, with normal scatter about it, fitted to all that were trained: which those are depends on the
predictor alone, and the controls say how far it may be off among those that it puts last. Draws of line and scatter
(flat priors) give, each, the probability that one that was not kept is the best of all; their mean is the probability
that the best was pruned, their spread its interval. Values of what was trained are taken within their own errors.

Sources: Gelman et al., Bayesian Data Analysis, chapter 14 (regression with flat priors); Blom 1958 (normal scores).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from analysis.collect import Finished, Study
from analysis.compare import ERRORS_A_SIDE
from analysis.costs import COUNTED_WITH
from analysis.headline import Headline, headline
from analysis.predictors import Outcome, outcomes
from analysis.text import number, table
from ldm.errors import UserError
from ldm.records import SHORTLISTS, Shortlist, read_sealed

LINES = 1000
"""Draws of the line and its scatter."""

ERRORS = 100
"""Draws of what was trained, within its errors, for each."""

SEED = 0

LEAST = 4
"""Trained first stages below which nothing is said of the others: a line and its scatter are to be found from them."""

SPENT = (*COUNTED_WITH, "first_stage", "latents", "predictors", "learning_rate", "diffusion", "samples")
"""Stages whose FLOPs and seconds are counted; those of the last three are what leaving out saves."""

SAVED = SPENT[-3:]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Risk:
    """What leaving out risked: the probability that the best was not kept, and how far the best kept is behind it."""

    pruned: Interval
    regret: Interval


def risk(predicted: Array, outcomes: Array, errors: Array, kept: NDArray[np.bool_]) -> Risk:
    """The risk of a choice by a predictor of which the lower end is better, where lower outcomes are better.

    The probability is a mean over lines, which comes true; of the regret it is the median, since a few wild scatters
    that so few outcomes allow would carry a mean away.
    `outcomes`: NaN where there was no training; `errors`: their standard errors. The regret is what the best of all
    has over the best of those kept, whatever control was found to be better.
    Shapes: all (n,). Raises: ValueError for fewer than `LEAST` outcomes.
    """
    trained = np.isfinite(outcomes)
    count = int(trained.sum())
    if count < LEAST:
        raise ValueError(f"a line and its scatter need {LEAST} outcomes, there are {count}")
    random = np.random.default_rng(SEED)
    score = ndtri((pd.Series(predicted).rank().to_numpy() - 0.375) / (len(predicted) + 0.25))
    design = np.column_stack([np.ones(count), score[trained]])
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ outcomes[trained]
    left = float(((outcomes[trained] - design @ fitted) ** 2).sum())
    scatter = np.sqrt(left / random.chisquare(count - 2, LINES))
    lines = fitted + scatter[:, None] * (random.standard_normal((LINES, 2)) @ np.linalg.cholesky(inverse).T)
    middles = lines[:, :1] + lines[:, 1:] * score[~trained]
    known = outcomes[trained] + errors[trained] * random.standard_normal((ERRORS, count))
    of_kept = known[:, kept[trained]].min(axis=1)
    of_controls = known[:, ~kept[trained]].min(axis=1, initial=math.inf)
    # Given a line, none of the others is better with the product of their probabilities.
    above = (middles[:, None] - of_kept[:, None]) / scatter[:, None, None]  # lines, errors, others
    none_better = ndtr(above).prod(axis=2) * (of_controls >= of_kept)
    unknown = middles + scatter[:, None] * random.standard_normal(middles.shape)
    drawn = random.integers(ERRORS, size=LINES)
    best = np.minimum(of_controls[drawn], unknown.min(axis=1, initial=math.inf))
    pruned, regret = 1 - none_better.mean(axis=1), np.maximum(of_kept[drawn] - best, 0)
    return Risk(_over(pruned, pruned.mean()), _over(regret, np.median(regret)))


def _over(draws: Array, value: np.floating) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(float(value), float(low), float(high))


@dataclass(frozen=True)
class Spent:
    """FLOPs and seconds."""

    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.flops + other.flops, self.seconds + other.seconds)

    def times(self, factor: float) -> "Spent":
        """So many times as much."""
        return Spent(self.flops * factor, self.seconds * factor)


@dataclass(frozen=True)
class Cost:
    """What was spent on all first stages, on diffusion behind those that were trained on, and not on the others.

    What was not spent is taken for the mean of those trained of that f, of all that were trained where none has it.
    """

    predicting: Spent
    training: Spent
    saved: Spent


def cost(choice: Shortlist, finished: Iterable[Finished]) -> Cost:
    """The cost of a choice from the records of its grid."""
    predicting, training = Spent(), dict[str, Spent]()
    factors: dict[str, int] = {}
    for one in finished:
        first, record = one.cell.stages.get("first_stage"), one.record
        if first is not None and first in choice.predicted and record.stage in SPENT:
            spent, factors[first] = Spent(record.cost.flops, record.cost.seconds), one.cell.axes["f"]
            if record.stage not in SAVED:
                predicting += spent
            elif first in choice.trained:
                training[first] = training.get(first, Spent()) + spent
    saved = Spent()
    for first in choice.pruned:
        alike = [spent for other, spent in training.items() if factors[other] == factors.get(first)]
        alike = alike or list(training.values())
        saved += sum(alike, Spent()).times(1 / max(1, len(alike)))
    return Cost(predicting, sum(training.values(), Spent()), saved)


def choices(study: Study) -> list[Shortlist]:
    """The shortlists of the study's stores whose candidates are all in it.

    Raises: UserError for one that cannot be read.
    """
    paths = [path for store in study.stores for path in sorted((store / SHORTLISTS).glob("*.json"))]
    found = {choice.name: choice for choice in map(_read, paths)}
    there = set(study.frame["first_stage"])
    return [choice for choice in found.values() if there.issuperset(choice.predicted)]


def _read(path: Path) -> Shortlist:
    try:
        return Shortlist.from_json(read_sealed(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}): remove it, and run the sweep again to choose anew."
        ) from error


def markdown(study: Study) -> str:
    """The page: for each shortlist of the study its rule, its first stages, the cost saved, and what was risked.

    Nothing where there is none.
    """
    if not (made := choices(study)):
        return ""
    metric = headline(study.frame, "evaluation")
    parts, measured = [], outcomes(study)
    for choice in made:
        found = [outcome for outcome in measured if outcome.values.index.isin(choice.trained).any()]
        lines = [_rule(choice), _cost_line(cost(choice, study.finished))]
        for outcome in found:
            assert metric is not None  # where there are outcomes
            lines += [_risk_line(choice, outcome, metric), _listed(choice, outcome, metric, study.frame)]
        if not found:
            lines.append("No first stage of it has finished samples yet: let the sweep run to its end.")
        parts.append(f"## Shortlist {choice.name}\n\n" + "\n\n".join(lines))
    return "# Shortlists: predict, prune, prove\n\n" + "\n\n".join(parts) + "\n"


def _rule(choice: Shortlist) -> str:
    why = (
        "taken on trust: no study of the store supported it"
        if choice.correlation is None
        else f"rank correlation{' within f' if choice.within_f else ''} {choice.correlation:+.2f} "
        f"[{choice.low:+.2f}, {choice.high:+.2f}] with the kernel distance of samples over {choice.studied} first "
        "stages of the store when it was chosen; the interval holds for all predictors that were looked at"
    )
    return (
        f"{len(choice.predicted)} first stages, ranked by `{choice.predictor}`, the "
        f"{'lowest' if choice.lower_is_better else 'highest'} first ({why}). Diffusion was trained on the first "
        f"{len(choice.kept)} and on {len(choice.controls)} of the others, drawn at random (seed {choice.seed})."
    )


def _cost_line(found: Cost) -> str:
    spent = found.predicting + found.training
    shares = [_share(found.saved.flops, spent.flops), _share(found.saved.seconds, spent.seconds)]
    return (
        f"**Cost saved:** {shares[0]} of the FLOPs and {shares[1]} of the seconds of the whole grid, as far as stages "
        f"count them ({', '.join(SPENT)}). Spent: {number(found.predicting.flops)} FLOPs and "
        f"{number(found.predicting.seconds)} s on first stages and predictors, {number(found.training.flops)} FLOPs "
        f"and {number(found.training.seconds)} s behind them. Not spent: about {number(found.saved.flops)} FLOPs and "
        f"{number(found.saved.seconds)} s, taken from those trained at the same f."
    )


def _share(saved: float, spent: float) -> str:
    return f"{100 * saved / (saved + spent):.0f} %" if saved + spent > 0 else "–"


def _risk_line(choice: Shortlist, outcome: Outcome, metric: Headline) -> str:
    names = list(choice.predicted)
    values = outcome.values.reindex(names).to_numpy(np.float64)
    kept = np.isin(names, choice.kept)
    if np.isfinite(values).sum() < LEAST or not np.isfinite(values[kept]).any():
        return f"**Risk:** not told; it needs {LEAST} trained first stages, the best by the predictor among them."
    sign = -1.0 if metric.higher_is_better else 1.0
    found = risk(
        np.array(list(choice.predicted.values())), sign * values, outcome.errors.reindex(names).to_numpy(), kept
    )
    of_controls = sign * values[np.isin(names, choice.controls)]
    best_kept = float(np.nanmin(sign * values[kept]))
    seen = best_kept - min(best_kept, *of_controls[np.isfinite(of_controls)])
    return (
        f"**Risk**, by {metric.title} of {outcome.n:,} samples (protocol {outcome.protocol}): the best of all "
        f"{len(names)} is not among the kept "
        f"with probability {found.pruned.value:.2f} [{found.pruned.low:.2f}, {found.pruned.high:.2f}]. The best "
        f"kept is behind the best of all by {number(found.regret.value)} [{number(found.regret.low)}, "
        f"{number(found.regret.high)}]; behind the best that was trained, controls included, by {number(seen)}. "
        "Intervals are 95 %, and trust the line and its normal scatter."
    )


def _listed(choice: Shortlist, outcome: Outcome, metric: Headline, frame: pd.DataFrame) -> str:
    rows = frame[frame["first_stage"].isin(choice.predicted)].drop_duplicates("first_stage").set_index("first_stage")
    order = sorted(choice.predicted, key=lambda first: choice.predicted[first], reverse=not choice.lower_is_better)
    kinds: Mapping[str, str] = {**dict.fromkeys(choice.kept, "kept"), **dict.fromkeys(choice.controls, "control")}
    lines: Sequence[Sequence[str]] = [
        [
            f"`{first}`",
            "{} f = {}, {} channels".format(*(str(rows.loc[first, key]) for key in ("regulariser", "f", "channels"))),
            number(choice.predicted[first]),
            kinds.get(first, "pruned"),
            _with_interval(outcome, first),
        ]
        for first in order
    ]
    return table(["first stage", "what", f"`{choice.predictor}`", "", f"{metric.title}, n = {outcome.n:,}"], lines)


def _with_interval(outcome: Outcome, first: str) -> str:
    """What came of a first stage with its 95 % interval, where its samples have one."""
    value, half = outcome.values.get(first, math.nan), ERRORS_A_SIDE * outcome.errors.get(first, 0.0)
    return f"{number(value)} [{number(value - half)}, {number(value + half)}]" if half > 0 else number(value)
