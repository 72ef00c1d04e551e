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


def test_the_label_of_a_y_axis_is_no_longer_than_a_panel_is_high(axes):
    label = "kernel distance, EfficientNet-Lite2 and colours\n(lower is better)"
    axes.set_ylabel(style.upright(label))
    axes.figure.draw_without_rendering()
    assert axes.yaxis.label.get_window_extent().height < axes.figure.bbox.height
    assert style.upright(label).split() == label.split()
    assert style.upright("error\n(lower is better)") == "error\n(lower is better)"
