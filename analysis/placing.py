"""Where the labels of points and lines stand, so that they cover nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation

from analysis.style import INK


@dataclass(frozen=True)
class PointLabel:
    """A text that belongs to a point in data coordinates."""

    x: float
    y: float
    text: str
    colour: str = INK


def place_labels(axes: Axes, labels: Sequence[PointLabel], size: float = 8.6) -> None:
    """Writes each label beside its point where it covers least: other labels, points, lines, the edge."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    obstacles = _obstacles(axes, spacing=4 * scale)
    taken: list[tuple[float, float, float, float]] = []
    for label in labels:
        best: tuple[float, tuple[float, float], tuple[float, float, float, float]] | None = None
        for reach in (7.0, 11.0, 17.0):
            for side in ((1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)):
                offset = (side[0] * reach, side[1] * reach)
                trial = _beside(axes, label, offset, size)
                box = trial.get_window_extent(renderer)
                trial.remove()
                edges = (box.x0 - scale, box.y0 - scale, box.x1 + scale, box.y1 + scale)
                cost = reach / 100 + sum(20 * _overlap(edges, other) for other in taken)
                cost += sum(weight * _inside(edges, point, margin * scale) for point, weight, margin in obstacles)
                cost += 3 * (edges[0] < frame.x0 or edges[1] < frame.y0) + (edges[2] > frame.x1 + 30 * scale)
                cost += 3 * (edges[3] > frame.y1 + 4 * scale)
                cost += 100 * (edges[0] < figure.bbox.x0 or edges[2] > figure.bbox.x1)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, offset, edges)
        if best is not None:
            _beside(axes, label, best[1], size)
            taken.append(best[2])


def _obstacles(axes: Axes, spacing: float) -> list[tuple[tuple[float, float], float, float]]:
    """What labels should not cover, in display coordinates, each with weight and margin in points."""
    found = []
    for line in axes.get_lines():
        if line.get_transform() != axes.transData:
            continue
        corners = [(float(x), float(y)) for x, y in axes.transData.transform(np.asarray(line.get_xydata()))]
        if line.get_marker() not in {"", "None", None}:
            found += [(corner, 1.0, 3.5) for corner in corners]
        if line.get_linestyle() != "None":
            for (x0, y0), (x1, y1) in pairwise(corners):
                parts = max(1, int(math.hypot(x1 - x0, y1 - y0) / spacing))
                found += [
                    ((x0 + (x1 - x0) * k / parts, y0 + (y1 - y0) * k / parts), 0.12, 0.5) for k in range(parts + 1)
                ]
    return found


def _beside(axes: Axes, label: PointLabel, offset: tuple[float, float], size: float) -> Annotation:
    dx, dy = offset
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=offset,
        textcoords="offset points",
        ha="left" if dx > 0 else "right" if dx < 0 else "center",
        va="bottom" if dy > 0 else "top" if dy < 0 else "center",
        fontsize=size,
        color=label.colour,
        annotation_clip=False,
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The shared area of two boxes as a fraction of the first."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return 0.0 if wide <= 0 or high <= 0 else wide * high / ((a[2] - a[0]) * (a[3] - a[1]))


def _inside(box: tuple[float, ...], point: tuple[float, ...], margin: float) -> bool:
    """Whether a point lies in a box widened by `margin`."""
    return box[0] - margin < point[0] < box[2] + margin and box[1] - margin < point[1] < box[3] + margin


def label_margin(labels: Sequence[PointLabel], least: float = 1.2) -> float:
    """Inches that `end_labels` needs at the right of a panel, `least` at least."""
    return max(least, 0.35 + 0.068 * max((len(label.text) for label in labels), default=0))


def end_labels(axes: Axes, labels: Sequence[PointLabel], size: float = 8.6) -> None:
    """Writes labels of lines in the right margin, spread so that none covers another, with leaders to the lines."""
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    gap = size * 1.25 * figure.dpi / 72
    ends = sorted(
        ((float(axes.transData.transform((item.x, item.y))[1]), item) for item in labels), key=lambda item: item[0]
    )
    heights = [at for at, _ in ends]
    # Pushing up and then down from the mean keeps groups centred on their lines.
    for _ in range(200):
        for i in range(1, len(heights)):
            excess = gap - (heights[i] - heights[i - 1])
            if excess > 0:
                heights[i] += excess / 2
                heights[i - 1] -= excess / 2
    frame = axes.get_window_extent()
    # Below a panel there is room, above it stands its title.
    ceiling = frame.y1
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for (_, label), height in zip(ends, heights, strict=True):
        y = (height - frame.y0) / frame.height
        note = axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(1.03, y),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=size,
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
        note.set_in_layout(False)
