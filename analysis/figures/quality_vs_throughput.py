"""The headline metric against images a second of the sampler, one line a compression factor."""

from dataclasses import replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, speeds, style
from analysis.collect import Study
from analysis.figures import findings
from analysis.figures.notes import listed
from analysis.figures.panels import Panel, draw_line, end_label
from analysis.figures.quality import quality_figure
from analysis.headline import Headline
from analysis.placing import PointLabel


def draw(study: Study) -> Figure:
    """The headline metric against images a second of the sampler, one line a compression factor."""
    look_of = looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))

    def draw_panel(axes: Axes, panel: Panel, metric: Headline) -> list[PointLabel]:
        labels = []
        timed = panel.rows[panel.rows["sample_images_per_second"] > 0]
        counts = sorted(int(s) for s in timed["steps"].dropna().unique())
        for family, f, own in replace(panel, rows=timed).lines_of("f"):
            line, name = own.sort_values("steps"), panel.named(family, f"f = {f}", look_of)
            sizes = [4.0 + 5.0 * counts.index(int(s)) / max(1, len(counts) - 1) for s in line["steps"]]
            drawn = sizes if len(counts) > 1 else None
            draw_line(axes, line, "sample_images_per_second", name, style.colour(f), look_of, sizes=drawn)
            labels.append(end_label(line, "sample_images_per_second", name, style.colour(f)))
        axes.set_xscale("log")
        style.sparse_log_ticks(axes, "x")
        axes.set_xlabel("sampling throughput in images per second")
        return labels

    judged, speeds_note, study = study, speeds.note(study), speeds.timed(study)
    counts = sorted(int(s) for s in study.frame["steps"].dropna().unique())
    note = f"Marker size grows with the step count: {', '.join(map(str, counts))}." if len(counts) > 1 else ""
    return quality_figure(
        study,
        "Sample quality against sampling speed",
        draw_panel,
        "evaluation",
        finding=partial(findings.of_cost, cost=findings.SPEED),
        note=f"{note or f'Steps: {listed(counts)}.'} {speeds_note}",
        overlay=("sample_images_per_second", "f"),
        apart=(speeds.MACHINE,),
        judged=judged,
    )
