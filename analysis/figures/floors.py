"""Floors of the headline metric: what real images, decoded images, and decoded draws of a Gaussian score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import numbers, protocols, style
from analysis.collect import Study
from analysis.figures.notes import listed
from analysis.headline import Headline, floors_of
from ldm.records import DECODED, GAUSSIAN


def floor(study: Study, variant: str, like: Headline) -> pd.DataFrame:
    """The rows of a floor, as of real images; where the metric is biased by n, only those at the same n count.

    None where its own rows follow several protocols, of which a mean would say nothing.
    """
    rows = floors_of(study.frame, like.metric, variant)
    if protocols.mixed(rows):
        rows = rows.iloc[:0]
    same = rows[rows["n"] == like.n]
    if like.is_unbiased and same.empty:
        same = rows
    return same


def floor_by_f(study: Study, variant: str, metric: Headline, own: pd.DataFrame) -> pd.DataFrame:
    """The floor of the first stages of these rows by f, decoded images or a Gaussian: the mean over their seeds."""
    axes = list(study.axes.first_stage)
    rows = floor(study, variant, metric).merge(own[axes].drop_duplicates(), on=axes)
    return rows.groupby("f", as_index=False)[["value"]].mean()


def floor_note(study: Study, metric: Headline) -> str:
    """What to know of floors that were measured with another number of images than the samples."""
    floors = floors_of(study.frame, metric.metric)
    if protocols.mixed(floors):
        return "Floors are not drawn: they follow several protocols (table.md has them)."
    counts = sorted(set(floors["n"]))
    if not counts or counts == [metric.n]:
        return ""
    if metric.is_unbiased:
        return "" if metric.n in counts else f"Floors are measured at n = {listed(counts)}."
    return f"Only floors of the same n are drawn (measured: {listed(counts)}): {_named(floors)} depends on n."


def _named(floors: pd.DataFrame) -> str:
    return "the Fréchet distance" if (floors["kind"] == "fd").all() else "the metric"


@dataclass(frozen=True)
class FloorLook:
    """How a floor of first stages is drawn: marks on the axis of the values, or a line along an axis of f."""

    name: str
    line: tuple[int, tuple[int, ...]]
    fill: str = "full"
    alpha: float = 1.0

    def mark(self, colour: str) -> dict[str, Any]:
        """What matplotlib needs for a mark."""
        look = {"marker": ">", "markersize": 6, "fillstyle": self.fill, "linestyle": ""}
        return {**look, "color": colour, "alpha": self.alpha}

    def stroke(self) -> dict[str, Any]:
        """What matplotlib needs for a line."""
        return {"color": style.FLOOR, "linestyle": self.line, "linewidth": 1.3, "alpha": self.alpha}


LOOKS: Mapping[str, FloorLook] = {
    DECODED: FloorLook("decoded", (0, (5, 2))),
    GAUSSIAN: FloorLook("Gaussian", (0, (1, 2)), "none", 0.7),
}
"""By variant, the floors that each first stage has."""


def floor_key(variant: str, label: str, is_marked: bool) -> Line2D:
    """The floor's entry in a legend, as a mark or as a line."""
    look = LOOKS[variant]
    return style.key(label, **(look.mark(style.MUTED) if is_marked else look.stroke()))


def has_place(axes: Axes, value: float) -> bool:
    """Whether a value is a number that its axis can show."""
    return math.isfinite(value) and (value > 0 or axes.get_yscale() != "log")


def draw_marks(axes: Axes, variant: str, values: pd.DataFrame, family: str) -> None:
    """Marks a floor of each f on the axis of the values; `family`: what the regulariser is called, "" for the one."""
    for point in values.to_dict("records"):
        if not has_place(axes, point["value"]):
            continue
        axes.plot(
            0.0,
            point["value"],
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            zorder=5,
            **LOOKS[variant].mark(style.colour(point["f"])),
        )
        own, group = values[values["f"] == point["f"]], LOOKS[variant].name
        name = ", ".join(filter(None, (group, family, f"f = {point['f']}")))
        numbers.keep_level(axes, name, own, style.colour(point["f"]), group)
