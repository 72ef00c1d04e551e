"""The headline metric over the FLOPs of training, a curve a cell, with (marks) and without (ticks) the first stage."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.panels import Panel, draw_points, end_label, hollow
from analysis.figures.quality import quality_figure
from analysis.figures.standing import Standing
from analysis.headline import Headline
from analysis.milestones import sampled_with, with_flops
from analysis.placing import PointLabel

ALONE: Mapping[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": ""}
"""The mark of diffusion training without its first stage's share."""


def draw(study: Study) -> Figure:
    """The headline metric over the FLOPs of training, a curve a cell, with and without the first stage's share.

    Of milestones; where a study has none, of samples at the end of each training.
    """
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    stage = "progress" if (study.frame["stage"] == "progress").any() else "evaluation"
    steps = None if stage == "progress" else _common_steps(study)

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        rows = with_flops(study, panel.rows if steps is None else panel.rows[panel.rows["steps"] == steps])
        labels = []
        for family, f, own in replace(panel, rows=rows.sort_values("images_seen")).lines_of("f"):
            end, tint, look = own.iloc[-1], style.colour(f), look_of[family]
            faint: dict[str, Any] = {"color": tint, "linewidth": 0.8, "alpha": 0.45, "zorder": 1}
            axes.plot(own["spent"], own["value"], ".", linestyle=look.line, markersize=3, **faint)
            axes.plot([end["spent"], end["total"]], [end["value"]] * 2, **faint)
            axes.plot(own["total"], own["value"], ".", linestyle=look.line, markersize=6, color=tint, zorder=2)
            draw_points(axes, own.tail(1), "total", look_of)
            axes.plot(end["spent"], end["value"], **ALONE, color=tint, zorder=3)
            name = panel.named(family, f"f = {f}", look_of)
            outlined = [*[""] * (len(own) - 1), *hollow(own.tail(1))]  # the end alone has the cell's mark
            labels.append(end_label(own, "total", name, tint))
            numbers.keep(axes, name, own, "total", tint, look.line, look.marker, hollow=outlined)
            numbers.keep(axes, f"{name}, diffusion training alone", own, "spent", tint, ":", "|", group=name)
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("training compute in FLOPs (one multiply-add = 2)")
        return labels

    def finding(standing: Standing, neutral: str) -> str:
        best = [one.row["steps"] for one in standing.best]
        if steps is not None and not all(pd.notna(own) and own == steps for own in best):
            return neutral  # some of the best are not drawn
        return findings.of_cost(standing, neutral, findings.COMPUTE)

    keys = [
        style.key("with the first stage's share", marker="o", color=style.MUTED),
        style.key("diffusion training alone (faint)", **ALONE, color=style.MUTED),
    ]
    has_trials = study.frame["learning_rate_flops"].notna().any()
    trials = ", and the trials by which learning rates were found" if has_trials else ""
    first = f"All points at {steps} sampler steps." if steps else sampled_with(study)
    return quality_figure(
        study,
        "Sample quality against training compute",
        draw_panel,
        stage,
        finding=finding,
        note=f"{first} The share includes encoding the training set once{trials}.".strip(),
        keys=keys,
        ends=stage == "progress",
    )


def _common_steps(study: Study) -> int | None:
    """The largest step count that most candidates have, so that points are compared at equal steps."""
    rows = study.frame[study.frame["stage"] == "evaluation"].dropna(subset=["steps"])
    if rows.empty:
        return None
    candidates = rows.groupby("steps")["first_stage"].nunique()
    return int(candidates[candidates == candidates.max()].index.max())
