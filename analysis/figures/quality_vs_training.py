"""The headline metric of one short sampler over the images seen in diffusion training."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, style
from analysis.collect import Study
from analysis.figures.panels import Panel, draw_line
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.milestones import sampled_with
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric of one short sampler over the images seen in diffusion training."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        ends = []
        for f, own in panel.rows.groupby("f"):
            line = own.sort_values("images_seen")
            draw_line(axes, line, "images_seen", f"f = {f}", style.colour(f), look_of)
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["images_seen"]), float(last["value"]), f"f = {f}", style.colour(f)))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("images seen in diffusion training")
        return ends

    return quality_figure(
        study,
        "Sample quality over training",
        draw_panel,
        "progress",
        note=sampled_with(study),
        ends=True,
        overlay=("images_seen", "f"),
    )
