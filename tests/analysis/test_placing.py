"""Labels beside points: what they stand nearest to, what they leave free, and where one says it for several."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from analysis.placing import LEADER, PointLabel, box_of, place_labels

Point = tuple[float, float]


@pytest.fixture
def axes() -> Iterator[Axes]:
    """A panel of 4 by 3 inches from 0 to 1."""
    figure, axes = pyplot.subplots(figsize=(4, 3))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    yield axes
    pyplot.close(figure)


def placed(axes: Axes, points: Sequence[Point], texts: Sequence[str], size: float = 6) -> list[Annotation]:
    for x, y in points:
        axes.plot(x, y, "o", markersize=size)
    place_labels(axes, [PointLabel(x, y, text) for (x, y), text in zip(points, texts, strict=False)])
    return [text for text in axes.texts if isinstance(text, Annotation)]


def gap(axes: Axes, note: Annotation, point: Point) -> float:
    """From the box of a label to a point, in points."""
    left, low, right, high = box_of(note)
    x, y = axes.transData.transform(point)
    figure = axes.get_figure(root=True)
    assert figure is not None
    apart = np.hypot(max(left - x, 0, x - right), max(low - y, 0, y - high))
    return float(apart) * 72 / figure.dpi


def test_a_label_stands_nearer_to_its_own_mark_than_to_another(axes: Axes) -> None:
    # To the right of the second mark is no room, and to its left the other one.
    points = [(0.75, 0.5), (0.92, 0.5)]
    first, second = placed(axes, points, ["KL f = 16", "KL f = 32"])
    assert gap(axes, first, points[0]) < gap(axes, first, points[1])
    is_led = max(abs(part) for part in second.xyann) > LEADER
    assert is_led or gap(axes, second, points[1]) < gap(axes, second, points[0])


@pytest.mark.parametrize("size", [6, 24])
def test_a_label_keeps_clear_of_a_wide_mark(axes: Axes, size: float) -> None:
    (note,) = placed(axes, [(0.5, 0.5)], ["name"], size)
    assert gap(axes, note, (0.5, 0.5)) >= size / 2


def test_one_label_says_it_for_marks_at_one_place(axes: Axes) -> None:
    points = [(0.5, 0.5), (0.505, 0.5), (0.505, 0.505), (0.8, 0.2)]
    notes = placed(axes, points, ["f = 4", "f = 4", "f = 8", "f = 4"])
    assert sorted(note.get_text() for note in notes) == ["f = 4", "f = 4", "f = 8"]
