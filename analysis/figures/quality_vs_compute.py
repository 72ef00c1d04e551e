"""The headline metric against training FLOPs, with (marks) and without (ticks) the first stage's share."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, style
from analysis.collect import Study
from analysis.figures.panels import Panel, draw_points, label_of_f
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.placing import PointLabel

ALONE: Mapping[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": ""}
"""The mark of diffusion training without its first stage's share."""


def draw(study: Study) -> Figure:
    """The headline metric against training FLOPs, with (marks) and without (ticks) the first stage's share."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    steps = _common_steps(study)

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        rows = panel.rows[(panel.rows["steps"] == steps) & (panel.rows["diffusion_flops"] > 0)].sort_values("f")
        rows = rows.assign(
            total=rows["diffusion_flops"] + rows["first_stage_flops"].fillna(0) + rows["latents_flops"].fillna(0)
        )
        for point in rows.to_dict("records"):
            tint = style.colour(point["f"])
            ends = [point["diffusion_flops"], point["total"]]
            axes.plot(ends, [point["value"]] * 2, color=tint, linewidth=1.0, alpha=0.6, zorder=1)
            axes.plot(ends[0], point["value"], **ALONE, color=tint, zorder=3)
        draw_points(axes, rows, "total", look_of)
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("training compute in FLOPs (one multiply-add = 2)")
        return [label_of_f(row, "total") for _, row in rows.iterrows()]

    keys = [
        style.key("with the first stage's share", marker="o", color=style.MUTED),
        style.key("diffusion training alone", **ALONE, color=style.MUTED),
    ]
    note = f"All points at {steps} sampler steps; the share includes encoding the training set once." if steps else ""
    return quality_figure(
        study,
        "Sample quality against training compute",
        draw_panel,
        "evaluation",
        note=note,
        keys=keys,
    )


def _common_steps(study: Study) -> int | None:
    """The largest step count that most candidates have, so that points are compared at equal steps."""
    rows = study.frame[study.frame["stage"] == "evaluation"].dropna(subset=["steps"])
    if rows.empty:
        return None
    candidates = rows.groupby("steps")["first_stage"].nunique()
    return int(candidates[candidates == candidates.max()].index.max())
