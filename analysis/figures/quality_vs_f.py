"""The headline metric of the samples against the compression factor, one line a step count."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures.floors import LOOKS, floor_by_f
from analysis.figures.panels import Panel, draw_line
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric of the samples against the compression factor, one line a step count."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        counts = sorted(int(s) for s in panel.rows["steps"].dropna().unique())
        look = look_of[panel.family]
        ends = []
        for position, steps in enumerate(counts):
            line = panel.rows[panel.rows["steps"] == steps].sort_values("f")
            shade = _shade(position, len(counts))
            draw_line(axes, line, "f", f"{steps} steps", shade, look_of, look.line)
            last = line.iloc[-1]
            ends.append(PointLabel(float(last["f"]), float(last["value"]), f"{steps} steps", shade))
        for variant, floor_look in LOOKS.items():
            line = floor_by_f(study, variant, metric, panel)
            if not line.empty:
                axes.plot(line["f"], line["value"], zorder=1, **floor_look.stroke())
                numbers.keep(axes, floor_look.name, line, "f", style.FLOOR, floor_look.line, is_beside=True)
                end = line.iloc[-1]
                ends.append(PointLabel(float(end["f"]), float(end["value"]), floor_look.name, style.FLOOR))
        style.factor_axis(axes, sorted({int(f) for f in study.frame["f"].dropna()}))
        return ends

    return quality_figure(
        study,
        "Sample quality against compression",
        draw_panel,
        "evaluation",
        ends=True,
        floors=False,
        overlay=("f", "steps"),
    )


def _shade(position: int, count: int) -> str:
    """Grey for few steps to black for many."""
    level = 0.62 - 0.56 * (position / (count - 1) if count > 1 else 1.0)
    return f"{level:.3f}"
