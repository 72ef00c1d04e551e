"""Short names of rows, which say only what differs among them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.collect import ALL_AXES, choices, family_name


def row_label(rows: pd.DataFrame, row: Mapping[Any, Any], without: Sequence[str] = ()) -> str:
    """The name of one of `rows`, e.g. "KL f=8, 10 steps, seed 1"; channels where they do not follow from f."""
    named = ["f", "regulariser", "steps", *without]
    by_point = rows.groupby(["regulariser", "f"], dropna=False)
    if "channels" not in named and by_point["channels"].nunique().max() == 1:
        named.append("channels")
    parts = [f"{family_name(row['regulariser'])} f={row['f']}"]
    parts += [f"{row['steps']} steps"] if pd.notna(row["steps"]) and "steps" not in without else []
    swept = [axis for axis in ALL_AXES if axis not in named and choices(rows[axis]) > 1]
    shown = [(axis.replace("_", " "), row[axis]) for axis in swept if row[axis] != "" and pd.notna(row[axis])]
    return ", ".join([*parts, *(f"{axis} {_short(value)}" for axis, value in shown)])


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
