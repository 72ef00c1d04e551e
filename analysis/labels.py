"""Short names of rows and curves, which say only what differs among them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis import settings
from analysis.collect import ALL_AXES, Codec, choices, family_name


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


def codec_marks(curves: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By image set what marks its curves where there are several: " A", " B", ...; names are too long for labels."""
    images = list(dict.fromkeys(name for _, name in curves))
    return {name: f" {chr(ord('A') + index)}" if len(images) > 1 else "" for index, name in enumerate(images)}


def codec_note(curves: Mapping[tuple[str, str], Sequence[Codec]]) -> list[str]:
    """Which images the codec curves of a figure are of; nothing where there are none."""
    counts = {images: points[0].n for (_, images), points in curves.items()}
    named = [f"{mark.strip()} = {name}" if mark else name for name, mark in codec_marks(curves).items()]
    spelled = [name if "n = " in name else f"{name}, n = {n:,}" for name, n in zip(named, counts.values(), strict=True)]
    return [f"Codecs on held-out images: {'; '.join(spelled)}."] if spelled else []
