"""Short names of cells and rows, which say only what differs among them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import settings
from analysis.axes import Axes, choices, is_given
from ldm.records import Cell, StageShape

FOLLOWS_F = ("shift", "guidance_interval")
"""Axes that a scale may derive from f: a name says them only where they tell cells of one f apart."""


class CellLabels:
    """Short names of what is measured of cells; `stages` says on which axes it depends, `axes` in which order.

    `without`: axes that are never named.
    """

    def __init__(
        self, cells: Sequence[Cell], axes: Axes, stages: Mapping[str, StageShape], without: Sequence[str] = ()
    ) -> None:
        values = {axis: {str(cell.axes.get(axis)) for cell in cells} for axis in axes.all}
        self.stages, self.axes = stages, axes
        self.varying = {axis for axis, found in values.items() if len(found) > 1 and axis not in without}
        # Channels follow from f in most sweeps, too: they are named only where they tell cells apart.
        by_candidate: dict[tuple[Any, Any], list[Cell]] = {}
        for cell in cells:
            by_candidate.setdefault((cell.axes.get("regulariser"), cell.axes.get("f")), []).append(cell)
        for axis in ("channels", *FOLLOWS_F):
            if all(len({cell.axes.get(axis) for cell in own}) == 1 for own in by_candidate.values()):
                self.varying.discard(axis)

    def label(self, cell: Cell, stage: str) -> str:
        """The name of what `stage` measures of a cell, e.g. "KL f=8, 10 steps" for its samples."""
        axes = self.stages[stage].axes
        if "f" not in axes:
            return stage
        parts = [self.axes.title("regulariser", cell.axes.get("regulariser")) + f" f={cell.axes.get('f')}"]
        if "steps" in axes:
            parts.append(f"{cell.axes.get('steps')} steps")
        others = [a for a in axes if a in self.varying and a not in {"f", "regulariser", "steps"}]
        others = [a for a in others if cell.axes.get(a) is not None]
        named = ("" if axis in settings.AXES else f"{axis}=" for axis in others)
        return ", ".join(parts + [name + str(cell.axes.get(axis)) for name, axis in zip(named, others, strict=True)])


class RowLabels:
    """The names of rows among `rows`, e.g. "KL f=8, 10 steps, seed 1"; channels where they do not follow from f."""

    def __init__(self, rows: pd.DataFrame, axes: Axes, without: Sequence[str] = ()) -> None:
        named = ["f", "regulariser", "steps", *without]
        if "channels" not in told_apart(rows, ["channels"]):
            named.append("channels")
        self._swept = varying(rows, [axis for axis in axes.all if axis not in named])
        self._axes, self._has_steps = axes, "steps" not in without

    def of(self, row: Mapping[Any, Any]) -> str:
        """The name of one of the rows."""
        parts = [f"{self._axes.title('regulariser', row['regulariser'])} f={row['f']}"]
        parts += [f"{row['steps']} steps"] if self._has_steps and pd.notna(row["steps"]) else []
        return ", ".join([*parts, *(named_value(axis, row[axis]) for axis in self._swept if is_given(row[axis]))])


def row_label(rows: pd.DataFrame, row: Mapping[Any, Any], axes: Axes, without: Sequence[str] = ()) -> str:
    """The name of one of `rows`, as `RowLabels` has it."""
    return RowLabels(rows, axes, without).of(row)


def told_apart(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Those of the axes of which rows of the same regulariser and f have several choices."""
    by_point = rows.groupby(["regulariser", "f"], dropna=False)
    return [axis for axis in axes if choices(rows[axis]) > 1 and by_point[axis].agg(choices).max() > 1]


def varying(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Those of the axes that names of the rows say: of which there are several choices that do not follow from f."""
    return [axis for axis in axes if choices(rows[axis]) > 1 and not follows_f(rows, axis)]


def follows_f(rows: pd.DataFrame, axis: str) -> bool:
    """Whether an axis that a scale may derive from f has one value, or none, at each f and regulariser of the rows."""
    if axis not in FOLLOWS_F:
        return False
    return bool(rows.groupby(["regulariser", "f"], dropna=False)[axis].nunique(dropna=False).max() == 1)


def named_value(axis: str, value: Any) -> str:
    """An axis with its value, e.g. "eta 0.5"; settings without an axis of their own name themselves."""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return shown if axis in settings.AXES else f"{axis.replace('_', ' ')} {shown}"
