"""Drawn figures as what the charts of the page are made of: the same numbers, with what is said of each."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import text
from analysis.labels import named_value
from analysis.numbers import MADE, Plane, Scale, Series, Words, frame

SYMBOLS: Mapping[str, str] = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "D": "diamond",
    "d": "diamond-tall",
    "X": "x",
    "x": "x-thin-open",
    "p": "pentagon",
    "h": "hexagon",
    "*": "star",
    "8": "octagon",
    "|": "line-ns-open",
}
"""Matplotlib's marks as Plotly calls them."""

RINGS: Mapping[str, Mapping[str, Any]] = {
    "ring": {"symbol": "circle-open", "size": 15, "line": {"width": 1.2}},
    "wide ring": {"symbol": "circle-open", "size": 20, "line": {"width": 2.4}},
}
"""Marks around other marks, which they leave room for."""

DASHES: Mapping[str, str] = {"-": "solid", ":": "dot", "dotted": "dot", "--": "dash", "-.": "dashdot"}

MOST_OF_A_COMMAND = 72
"""Letters in a line of a command that is shown beside a point."""

BESIDE_WIDTH = 1.2
HOLLOW_WIDTH = 1.6


@dataclass(frozen=True)
class Panel:
    """One chart of the page: its heading, what its y axis says, its lines as Plotly takes them, and its axes."""

    heading: str
    value: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"traces": self.traces, "layout": self.layout}


@dataclass(frozen=True)
class Chart:
    """A figure of the page: its words, its panels, its numbers as CSV, and the file of the figure for print."""

    name: str
    words: Words
    panels: Sequence[Panel]
    csv: str
    print_file: Path | None = None


def chart(name: str, words: Words, planes: Sequence[Plane], told: Mapping[str, str], file: Path | None = None) -> Chart:
    """The chart of these panels; `told`: commands by the identity of what they make."""
    made = [panel(plane, told) for plane in planes]
    return Chart(name, words, made, frame(planes).to_csv(index=False), file)


def panel(plane: Plane, told: Mapping[str, str]) -> Panel:
    """A panel with its axes and lines as Plotly takes them."""
    x, y = _axis(plane.x, plane.series, "x"), _axis(plane.y, plane.series, "value")
    y["title"] = {"text": ""}  # which stands above the panel, where it can be read at any width
    if plane.x.title.startswith("compression factor"):
        factors = sorted({float(f) for one in plane.series for f in one.rows["x"].dropna()})
        x |= {"tickvals": factors, "ticktext": [f"{f:g}" for f in factors]}
    traces, keyed = [], set[str]()
    # Rings come last, for what comes later lies above; a line and its points would cover them.
    for one in sorted(plane.series, key=lambda one: one.marker in RINGS):
        shown = _trace(one, plane, x, told)
        group = one.group or one.name
        # A group is switched by the key of the series that has its name, else by that of its first.
        is_key = one.name == group or (group not in keyed and all(other.name != group for other in plane.series))
        traces.append(
            shown | {"legendgroup": group, "name": as_said(group), "showlegend": is_key and group not in keyed}
        )
        keyed |= {group} if is_key else set()
    return Panel(plane.heading, plane.y.title, traces, {"xaxis": x, "yaxis": y})


def _axis(scale: Scale, series: Sequence[Series], column: str) -> dict[str, Any]:
    """An axis of Plotly's; where Matplotlib's is logarithmic on both sides of 0 it is linear.

    A logarithmic one has no place for a floor that is not above 0, and reaches as far as all else.
    """
    axis: dict[str, Any] = {"title": {"text": _wrapped(scale.title, 46)}, "type": "log" if scale.is_log else "linear"}
    logs = [math.log10(value) for one in series for value in one.rows[column].dropna() if value > 0]
    if scale.is_log and logs:
        margin = max(0.06 * (max(logs) - min(logs)), 0.06)
        axis["range"] = [min(logs) - margin, max(logs) + margin]
    return axis


def _trace(one: Series, plane: Plane, x: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, Any]:
    """A series as Plotly draws it; a level, which has no place on the x axis, as a line across the panel."""
    rows, is_level = one.rows, bool(one.rows["x"].isna().all())
    whys = one.hollow or [""] * len(rows)
    hover = [_hover(one.name, row, plane, told, why) for row, why in zip(rows.to_dict("records"), whys, strict=True)]
    marks: dict[str, Any] = {
        "symbol": SYMBOLS.get(one.marker, "circle"),
        "size": 5 if one.is_beside else 8,
        "color": one.tint,
    }
    if one.tints:
        marks["color"] = list(one.tints)
    if any(one.hollow):
        symbol = marks["symbol"].removesuffix("-open")
        marks["symbol"] = [f"{symbol}-open" if why else symbol for why in one.hollow]
        marks["line"] = {"width": [HOLLOW_WIDTH if why else 0 for why in one.hollow]}
    marks |= RINGS.get(one.marker, {})
    mode = "+".join([*(["lines"] if one.line else []), *(["markers"] if one.marker else [])])
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": mode,
        "x": _numbers(rows["x"]),
        "y": _numbers(rows["value"]),
        "line": {
            "color": one.tint,
            "width": BESIDE_WIDTH if one.is_beside else 2,
            "dash": _dash(one.line),
            "shape": one.shape,
        },
        "marker": marks,
        "hovertext": hover,
        "hoverinfo": "text",
        "opacity": 0.75 if one.is_beside else 1,
    }
    if is_level:
        low, high = x.get("range", (0, 1))
        ends = [10**low, 10**high] if x["type"] == "log" else [low, high]
        trace |= {"x": ends, "y": [float(rows["value"].iloc[0])] * 2, "hovertext": hover * 2, "mode": "lines"}
        trace |= {"visible": True if one.tint in LEVELS_SHOWN else "legendonly"}
    for axis, column in (("error_y", "ci"), ("error_x", "x")):
        # A ring's point has its bars already.
        if not is_level and one.marker not in RINGS and f"{column}_low" in rows and rows[f"{column}_low"].notna().any():
            at = rows["value" if column == "ci" else "x"]
            above, below = rows[f"{column}_high"] - at, at - rows[f"{column}_low"]
            trace[axis] = {"type": "data", "symmetric": False, "array": _numbers(above), "arrayminus": _numbers(below)}
            trace[axis] |= {"thickness": 1.2, "width": 0, "color": one.tint}
    return trace


LEVELS_SHOWN = ("#222222",)
"""Colours of levels that are shown at once; others only where the legend switches them on."""


def as_said(name: str) -> str:
    """A text whose marks Plotly shows as they are, and does not read as its markup."""
    return html.escape(name, quote=False)


def _hover(name: str, row: Mapping[Any, Any], plane: Plane, told: Mapping[str, str], hollow: str) -> str:
    """What is shown beside a point: line, value with interval and n, place, and the command that makes it again.

    `hollow`: why its mark is an outline, "" where it is filled.
    """
    known = {"ci_low": row.get("ci_low"), "ci_high": row.get("ci_high"), "value": row["value"], "protocol": ""}
    lines = [f"<b>{as_said(name)}</b>", f"{_first(plane.y.title)}: <b>{text.interval(known)}</b>"]
    if pd.notna(row["x"]):
        lines.append(f"{_first(plane.x.title)}: {text.number(row['x'])}")
    given = _factor(row.get("f"), name, plane.x)
    axes = ("channels", "sampler", "steps", "guidance_scale", "images_seen")
    given += [named_value(axis, row[axis]) for axis in axes if axis in row and row[axis] != "" and pd.notna(row[axis])]
    lines += [", ".join(given)] if given else []
    lines += [f"n = {int(row['n']):,}"] if "n" in row and pd.notna(row["n"]) else []
    lines += [row[MADE]] if row.get(MADE, "") else []
    lines += [f"hollow: {as_said(hollow)}"] if hollow else []
    command = told.get(str(row.get("identity", ""))) or told.get(str(row.get("model", "")))
    lines += [f"<i>{_wrapped(as_said(command), MOST_OF_A_COMMAND)}</i>"] if command else []
    return "<br>".join(line for line in lines if line)


def _factor(f: Any, name: str, x: Scale) -> list[str]:
    """The f of a point where neither its line's name nor the axis says it."""
    if pd.isna(f) or not f or x.title.startswith("compression factor") or re.search(rf"\bf ?= ?{f:g}\b", name):
        return []
    return [f"f = {f:g}"]


def _first(title: str) -> str:
    """The title of an axis without what stands in brackets."""
    return re.sub(r"\s*\(.*?\)", "", title)


def _wrapped(line: str, width: int) -> str:
    words, lines = line.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "<br>".join(lines)


def _dash(line: Any) -> str:
    """A line's style as Plotly writes it: a name, or the lengths of dashes and gaps."""
    if isinstance(line, tuple):
        return ",".join(f"{2 * length:g}px" for length in line[1])
    return DASHES.get(str(line), "solid")


def _numbers(values: pd.Series) -> list[float | None]:
    """Numbers of six digits as JSON has them, which has no NaN."""
    return [None if pd.isna(value) or math.isinf(value) else float(f"{value:.6g}") for value in values]
