"""Whether the sampler limits what was measured: twice the steps must change nothing, as a section of the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import protocols, text
from analysis.axes import REPEATED
from analysis.collect import Study
from analysis.compare import ALIKE, Comparison, compare, one_cell, seed_factor
from analysis.headline import headline
from analysis.labels import row_label


@dataclass(frozen=True)
class Doubled:
    """One candidate with a number of steps and with twice as many, by the headline metric.

    `cells`: the column `cell` of the former.
    """

    label: str
    steps: int
    comparison: Comparison
    cells: frozenset[str]

    @property
    def is_limited(self) -> bool | None:
        """Whether the metric moved by more than its interval; None where nothing bounds its error."""
        return None if self.comparison.verdict is None else self.comparison.verdict != ALIKE


def doubled(study: Study) -> list[Doubled]:
    """The pairs of cells that differ in steps alone, of which one has twice those of the other."""
    metric = headline(study.frame)
    if metric is None:
        return []
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == metric.metric)]
    rows = rows[rows["steps"].notna()]
    others = [axis for axis in study.axes.all if axis not in ("steps", *REPEATED)]
    letters = protocols.letters(rows)
    candidates = [
        {int(steps): own[own["steps"] == steps] for steps in sorted(set(own["steps"]))}
        for _, own in rows.groupby([*others, "protocol"], dropna=False, sort=False)
    ]
    spread = seed_factor([one_cell(cell) for cells in candidates for cell in cells.values()])
    sign = -1.0 if metric.higher_is_better else 1.0
    found = []
    for cells in candidates:
        for steps in (steps for steps in cells if 2 * steps in cells):
            first = cells[steps].iloc[0]
            label = row_label(rows, first.to_dict(), study.axes, without=("steps", *REPEATED))
            mark = f" (protocol {letters[first['protocol']]})" if first["protocol"] in letters else ""
            [comparison] = compare([one_cell(cells[2 * steps])], one_cell(cells[steps]), spread, sign)
            found.append(Doubled(label + mark, steps, comparison, frozenset(cells[steps]["cell"])))
    return found


def section(study: Study, marks: Mapping[str, str]) -> str:
    """One line a pair of cells, and one a cell that was checked; nothing where there is neither."""
    metric, pairs = headline(study.frame), doubled(study)
    lines = [
        [
            pair.label,
            text.number(pair.steps),
            "the cells' own",
            text.difference(found.difference, found.low, found.high),
            _verdict(pair.is_limited),
        ]
        for pair in pairs
        for found in [pair.comparison]
    ]
    title = {metric.title} if metric is not None and pairs else set()
    for one in study.finished:
        if one.record.stage == "sampler_check":
            facts = one.record.facts
            changed = [text.interval({**_plain(row), "protocol": row.protocol}, marks) for row in one.record.rows]
            lines.append([one.label, text.number(facts["steps"]), text.number(facts["n"]), *(changed or ["–"])])
            lines[-1].append(_verdict(facts["limited"]))
            title |= {str(facts["title"])} if "title" in facts else set()
    if not lines:
        return ""
    table = text.table(["cell", "steps", "n", "change with twice the steps", "limited by the sampler"], lines)
    what = f"{'; '.join(sorted(title))}: the value" if title else "The value"
    return f"{table}\n\n{what} with twice the steps less that with the cell's, {READ}"


READ = (
    "95 % interval of the difference, from which drops out what both owe to the same noise and reference images. A "
    "cell that is limited by its sampler is compared with others as a pair of model and sampler, not as a model."
)


def _plain(row: Any) -> dict[str, Any]:
    return {"value": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high}


def _verdict(limited: bool | None) -> str:
    return "unknown" if limited is None else "yes" if limited else "no"
