"""The numbers that a figure shows, kept with it: its CSV file and the interactive page are made of what was drawn."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes as Plot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

MADE = "made"
"""Column that says how a number was made that no one record has, such as the mean of several; "" of others."""

TOLD = ("f", "regulariser", "channels", "sampler", "steps", "guidance_scale", "images_seen", "n", "protocol")
"""Columns of rows that go with the numbers, where a figure's rows have them."""

SOURCES = ("cell", "model", "first_stage", "identity")
"""Columns that say of what a number is."""

NUMBERS = ("value", "ci_low", "ci_high", "x_low", "x_high")
"""Columns of the numbers themselves."""


@dataclass(frozen=True)
class Series:
    """A line or a group of points: its name, its numbers, and how it is drawn.

    `rows`: a number a row, with columns `x` and `value`, and as far as they are known those of `NUMBERS`, `TOLD`,
    `MADE` and `SOURCES`. `line`: the line's style as Matplotlib has it, "" where points are not joined. `tints`: of the
    marks, where they differ from the line's. `is_beside`: whether it is no result of this study's cells but stands
    beside them. `group`: the series with whose key it is switched on and off, where that is not its own. `hollow`: of
    each mark why it is drawn as an outline, "" where it is filled. `shape`: of the line, as Plotly calls it: "hv" are
    steps that keep a point's value after it, "vh" before it.
    """

    name: str
    rows: pd.DataFrame
    tint: str
    line: Any = "-"
    marker: str = ""
    tints: Sequence[str] = ()
    is_beside: bool = False
    group: str = ""
    hollow: Sequence[str] = ()
    shape: str = "linear"


@dataclass(frozen=True)
class Words:
    """What is written around the panels of a figure: its title, the facts below it, and its notes."""

    title: str = ""
    facts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """An axis: what it says in a line, and whether it is logarithmic."""

    title: str
    is_log: bool = False


@dataclass(frozen=True)
class Plane:
    """A panel as numbers."""

    heading: str
    x: Scale
    y: Scale
    series: Sequence[Series]


class NumberedFigure(Figure):
    """A figure that knows the numbers in each of its panels, and its words."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.series: dict[Plot, list[Series]] = {}
        self.words = Words()

    @property
    def planes(self) -> list[Plane]:
        """Its panels in which there is anything; those that share an axis say of it the same."""
        x, y = (
            [label for plot in self.axes if (label := of(plot))] or [""] for of in (Plot.get_xlabel, Plot.get_ylabel)
        )
        return [
            Plane(
                one_line(axes.get_title(loc="left")),
                Scale(one_line(axes.get_xlabel() or x[-1]), axes.get_xscale() == "log"),
                Scale(one_line(axes.get_ylabel() or y[0]), axes.get_yscale() == "log"),
                series,
            )
            for axes, series in self.series.items()
        ]


def keep(
    axes: Plot,
    name: str,
    rows: pd.DataFrame,
    x: str,
    tint: str,
    line: Any = "-",
    marker: str = "",
    value: str = "value",
    tints: Sequence[str] = (),
    is_beside: bool = False,
    group: str = "",
    hollow: Sequence[str] = (),
    shape: str = "linear",
) -> None:
    """Keeps with the figure what was drawn of these rows: their columns `x` and `value`.

    What no one record has names none. A figure that keeps no numbers is left as it is.
    """
    figure = axes.get_figure(root=True)
    if not isinstance(figure, NumberedFigure) or rows.empty:
        return
    columns = {
        "x": rows[x].astype(float),
        "value": rows[value].astype(float),
        **{column: rows[column] for column in (*NUMBERS[1:], *TOLD, MADE, *SOURCES) if column in rows},
    }
    kept = pd.DataFrame(columns).reset_index(drop=True)
    if MADE in kept:
        kept.loc[kept[MADE] != "", [column for column in SOURCES if column in kept]] = ""
    figure.series.setdefault(axes, []).append(
        Series(name, kept, to_hex(tint), line, marker, tuple(tints), is_beside, group, tuple(hollow), shape)
    )


def keep_level(axes: Plot, name: str, rows: pd.DataFrame, tint: str, group: str = "") -> None:
    """Keeps a level that was drawn across the panel: a row that has no place on its x axis, or the mean of several.

    A mean has no interval, and no record that it is of.
    """
    level = rows.iloc[[0]].assign(x=math.nan)
    if len(rows) > 1:
        level = level.assign(value=float(rows["value"].mean()), ci_low=math.nan, ci_high=math.nan)
        level = level.drop(columns=[name for name in SOURCES if name in level])
    keep(axes, name, level, "x", tint, "--", is_beside=True, group=group)


def frame(planes: Sequence[Plane]) -> pd.DataFrame:
    """All numbers of a figure, one a row: the panel, the line, what both axes say, and of what each number is."""
    parts = [
        one.rows.assign(panel=plane.heading, series=one.name, x_axis=plane.x.title, y_axis=plane.y.title)
        for plane in planes
        for one in plane.series
    ]
    if not parts:
        return pd.DataFrame()
    first = ["panel", "series", "x_axis", "x", "y_axis", *NUMBERS]
    found = pd.concat(parts, ignore_index=True)
    return found[[name for name in (*first, *TOLD, MADE, *SOURCES) if name in found]]


def captions(told: Mapping[str, Words]) -> str:
    """What stands around each figure, for the text that it is set in, as Markdown."""
    parts = [
        f"## {name}\n\n**{_sentences([one.title])}** {_sentences((*one.facts, *one.notes))}"
        for name, one in told.items()
    ]
    return "\n\n".join(["# Captions", *parts]) + "\n"


def _sentences(texts: Iterable[str]) -> str:
    """Texts in a row, each with its full stop."""
    return " ".join(text if text.endswith((".", "?", "!", ":")) else f"{text}." for text in texts if text)


def mean_of_trainings(count: int) -> str:
    """How the mean of so many trainings was made, for the column `MADE`."""
    return f"mean of {count} trainings" if count > 1 else ""


def one_line(text: str) -> str:
    """A text of a figure without its line breaks."""
    return " ".join(text.split())
