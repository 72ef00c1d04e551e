"""Whether the sampler limits what was measured: twice the steps must change nothing, as a section of the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from analysis import protocols, text
from analysis.axes import REPEATED
from analysis.collect import Study
from analysis.compare import ALIKE, Comparison, alike, cell_at, columns_of, compare, seed_factor
from analysis.headline import headline
from analysis.labels import RowLabels


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


@lru_cache(maxsize=2)
def doubled(study: Study) -> tuple[Doubled, ...]:
    """The pairs of cells that differ in steps alone, of which one has twice those of the other."""
    metric = headline(study.frame)
    if metric is None:
        return ()
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == metric.metric)]
    rows = rows[rows["steps"].notna()]
    others = [axis for axis in study.axes.all if axis not in ("steps", *REPEATED)]
    letters = protocols.letters(rows)
    labels, columns = RowLabels(rows, study.axes, ("steps", *REPEATED)), columns_of(rows, ("steps", "cell", "protocol"))
    candidates = []
    for own in alike(rows, [*others, "protocol"]):
        by_steps: dict[int, list[int]] = {}
        for at in own:
            by_steps.setdefault(int(columns["steps"][at]), []).append(at)
        candidates.append({steps: by_steps[steps] for steps in sorted(by_steps)})
    measured = [{steps: cell_at(columns, own) for steps, own in places.items()} for places in candidates]
    spread = seed_factor([cell for cells in measured for cell in cells.values()])
    sign = -1.0 if metric.higher_is_better else 1.0
    found = []
    for places, cells in zip(candidates, measured, strict=True):
        for steps in (steps for steps in cells if 2 * steps in cells):
            first = rows.iloc[places[steps][0]]
            mark = f" (protocol {letters[first['protocol']]})" if first["protocol"] in letters else ""
            [comparison] = compare([cells[2 * steps]], cells[steps], spread, sign)
            of = frozenset(columns["cell"][at] for at in places[steps])
            found.append(Doubled(labels.of(first.to_dict()) + mark, steps, comparison, of))
    return tuple(found)


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
