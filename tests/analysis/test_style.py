"""Axes and their words: numbers that are written beside each other, and no longer than there is room."""

import itertools

import matplotlib.pyplot as plt
import pytest

from analysis import style


@pytest.fixture
def axes():
    style.apply()
    figure, axes = plt.subplots(figsize=(style.COLUMN, 3))
    yield axes
    plt.close(figure)


@pytest.mark.parametrize("limits", [(2.45e10, 2.76e10), (9e9, 4e10), (1, 1000), (60, 280), (3, 4)])
def test_numbers_of_a_log_axis_stand_beside_each_other(axes, limits):
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    style.sparse_log_ticks(axes, "x")
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    inside = [box for box in boxes if axes.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1]
    assert len(inside) >= 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(inside))


OF_CELLS = [
    [2048, 3968, 8064, 16128, 32128, 64256],
    [576, 1152, 2240, 4480, 9024, 18048],
    [2304, 4608, 9088, 18176, 36352, 72576],
    [8704, 17408, 34816, 69632, 139776, 279552],
    [30720, 61440, 120832, 241664, 483328, 966656],
]
"""Milestones in images, as cells of f = 1 to 32 have them at equal FLOPs."""


@pytest.mark.parametrize("cells", [OF_CELLS[:1], OF_CELLS[:2], OF_CELLS, [[384, 12160], *OF_CELLS]])
def test_numbers_of_milestones_stand_beside_each_other(axes, cells):
    places = [place for cell in cells for place in cell]
    axes.set_xscale("log")
    axes.set_xlim(min(places), 3 * max(places))  # lines have their labels at the right
    style.milestone_ticks(axes, places)
    axes.figure.draw_without_rendering()
    told = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in told]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    assert len(told) >= 4
    assert told[-1].get_position()[0] == max(places)
    assert {label.get_position()[0] for label in told} <= set(places)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (576, "576"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (241_664, "242k"),
        (999_600, "1M"),
        (1_250_000, "1.25M"),
        (2e9, "2G"),
    ],
)
def test_counts_of_images_are_short(count, text):
    assert style.short_count(count) == text


def test_the_label_of_a_y_axis_is_no_longer_than_a_panel_is_high(axes):
    label = "kernel distance, EfficientNet-Lite2 and colours\n(lower is better)"
    axes.set_ylabel(style.upright(label))
    axes.figure.draw_without_rendering()
    assert axes.yaxis.label.get_window_extent().height < axes.figure.bbox.height
    assert style.upright(label).split() == label.split()
    assert style.upright("error\n(lower is better)") == "error\n(lower is better)"
