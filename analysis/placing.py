"""Where the labels of points and lines stand, so that they cover nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from analysis.style import INK

SIZE = 8.6
"""Of the letters of labels, in points."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointLabel:
    """A text that belongs to a point in data coordinates."""

    x: float
    y: float
    text: str
    colour: str = INK


SIDES = ((1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8))
REACHES = (7.0, 11.0, 17.0, 26.0, 36.0, 50.0)
LEADER = 20.0
"""Points from which on a label has a line to its point."""

MARK, PART_OF_LINE = 1.0, 0.12
"""Weights of what a label covers."""

MARGIN = 3.5
"""Points around a mark that belong to it, where its size does not make it more."""

TOGETHER = 12.0
"""Points within which marks are at one place."""

MISTAKEN = 0.5
"""Weight of a place that is nearer to another mark."""

Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge in display coordinates."""


def place_labels(axes: Axes, labels: Sequence[PointLabel], size: float = SIZE, most_covered: float = math.inf) -> None:
    """Writes each label beside its point where it covers least of points and lines, the first ones first.

    All stand inside the axes and none over another text: one that finds no such place is not written, nor one that
    would cover `most_covered` marks there, of which a line is less than one. A place nearer to another mark than to
    its own is avoided, unless a line leads to its own. No such line crosses a label. One label says for several points
    at one place what is the same of them.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    frame, scale = axes.get_window_extent(), figure.dpi / 72
    points, weights, margins = _obstacles(axes, spacing=4 * scale)
    marks = points[weights == MARK]
    taken = [box_of(text) for text in axes.texts]
    written = dict[str, list[Array]]()
    for label in labels:
        wide, high = _size(axes, label.text, size)
        at = axes.transData.transform((label.x, label.y))
        if any(np.hypot(*(at - other)) < TOGETHER * scale for other in written.get(label.text, ())):
            continue
        found: list[tuple[float, tuple[float, float], Box]] = []
        for reach in REACHES:
            for side in SIDES:
                offset = (side[0] * reach, side[1] * reach)
                left = at[0] + offset[0] * scale - _before(side[0]) * wide
                low = at[1] + offset[1] * scale - _before(side[1]) * high
                box = (left - scale, low - scale, left + wide + scale, low + high + scale)
                is_inside = frame.x0 <= box[0] and frame.y0 <= box[1] and box[2] <= frame.x1 and box[3] <= frame.y1
                if not is_inside or any(_overlap(box, other) for other in taken):
                    continue
                if reach > LEADER and any(_crosses(box, at, other) for other in taken):
                    continue
                covered = float(weights[_inside(box, points, margins * scale)].sum())
                if covered < most_covered:
                    is_told = reach > LEADER or not _is_nearer_to_another(box, at, marks, scale)
                    found.append((reach / 100 + covered + (0 if is_told else MISTAKEN), offset, box))
        if found:
            _, offset, box = min(found, key=lambda one: one[0])
            _beside(axes, label, offset, size)
            taken.append(box)
            written.setdefault(label.text, []).append(at)


def _before(side: float) -> float:
    """The share of a label that stands before its anchor: none to the right of a point or above it, all beyond."""
    return 0.0 if side > 0 else 1.0 if side < 0 else 0.5


def _size(axes: Axes, text: str, size: float) -> tuple[float, float]:
    """Width and height of a text in display coordinates."""
    trial = axes.text(0, 0, text, fontsize=size)
    left, low, right, high = box_of(trial)
    trial.remove()
    return right - left, high - low


def box_of(text: Text) -> Box:
    """Where a text stands, without its leader."""
    if isinstance(text, Annotation):
        text.update_positions(FigureCanvasAgg(text.get_figure(root=True)).get_renderer())
    left, low, right, high = Text.get_window_extent(text).extents
    return float(left), float(low), float(right), float(high)


def _obstacles(axes: Axes, spacing: float) -> tuple[Array, Array, Array]:
    """What labels should not cover: places in display coordinates (n, 2), their weights, and margins in points."""
    found: list[tuple[float, float, float, float]] = []
    for line in axes.get_lines():
        if line.get_transform() != axes.transData:
            continue
        corners = [(float(x), float(y)) for x, y in axes.transData.transform(np.asarray(line.get_xydata()))]
        if line.get_marker() not in {"", "None", None}:
            margin = max(MARGIN, (line.get_markersize() + line.get_markeredgewidth()) / 2)
            found += [(*corner, MARK, margin) for corner in corners]
        if line.get_linestyle() != "None":
            for (x0, y0), (x1, y1) in pairwise(corners):
                if not math.isfinite(x0 + x1 + y0 + y1):
                    continue
                parts = max(1, int(math.hypot(x1 - x0, y1 - y0) / spacing))
                steps = [k / parts for k in range(parts + 1)]
                found += [(x0 + (x1 - x0) * k, y0 + (y1 - y0) * k, PART_OF_LINE, 0.5) for k in steps]
    told = np.array(found).reshape(-1, 4)
    return told[:, :2], told[:, 2], told[:, 3]


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
        arrowprops=_leader(label.colour) if max(map(abs, offset)) > LEADER else None,
    )
    text.set_in_layout(False)
    return text


def _leader(colour: str) -> dict[str, Any]:
    """The look of a thin line from a label to what it belongs to."""
    look = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3}
    return look | {"relpos": (0.5, 0.5)}


def _overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share anything."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _inside(box: Box, points: Array, margins: Array) -> NDArray[np.bool_]:
    """Which points lie in a box widened by their margins."""
    x, y = points.T
    within = (box[0] - margins < x) & (x < box[2] + margins)
    return within & (box[1] - margins < y) & (y < box[3] + margins)


def _is_nearer_to_another(box: Box, own: Array, marks: Array, scale: float) -> bool:
    """Whether some mark that does not cover a label's own lies closer to its box."""
    others = marks[np.hypot(*(marks - own).T) > MARGIN * scale]
    return bool((_distance(box, others) < _distance(box, own[None])).any())


def _crosses(box: Box, own: Array, other: Box) -> bool:
    """Whether the line from the middle of a label to its point runs through another's box."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    along = own + np.linspace(0, 1, STOPS)[:, None] * (middle - own)
    return bool(_inside(other, along, np.zeros(STOPS)).any())


STOPS = 40
"""Places along a line at which it is looked at."""


def _distance(box: Box, points: Array) -> Array:
    """From a box to each point (n, 2); 0 inside."""
    low, high = np.array(box[:2]), np.array(box[2:])
    return np.hypot(*np.maximum(0, np.maximum(low - points, points - high)).T)


LINE = 1.25
"""Height of a line of text, in sizes of its font."""

GAP = 14.0
"""Points from the end of the data to labels of lines, and so the length of their leaders."""


def height_for(panels: Sequence[Sequence[PointLabel]], size: float = SIZE) -> float:
    """Inches that a panel must be high for the labels of its lines to stand above one another inside it."""
    return (max(map(len, panels), default=0) + 1) * LINE * size / 72


SHORT = 1.4
"""Inches that labels of lines take of a panel before it is made wider."""


def width_for(panels: Sequence[Sequence[PointLabel]]) -> float:
    """Inches by which panels must be wider for the labels of their lines, at about 0.062 inch a letter."""
    return max(0.0, 0.062 * max((len(label.text) for labels in panels for label in labels), default=0) - SHORT)


def end_labels(panels: Sequence[tuple[Axes, Sequence[PointLabel]]], size: float = SIZE) -> None:
    """Writes labels of lines at the right edge of each panel, inside its axes, with leaders to the lines.

    None covers another. The x axes are lengthened by what the labels need, without ticks there.
    """
    labelled = [(axes, labels) for axes, labels in panels if labels]
    if not labelled:
        return
    figure = labelled[0][0].get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    frame = labelled[0][0].get_window_extent()
    wide = max(_size(axes, label.text, size)[0] for axes, labels in labelled for label in labels)
    room = min((wide + GAP * scale) / frame.width, MOST_ROOM)
    done: list[Axes] = []
    for axes, _ in labelled:
        if not any(axes.get_shared_x_axes().joined(axes, other) for other in done):
            _lengthen(axes, room)
        done.append(axes)
    for axes, labels in labelled:
        frame = axes.get_window_extent()
        ends = sorted(((_height(axes, item), item) for item in labels), key=lambda item: item[0])
        heights = spread([at for at, _ in ends], LINE * size * scale, frame.y0, frame.y1)
        for (_, label), height in zip(ends, heights, strict=True):
            at = (1 - wide / frame.width, (height - frame.y0) / frame.height)
            note = axes.annotate(
                label.text,
                xy=(label.x, label.y),
                xytext=at,
                textcoords="axes fraction",
                ha="left",
                va="center",
                fontsize=size,
                color=label.colour,
                annotation_clip=False,
                zorder=6,
                arrowprops=_leader(label.colour) | {"relpos": (0.0, 0.5)},
            )
            note.set_in_layout(False)


def one_each(labels: Sequence[PointLabel]) -> list[PointLabel]:
    """The first label of each text: lines that differ in their seeds alone share one."""
    return list({label.text: label for label in reversed(labels)}.values())[::-1]


MOST_ROOM = 0.6
"""Share of a panel that labels may take."""


def _height(axes: Axes, label: PointLabel) -> float:
    return float(axes.transData.transform((label.x, label.y))[1])


def _lengthen(axes: Axes, room: float) -> None:
    """Makes the x axis end later, so that what it has shown takes all but the share `room`; ticks stay as they are."""
    low, high = axes.get_xlim()
    shown = [
        (locator_of, [float(tick) for tick in ticks if low <= tick <= high])
        for locator_of, ticks in (
            (axes.xaxis.set_major_locator, axes.xaxis.get_majorticklocs()),
            (axes.xaxis.set_minor_locator, axes.xaxis.get_minorticklocs()),
        )
    ]
    scale = axes.xaxis.get_transform()
    start, end = scale.transform([low, high])
    axes.set_xlim(low, float(scale.inverted().transform([start + (end - start) / (1 - room)])[0]))
    for set_locator, ticks in shown:
        set_locator(FixedLocator(ticks))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near to the wanted ones, which ascend, as they can be `gap` apart between `low` and `high`.

    Where there is no room for that they stand closer.
    """
    gap = min(gap, (high - low) / max(1, len(wanted)))
    heights = list(wanted)
    # Pushing neighbours apart by equal parts keeps groups centred on their lines.
    for _ in range(200):
        for i in range(1, len(heights)):
            excess = gap - (heights[i] - heights[i - 1])
            if excess > 0:
                heights[i] += excess / 2
                heights[i - 1] -= excess / 2
    ceiling = high - gap / 2
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    floor = low + gap / 2
    for i in range(len(heights)):
        heights[i] = max(heights[i], floor)
        floor = heights[i] + gap
    return heights
