"""The headline metric against network calls an image, one line a sampler, one panel a compression factor."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures.panels import Panel, draw_mark
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
        for name, own in panel.rows.groupby("line", sort=False):
            line, look = own.sort_values("nfe"), look_of[panel.family]
            tint = samplers[line["sampler"].iloc[0]].colour
            axes.plot(line["nfe"], line["value"], color=tint, linestyle=look.line, zorder=2)
            for point in line.to_dict("records"):
                style.interval(axes, point["nfe"], point["value"], point["ci_low"], point["ci_high"], tint)
                draw_mark(axes, point, "nfe", look.marker, tint, look.size - 1.5)
            numbers.keep(axes, str(name), line, "nfe", tint, look.line, look.marker)
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["nfe"]), float(last["value"]), str(name), tint))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("network calls an image (NFE)")
        return ends

    return quality_figure(
        study,
        "Sample quality against network calls",
        draw_panel,
        "evaluation",
        note="Guidance costs a second call.",
        ends=True,
        lines=("sampler", *dict.fromkeys(own)),
    )


def has_data(study: Study) -> bool:
    """Whether several samplers were swept."""
    return study.frame["sampler"].replace("", None).nunique() > 1
