"""The headline metric against network calls an image, one line a sampler, one panel a compression factor."""

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.panels import Panel, draw_points, end_label, hollow
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric against network calls an image, one line a sampler, one panel a compression factor."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    samplers = looks.samplers(study.frame["sampler"], study.axes.titles("sampler"))
    own = (axis for name in samplers for axis in study.axes.own("sampler", name))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        ends = []
        for family, sampler, own in panel.lines_of("line"):
            line, look = own.sort_values("nfe"), look_of[family]
            tint, name = samplers[line["sampler"].iloc[0]].colour, panel.named(family, str(sampler), look_of)
            axes.plot(line["nfe"], line["value"], color=tint, linestyle=look.line, zorder=2)
            draw_points(axes, line, "nfe", look_of, [look.size - 1.5] * len(line), tint)
            numbers.keep(axes, name, line, "nfe", tint, look.line, look.marker, hollow=hollow(line))
            ends.append(end_label(line, "nfe", name, tint))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("network calls an image (NFE)")
        return ends

    return quality_figure(
        study,
        "Sample quality against network calls",
        draw_panel,
        "evaluation",
        finding=partial(findings.of_cost, cost=findings.CALLS),
        note="Guidance costs a second call.",
        ends=True,
        lines=("sampler", *dict.fromkeys(own)),
        each="line",
    )


def has_data(study: Study) -> bool:
    """Whether several samplers were swept."""
    return study.frame["sampler"].replace("", None).nunique() > 1
