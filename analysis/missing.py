"""What a sweep asks for and its store does not hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.axes import needed_by
from analysis.labels import CellLabels
from analysis.store import Records
from ldm.records import Cell, StageShape


@dataclass(frozen=True)
class Missing:
    """A result that the sweep asks for and the store does not hold: `goal` is the stage that would have written it."""

    label: str
    goal: str
    stage: str
    identity: str
    failed: bool
    reason: str


def gaps(records: Records, cell: Cell, stages: Mapping[str, StageShape], labels: CellLabels) -> Iterable[Missing]:
    """The missing results of a cell, each with the stage that is the cause."""
    for goal in (name for name, shape in stages.items() if shape.is_result):
        if goal not in cell.stages or records.get(goal, cell.stages[goal]) is not None:
            continue
        needed = [stage for stage in needed_by(goal, stages) if stage in cell.stages]
        open_stages = [stage for stage in needed if records.get(stage, cell.stages[stage]) is None]
        failures = {s: text for s in open_stages if (text := records.failure(s, cell.stages[s])) is not None}
        # The first failure is the cause of all that is open behind it.
        stage = next(iter(failures), open_stages[0])
        reason = f"{stage} failed: {failures[stage]}" if failures else f"{stage} is not finished"
        yield Missing(labels.label(cell, goal), goal, stage, cell.stages[stage], bool(failures), reason)
