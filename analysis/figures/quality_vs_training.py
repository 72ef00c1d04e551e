"""The headline metric of one short sampler over the images seen in diffusion training."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.panels import Panel, draw_line, end_label
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.milestones import sampled_with
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric of one short sampler over the images seen in diffusion training."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        ends = []
        for family, f, own in panel.lines_of("f"):
            line, name = own.sort_values("images_seen"), panel.named(family, f"f = {f}", look_of)
            draw_line(axes, line, "images_seen", name, style.colour(f), look_of)
            ends.append(end_label(line, "images_seen", name, style.colour(f)))
        axes.set_xscale("log")
        style.milestone_ticks(axes, panel.rows["images_seen"].dropna())
        axes.set_xlabel("images seen in diffusion training")
        return ends

    return quality_figure(
        study,
        "Sample quality over training",
        draw_panel,
        "progress",
        finding=findings.of_factors,
        note=sampled_with(study),
        ends=True,
        overlay=("images_seen", "f"),
    )
