"""Whether cells were given equal chances, as sections of the table: tuned guidance, learning rates that were found, and
the learning-rate check.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from analysis import older_metrics, protocols, text
from analysis.axes import REPEATED, TUNED
from analysis.collect import Study
from analysis.compare import ALIKE, LEVEL, Mean, compare, mean_over_seeds, one_cell, one_value, seed_factor
from analysis.headline import headline
from analysis.labels import RowLabels
from ldm.records import ResultRow

FACTOR = "learning_rate_factor"


@dataclass(frozen=True)
class Tuning:
    """How the guidance of a cell was found: by scale the distance of n samples that are not the reported ones."""

    label: str
    metric: str
    n: int
    protocol: str
    scale: float
    is_at_the_end: bool
    tried: Mapping[float, ResultRow]
    title: str = ""


def tunings(study: Study) -> list[Tuning]:
    """How the cells of a study found their guidance, where they did."""
    return [_tuning(one.label, one.record.facts) for one in study.finished if one.record.stage == "tuning"]


def _tuning(label: str, facts: Mapping[str, Any]) -> Tuning:
    metric, n, protocol = facts["metric"], int(facts["n"]), str(facts.get("protocol", ""))
    title = str(facts.get("title") or older_metrics.meaning(metric)["title"])
    tried = {
        float(item["scale"]): ResultRow(
            metric, n=n, protocol=protocol, **{k: v for k, v in item.items() if k != "scale"}
        )
        for item in facts["tried"]
    }
    return Tuning(label, metric, n, protocol, float(facts["scale"]), bool(facts["is_at_the_end"]), tried, title)


def tuned_guidance(found: Sequence[Tuning]) -> str:
    """What was tried for each cell whose guidance was found, and what was taken; a table for each way of measuring."""
    alike: dict[tuple[str, int, str], list[Tuning]] = {}
    for tuning in found:
        alike.setdefault((tuning.metric, tuning.n, tuning.protocol), []).append(tuning)
    budgets = sorted({len(tuning.tried) * tuning.n for tuning in found})
    equal = (
        f"the same budget for each cell, {budgets[0]:,} samples"
        if len(budgets) == 1
        else (f"NOT THE SAME BUDGET: {', '.join(f'{b:,}' for b in budgets)} samples")
    )
    return "\n\n".join(_tunings(own, equal) for own in alike.values())


def _tunings(alike: Sequence[Tuning], equal: str) -> str:
    scales, first = sorted({scale for tuning in alike for scale in tuning.tried}), alike[0]
    lines = []
    for tuning in alike:
        found = f"{tuning.scale:g}"
        found += " (an end of what was tried; the best may lie beyond)" if tuning.is_at_the_end else ""
        found += f"; not distinguishable: {', '.join(f'{s:g}' for s in ties)}" if (ties := undecided(tuning)) else ""
        lines.append([tuning.label, *(_value(tuning.tried.get(scale)) for scale in scales), found])
    return text.table(["cell", *(f"{scale:g}" for scale in scales), "taken"], lines) + (
        f"\n\n{first.title} by guidance scale, n = {first.n:,} each, protocol `{first.protocol}`, 95 % "
        f"intervals in brackets: {equal}. These samples have a seed of their own; none of them is among the reported "
        f"ones. All scales of a cell start from the same noise, so candidates are compared by their differences (level "
        f"{LEVEL:g}, Holm over the pairs)."
    )


def undecided(tuning: Tuning) -> list[float]:
    """The scales that were not taken, but may be as good."""
    cells = {scale: one_value(f"{scale:g}", row) for scale, row in tuning.tried.items()}
    taken, pairs = cells.pop(tuning.scale), len(tuning.tried) * (len(tuning.tried) - 1) // 2
    compared = compare(list(cells.values()), taken, seed_factor([]), pairs=pairs)
    return [scale for scale, item in zip(cells, compared, strict=True) if item.verdict == ALIKE]


def _value(row: ResultRow | None) -> str:
    return "–" if row is None else text.interval({**asdict(row), "protocol": ""})


AT_THE_END = "best at the end of the candidates"
"""What is said of a learning rate beyond which a better one may lie."""


@dataclass(frozen=True)
class FoundRate:
    """How the learning rate of a model was found: by factor of the scale's rate what its trial came to, on n images.

    `tried` holds what the stage recorded of each: its loss with an interval, or that it diverged, and whether it is
    told apart from the lowest.
    """

    label: str
    factor: float
    learning_rate: float
    is_at_the_end: bool
    n: int
    images: int
    tried: Mapping[float, Mapping[str, Any]]

    @property
    def ties(self) -> list[float]:
        """The factors that were not taken, but may be as good."""
        return [factor for factor, told in self.tried.items() if not told["is_apart"] and factor != self.factor]

    @property
    def short(self) -> str:
        """Label and rate, and whether that is an end, for a note."""
        return f"{self.label} {self.learning_rate:g}" + (f" ({AT_THE_END})" if self.is_at_the_end else "")


def found_rates(study: Study) -> list[FoundRate]:
    """How the models of a study found their learning rates, where they did."""
    return [_found_rate(one.label, one.record.facts) for one in study.finished if one.record.stage == "learning_rate"]


def _found_rate(label: str, facts: Mapping[str, Any]) -> FoundRate:
    own = {name: facts[name] for name in ("factor", "learning_rate", "is_at_the_end", "n", "images")}
    return FoundRate(label=label, tried={item["factor"]: item for item in facts["tried"]}, **own)


def tuned_rates(found: Sequence[FoundRate]) -> str:
    """What was tried for each model whose learning rate was found, and what was taken."""
    if not found:
        return ""
    factors = sorted({factor for rate in found for factor in rate.tried})
    lines = []
    for rate in found:
        taken = f"{rate.learning_rate:g} (×{rate.factor:g})" + (f"; {AT_THE_END}" if rate.is_at_the_end else "")
        taken += f"; not distinguishable: {', '.join(f'×{factor:g}' for factor in rate.ties)}" if rate.ties else ""
        seen = f"{len(rate.tried)} × {rate.images:,}"
        lines.append([rate.label, *(_loss(rate.tried.get(factor)) for factor in factors), f"{rate.n:,}", seen, taken])
    return text.table(["model", *(f"×{factor:g}" for factor in factors), "n", "images seen", "taken"], lines) + (
        "\n\nLoss of the target that is trained, after a trial at each multiple of the scale's rate, on n training "
        "images that the trials did not see, with 95 % intervals in brackets; levels and noise are the same for all. "
        "Losses are compared within a line alone. Of candidates that are not told apart from the lowest the one "
        "nearest to ×1 is taken. Short trials may favour higher rates than long trainings do, and the intervals hold "
        "the variance of images, not of training."
    )


def _loss(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "–"
    if told["diverged"]:
        return "diverged"
    return text.interval({"value": told["loss"], "ci_low": told["ci_low"], "ci_high": told["ci_high"], "protocol": ""})


@dataclass(frozen=True)
class RateCheck:
    """One candidate at several learning rates, measured in one way: factor -> the headline metric's mean over seeds."""

    label: str
    values: dict[float, float]
    protocol: str = ""
    n: int = 0
    means: Mapping[float, Mean] = field(default_factory=dict)
    higher_is_better: bool = False

    @property
    def best(self) -> float:
        """The factor at which it did best."""
        return min(self.values, key=lambda factor: self.sign * self.values[factor])

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where higher is."""
        return -1.0 if self.higher_is_better else 1.0

    @property
    def is_inside(self) -> bool:
        """Whether lower and higher factors were tried than the best, so that an optimum was seen."""
        return min(self.values) < self.best < max(self.values)


def rate_checks(study: Study) -> list[RateCheck]:
    """The candidates that were trained at more than one learning rate."""
    metric = headline(study.frame)
    if metric is None:
        return []
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == metric.metric)]
    if rows[FACTOR].nunique() < 2:
        return []
    others = [axis for axis in study.axes.all if axis not in (FACTOR, *REPEATED, "guidance_scale")]
    letters = protocols.letters(rows)
    # A tuned guidance may differ with the learning rate; one that was given is an axis like any other.
    given = rows["guidance_scale"].where(rows["guidance_rule"] != TUNED, -1.0)
    candidates = [
        {float(factor): cell for factor, cell in own.groupby(FACTOR)}  # type: ignore[arg-type]
        for _, own in rows.assign(given=given).groupby([*others, "given", "protocol"], dropna=False, sort=False)
    ]
    higher = bool(metric.higher_is_better)
    labels = RowLabels(rows, study.axes, (FACTOR, *REPEATED))
    spread = seed_factor([one_cell(cell) for cells in candidates for cell in cells.values()])
    found = []
    for cells in candidates:
        if len(cells) > 1:
            first = next(iter(cells.values())).iloc[0]
            label = labels.of(first.to_dict())
            mark = f" (protocol {letters[first['protocol']]})" if first["protocol"] in letters else ""
            means = {factor: mean_over_seeds(one_cell(cell), spread) for factor, cell in cells.items()}
            values = {factor: mean.value for factor, mean in means.items()}
            found.append(RateCheck(label + mark, values, str(first["protocol"]), int(first["n"]), means, higher))
    return found


def learning_rate_check(study: Study) -> str:
    """Each candidate at its learning rates, and whether the ordering at the common one may be claimed."""
    checks, metric = rate_checks(study), headline(study.frame)
    if not checks or metric is None:
        return ""
    factors = sorted({factor for check in checks for factor in check.values})
    lines = [[check.label, *(_mean(check, factor) for factor in factors), f"×{check.best:g}"] for check in checks]
    table = text.table(["candidate", *(f"×{factor:g}" for factor in factors), "best at"], lines)
    verdicts = []
    for protocol in dict.fromkeys(check.protocol for check in checks):
        own = [check for check in checks if check.protocol == protocol]
        seeds = sorted({mean.training_seeds for check in own for mean in check.means.values()})
        counts = sorted({check.n for check in own})
        verdicts.append(
            f"Protocol `{protocol}`, n = {' or '.join(f'{n:,}' for n in counts)}, "
            f"{' or '.join(map(str, seeds))} training seed{'s' * (seeds != [1])} a rate: {verdict(own)}"
        )
    return (
        f"{table}\n\n{metric.title} ({metric.better}), means over seeds with 95 % intervals in brackets. "
        + " ".join(verdicts)
    )


def _mean(check: RateCheck, factor: float) -> str:
    if factor not in check.means:
        return text.number(check.values.get(factor, math.nan))
    mean = check.means[factor]
    return text.interval({"value": mean.value, "ci_low": mean.low, "ci_high": mean.high, "protocol": ""})


def verdict(checks: Sequence[RateCheck]) -> str:
    """Whether the ordering of the candidates at factor 1 stands when each has its own best learning rate."""
    if len(checks) < 2:
        return "One candidate has no ordering."
    lacking = [check.label for check in checks if 1.0 not in check.values]
    if lacking:
        return f"No ordering is claimed: {'; '.join(lacking)} was not trained at ×1."
    common = [check.label for check in sorted(checks, key=lambda check: check.sign * check.values[1.0])]
    best = [check.label for check in sorted(checks, key=lambda check: check.sign * check.values[check.best])]
    ends = [f"{check.label} (×{check.best:g})" for check in checks if not check.is_inside]
    if ends:
        return f"No ordering is claimed: the best rate of {'; '.join(ends)} is an end of what was tried."
    if common != best:
        return (
            f"No ordering is claimed of one learning rate: at ×1 it is {' < '.join(common)}, with each one's best rate "
            f"{' < '.join(best)}."
        )
    return (
        f"The ordering {' < '.join(best)} is the same at ×1 and with each one's best rate; whether its steps are "
        "larger than chance is not said here."
    )
