"""Floors of the headline metric: what real images, and held-out images that were encoded and decoded, score."""

import pandas as pd
from matplotlib.axes import Axes

from analysis import protocols, style
from analysis.collect import Study
from analysis.figures.notes import listed
from analysis.figures.panels import Panel
from analysis.headline import Headline, floors_of
from ldm.records import DECODED


def floor(study: Study, variant: str, like: Headline) -> pd.DataFrame:
    """The rows of a floor, real or decoded images; where the metric is biased by n, only those at the same n count.

    None where its own rows follow several protocols, of which a mean would say nothing.
    """
    rows = floors_of(study.frame, like.metric, variant)
    if protocols.mixed(rows):
        rows = rows.iloc[:0]
    same = rows[rows["n"] == like.n]
    if like.is_unbiased and same.empty:
        same = rows
    return same


def decoded_floor(study: Study, metric: Headline, panel: Panel) -> pd.DataFrame:
    """The floor of the panel's own first stages by f: the mean over their seeds."""
    axes = list(study.axes.first_stage)
    rows = floor(study, DECODED, metric).merge(panel.rows[axes].drop_duplicates(), on=axes)
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


def draw_decoded(axes: Axes, decoded: pd.DataFrame) -> None:
    """Marks the decoded floor of each f on the axis of the values."""
    for point in decoded.to_dict("records"):
        axes.plot(
            0.0,
            point["value"],
            marker=">",
            color=style.colour(point["f"]),
            markersize=6,
            transform=axes.get_yaxis_transform(),
            clip_on=False,
            linestyle="",
            zorder=5,
        )
