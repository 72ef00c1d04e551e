"""The headline metric of the samples against the compression factor, one line a step count."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.floors import LOOKS, floor_by_f, has_place
from analysis.figures.panels import Panel, draw_line, end_label
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric of the samples against the compression factor, one line a step count."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        counts = sorted(int(s) for s in panel.rows["steps"].dropna().unique())
        ends = []
        for family, rows in panel.by_family():
            for position, steps in enumerate(counts):
                line = rows[rows["steps"] == steps].sort_values("f")
                if line.empty:
                    continue
                shade, name = _shade(position, len(counts)), panel.named(family, f"{steps} steps", look_of)
                draw_line(axes, line, "f", name, shade, look_of, look_of[family].line)
                ends.append(end_label(line, "f", name, shade))
            for variant, floor_look in LOOKS.items():
                line = floor_by_f(study, variant, metric, rows)
                line = line[[has_place(axes, value) for value in line["value"]]]
                if not line.empty:
                    name = panel.named(family, floor_look.name, look_of)
                    axes.plot(line["f"], line["value"], zorder=1, **floor_look.stroke())
                    numbers.keep(axes, name, line, "f", style.FLOOR, floor_look.line, is_beside=True)
                    ends.append(end_label(line, "f", name, style.FLOOR))
        style.factor_axis(axes, sorted({int(f) for f in study.frame["f"].dropna()}))
        return ends

    return quality_figure(
        study,
        "Sample quality against compression",
        draw_panel,
        "evaluation",
        finding=findings.of_factors,
        ends=True,
        floors=False,
        overlay=("f", "steps"),
        each="steps",
    )


def _shade(position: int, count: int) -> str:
    """Grey for few steps to black for many."""
    level = 0.62 - 0.56 * (position / (count - 1) if count > 1 else 1.0)
    return f"{level:.3f}"
