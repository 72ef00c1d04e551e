"""At which noise levels models err: the error of v on held-out images over the log-SNR, one line a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import looks, numbers, placing, style
from analysis.axes import REPEATED
from analysis.collect import Finished, Study
from analysis.labels import CellLabels
from analysis.looks import Family
from analysis.placing import PointLabel


@dataclass(frozen=True)
class LevelCurve:
    """The error of one model in each bin of log-SNR at its last milestone; `centres` of the bins, n held-out images."""

    label: str
    f: int
    regulariser: str
    centres: tuple[float, ...]
    errors: tuple[float, ...]
    n: int


def level_curves(study: Study) -> list[LevelCurve]:
    """The curves of the models whose error was measured, named by what these differ in but their seeds."""
    found = [one for one in study.finished if "level_error" in one.record.facts]
    labels = CellLabels([one.cell for one in found], study.axes, study.stages, without=REPEATED)
    return [_curve(one, labels.label(one.cell, one.record.stage)) for one in found]


def _curve(one: Finished, label: str) -> LevelCurve:
    told = one.record.facts["level_error"]
    return LevelCurve(
        label,
        int(one.cell.axes["f"]),
        str(one.cell.axes["regulariser"]),
        tuple((low + high) / 2 for low, high in told["log_snr"]),
        tuple(told["errors"][-1]),
        one.record.rows[0].n,
    )


def draw(study: Study) -> Figure:
    """The squared error of v over the log-SNR; 1 is that of a Gaussian with the latents' variance in every number."""
    figure, [[axes]] = style.new_figure(1, 1, style.COLUMN + 0.8, 4.2)
    drawn, look_of = level_curves(study), looks.families(study.frame["regulariser"], study.axes.titles("regulariser"))
    ends = [
        _draw(axes, curve, look_of[curve.regulariser], mark) for curve, mark in zip(drawn, marks(drawn), strict=True)
    ]
    axes.axhline(1, color=style.MUTED, linewidth=0.8, zorder=1)
    axes.set_yscale("log")  # of eps, little that is wrong at the noisy end is much of x0
    style.value_ticks(axes)
    axes.set_xlabel("log-SNR (little noise to the right)")
    axes.set_ylabel("squared error of v (lower is better)")
    counts = " or ".join(f"{count:,}" for count in sorted({curve.n for curve in drawn}))
    notes = [
        "Latents of different first stages are different data: compare lines of one first stage.",
        "Each model at its last milestone, without guidance. Line at 1: a model that knows nothing but the variance of "
        "latents.",
    ]
    subtitle = [f"n = {counts} held-out images; sweep {study.sweep}"]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + placing.width_for([ends]), max(height, placing.height_for([placing.one_each(ends)])))
    style.finish(figure, "Error of the denoiser at each noise level", subtitle, notes, [])
    placing.end_labels([(axes, placing.one_each(ends))])
    return figure


MARKS = "o^sDvP"
"""Of lines of one f and regulariser, which have one colour and style: each model's own, as far as they go."""


def marks(curves: Sequence[LevelCurve]) -> list[str]:
    """The mark of each curve; models that differ in their seeds alone have the same."""
    models = dict[tuple[int, str], dict[str, None]]()
    for curve in curves:
        models.setdefault((curve.f, curve.regulariser), {})[curve.label] = None
    return [MARKS[list(models[one.f, one.regulariser]).index(one.label) % len(MARKS)] for one in curves]


def _draw(axes: Axes, curve: LevelCurve, look: Family, mark: str) -> PointLabel:
    tint = style.colour(curve.f)
    axes.plot(curve.centres, curve.errors, color=tint, linestyle=look.line, marker=mark, markersize=3.5, zorder=2)
    rows = pd.DataFrame({"x": curve.centres, "value": curve.errors, "n": curve.n})
    numbers.keep(axes, curve.label, rows.assign(f=curve.f, regulariser=curve.regulariser), "x", tint, look.line, mark)
    return PointLabel(curve.centres[-1], curve.errors[-1], curve.label, tint)


def has_data(study: Study) -> bool:
    """Whether the error at noise levels was measured."""
    return bool(level_curves(study))
