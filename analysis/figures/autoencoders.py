"""Given autoencoders side by side, a line each: reconstruction, rate, predictors and quality of samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure

from analysis import limits, looks, rates, style
from analysis.axes import is_given
from analysis.collect import Study
from analysis.compare import by_cell, one_cell, seed_factor
from analysis.figures import findings
from analysis.figures.notes import counted, facts_of, notes_of, ring_key
from analysis.figures.panels import draw_mark, mean_of
from analysis.figures.standing import Standing, of_samples
from analysis.headline import better_end, direction, heading, headline

MOST = 3
"""Predictors that are drawn; predictors.md has all."""

LINE, PANEL, NAMES = 0.42, 2.15, 1.6
"""Inches: height of a line, width of a panel, room for the names."""


@dataclass(frozen=True)
class Measure:
    """One panel: what it shows, and one row a first stage."""

    title: str
    rows: pd.DataFrame


def has_data(study: Study) -> bool:
    """Whether several given first stages were measured."""
    return study.frame["ae_weights"].replace("", None).nunique() > 1


def draw(study: Study) -> Figure:
    """One line a first stage, one panel a measure, each with its own scale."""
    shown = measures(study)
    lines = study.frame[study.frame["first_stage"] != ""].drop_duplicates("first_stage").reset_index(drop=True)
    place = {name: position for position, name in enumerate(lines["first_stage"])}
    columns = max(1, len(shown))
    figure, [panels] = style.new_figure(1, columns, NAMES + PANEL * columns, 0.75 + LINE * len(lines), sharey=True)
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    for axes, measure in zip(panels, shown, strict=False):
        _draw_panel(axes, measure, place, look_of)
    if not shown:
        style.empty(panels[0], "nothing is measured yet")
    else:
        panels[0].set_yticks(list(place.values()), [named(row) for row in lines.to_dict("records")])
        panels[0].set_ylim(len(place) - 0.5, -0.5)
    drawn = pd.concat([measure.rows for measure in shown]) if shown else study.frame.iloc[:0]
    left_out = sorted(set(_predictors(study)["metric"]) - set(drawn["metric"]))
    keys = looks.family_keys(look_of, drawn["regulariser"])
    if "limited" in drawn and (drawn["limited"] == True).any():  # noqa: E712
        keys.append(style.key("limited (see table.md)", marker="o", **style.HOLLOW))
    standing = standing_of(study)
    if "is_best" in drawn and (drawn["is_best"] == True).any():  # noqa: E712
        keys.append(ring_key(standing.is_tie))
    notes = [f"Further predictors are in predictors.md: {len(left_out)}."] if left_out else []
    style.finish(
        figure,
        findings.of_cells(standing, "Autoencoders side by side"),
        [facts_of(study, drawn, f"n = {counted(drawn['n'])} images" if shown else "")],
        [standing.note, *notes_of(study, drawn, "evaluation"), *notes],
        keys,
    )
    return figure


def standing_of(study: Study) -> Standing:
    """How the cells behind the first stages stand, by the headline metric of their samples."""
    metric = headline(study.frame, "evaluation")
    return Standing() if metric is None else of_samples(study, metric)


def named(row: Mapping[Any, Any]) -> str:
    """A first stage: the name of its weights, or its regulariser, and the shape of what it makes."""
    name = row["ae_weights"] if is_given(row["ae_weights"]) else row["regulariser"]
    return f"{name}\nf = {row['f']}, {row['channels']} channels"


def measures(study: Study) -> list[Measure]:
    """What was measured of first stages, and of the samples of the models on their latents."""
    reconstructed = study.frame[study.frame["stage"] == "reconstruction"]
    predicted = _predictors(study)
    judged, metric = study.frame[study.frame["stage"] == "evaluation"], headline(study.frame, "evaluation")
    standing = standing_of(study)
    judged = judged.assign(limited=limits.is_limited(judged, limits.known(study)), is_best=standing.has_best(judged))
    found = [
        (heading(reconstructed, "psnr"), reconstructed[reconstructed["metric"] == "psnr"]),
        ("rate, bits per pixel", rates.rate(reconstructed)),
        *((heading(predicted, name), predicted[predicted["metric"] == name]) for name in _first(predicted)),
        ("" if metric is None else metric.title, judged[judged["metric"] == (metric.metric if metric else "")]),
    ]
    return [Measure(_with_end(title, rows), _a_line_each(study, rows)) for title, rows in found if len(rows)]


def _predictors(study: Study) -> pd.DataFrame:
    rows = study.frame[study.frame["stage"] == "predictors"]
    return rows[rows["higher_is_better"] != ""]


def _first(predicted: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(predicted["metric"]))[:MOST]


def _with_end(title: str, rows: pd.DataFrame) -> str:
    better = better_end(direction(rows))
    return f"{title}\n({better})" if better else title


def _a_line_each(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a first stage, over seeds, by the protocol and at the steps that most have."""
    for column in ("protocol", "steps"):
        by_value = rows.groupby(column, dropna=False)["first_stage"].nunique()
        if len(by_value) > 1:
            rows = rows[rows[column] == by_value[by_value == by_value.max()].index.max()]
    factor = seed_factor([one_cell(cell) for cell in by_cell(rows, study.axes)])
    found = []
    for _, own in rows.groupby("first_stage", sort=False):
        point = own.iloc[0].copy()
        point["value"], point["ci_low"], point["ci_high"] = mean_of(own, factor)
        found.append(point)
    return pd.DataFrame(found)


def _draw_panel(axes: Plot, measure: Measure, place: Mapping[str, int], look_of: Mapping[str, looks.Family]) -> None:
    for point in measure.rows.to_dict("records"):
        tint, look, y = style.colour(point["f"]), look_of[point["regulariser"]], place[point["first_stage"]]
        low, high = (math.nan if bound is None else float(bound) for bound in (point["ci_low"], point["ci_high"]))
        style.interval(axes, point["value"], y, low, high, tint, horizontal=True)
        mark = {"limited": point.get("limited", False), "x": point["value"], "value": y}
        draw_mark(axes, mark, "x", look.marker, tint, look.size)
        if point.get("is_best", False):
            axes.plot(point["value"], y, zorder=5, **style.RING)
    axes.set_xlabel(measure.title)
    axes.locator_params(axis="x", nbins=4)
