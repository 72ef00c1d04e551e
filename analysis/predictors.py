"""How well predictors of a latent space, measured before diffusion is trained on it, ranked what came of it."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import protocols
from analysis.collect import Study
from analysis.compare import ERRORS_A_SIDE
from analysis.headline import headline
from analysis.text import table
from ldm.rank_correlation import LEAST, Ranking, Values, ranking
from ldm.records import DECODED, GENERATION, RATE, RECONSTRUCTION


def _is_baseline(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Rows of the reconstruction stage that are predictors too, whether or not they were meant to be.

    Distortions of reconstructions, distances of decoded images, and the rate of what is compressed at all.
    """
    is_distortion = (rows["group"] == RECONSTRUCTION) & (rows["variant"] == "")
    is_distance = (rows["group"] == GENERATION) & (rows["variant"] == DECODED) & (rows["higher_is_better"] == False)  # noqa: E712
    is_rate = (rows["group"] == RATE) & rows["headline_from"].notna() & (rows["f"] > 1)
    return (rows["stage"] == "reconstruction") & (is_distortion | is_distance | is_rate)


@dataclass(frozen=True)
class Outcome:
    """What came of the first stages, measured in one way: the headline metric of n samples by first stage.

    `errors`: standard errors of the values over samples and reference images, 0 where no interval tells them.
    """

    protocol: str
    n: int
    values: pd.Series
    errors: pd.Series


def outcomes(study: Study) -> list[Outcome]:
    """The samples' headline metric, one a protocol, at the step count that most have, mean over all else."""
    metric = headline(study.frame, "evaluation")
    rows = study.frame[study.frame["stage"] == "evaluation"]
    rows = rows[rows["metric"] == (metric.metric if metric else "")]
    found = []
    for protocol, own in rows.groupby("protocol", sort=False):
        shared = own.groupby("steps")["first_stage"].nunique()
        chosen = own[own["steps"] == shared[shared == shared.max()].index.max()]
        # Values of one first stage share reference images, and noise: their mean is taken to be no surer than one.
        errors = (
            ((chosen["ci_high"] - chosen["ci_low"]) / (2 * ERRORS_A_SIDE))
            .groupby(chosen["first_stage"])
            .mean()
            .fillna(0)
        )
        means = chosen.groupby("first_stage")["value"].mean()
        found.append(Outcome(str(protocol), int(chosen["n"].min()), means, errors))
    return found


def predictions(study: Study) -> pd.DataFrame:
    """One row a first stage, one column a predictor, one more for each further protocol that it was measured by; f."""
    rows = study.frame
    rows = rows[(rows["stage"] == "predictors") | _is_baseline(rows)]
    letters, mixed = protocols.letters(study.frame), rows.groupby("metric")["protocol"].transform("nunique") > 1
    marks = rows["protocol"].map(lambda name: f" (protocol {letters.get(name, name)})").where(mixed, "")
    values = rows.assign(predictor=rows["metric"] + marks).pivot_table(
        index="first_stage", columns="predictor", values="value", aggfunc="mean", sort=False
    )
    return values.join(rows.groupby("first_stage")["f"].first())


def markdown(study: Study) -> str:
    """The page: rank correlation of every predictor with the samples' headline metric, within f and overall."""
    found, predicted = outcomes(study), predictions(study)
    metric = headline(study.frame, "evaluation")
    shared = [outcome for outcome in found if predicted.index.isin(outcome.values.index).any()]
    if metric is None or not shared:
        return (
            "# Predictors\n\nNo first stage has both predictors and finished samples: let the sweep run to its end.\n"
        )
    letters = protocols.letters(study.frame)
    parts = []
    for outcome in shared:
        marked = f"Protocol {letters.get(outcome.protocol, outcome.protocol)}, n = {outcome.n:,} samples"
        heading = f"## {marked}\n\n" if len(found) > 1 else f"{marked}.\n\n"
        parts.append(heading + _rankings(predicted, outcome))
    return (
        f"# Predictors of {metric.title}\n\n"
        f"Spearman's rank correlation over first stages with the samples' {metric.title} "
        f"(n = {' or '.join(f'{outcome.n:,}' for outcome in shared)} samples; {metric.better}). Positive: a "
        f"{'higher' if metric.higher_is_better else 'lower'} predictor went with better samples. Within f: "
        "ranks are taken among first stages of one f, so that f itself earns nothing. In brackets: 95 % interval by "
        f"Fisher's z over first stages; none below {LEAST} of them. Many predictors are looked at: the "
        "best of a table flatters itself.\n\n" + "\n\n".join(parts) + "\n"
    )


def _rankings(predicted: pd.DataFrame, outcome: Outcome) -> str:
    joined = predicted.join(outcome.values.rename("outcome"), how="inner")
    found = []
    for name in [column for column in predicted.columns if column != "f"]:
        own = joined[[name, "f", "outcome"]].dropna()
        shared = own[own.groupby("f")["f"].transform("size") > 1]
        within = ranking(*_columns(shared, name), shared["f"].to_numpy(np.int64))
        overall = ranking(*_columns(own, name), np.zeros(len(own), dtype=np.int64))
        found.append((str(name), within, overall))
    found.sort(key=lambda item: -abs(item[1].value) if math.isfinite(item[1].value) else 0)
    lines = [[f"`{name}`", _shown(w), str(w.n), _shown(o), str(o.n)] for name, w, o in found]
    return table(["predictor", "within f", "first stages", "overall", "first stages"], lines)


def _columns(rows: pd.DataFrame, name: str) -> tuple[Values, Values]:
    return rows[name].to_numpy(np.float64), rows["outcome"].to_numpy(np.float64)


def _shown(found: Ranking) -> str:
    if not math.isfinite(found.value):
        return "–"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
