"""Short names of rows, which say only what differs among them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import settings
from analysis.collect import ALL_AXES, choices, family_name


def row_label(rows: pd.DataFrame, row: Mapping[Any, Any], without: Sequence[str] = ()) -> str:
    """The name of one of `rows`, e.g. "KL f=8, 10 steps, seed 1"; channels where they do not follow from f."""
    named = ["f", "regulariser", "steps", *without]
    if "channels" not in told_apart(rows, ["channels"]):
        named.append("channels")
    parts = [f"{family_name(row['regulariser'])} f={row['f']}"]
    parts += [f"{row['steps']} steps"] if pd.notna(row["steps"]) and "steps" not in without else []
    swept = [axis for axis in ALL_AXES if axis not in named and choices(rows[axis]) > 1]
    return ", ".join([*parts, *(named_value(axis, row[axis]) for axis in swept if is_given(row[axis]))])


def told_apart(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Those of the axes of which rows of the same regulariser and f have several choices."""
    by_point = rows.groupby(["regulariser", "f"], dropna=False)
    return [axis for axis in axes if by_point[axis].agg(choices).max() > 1]


def named_value(axis: str, value: Any) -> str:
    """An axis with its value, e.g. "eta 0.5"; settings without an axis of their own name themselves."""
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return shown if axis in settings.AXES else f"{axis.replace('_', ' ')} {shown}"


def is_given(value: Any) -> bool:
    """Whether an axis has a value in a row."""
    return value != "" and bool(pd.notna(value))
