"""First stages over the widths of their posteriors: lines through the trained points, and a table of all points."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from reading_figures import said
from synthetic_store import Recipe, build, curve_point, distortion, psnr, rate

from analysis import style
from analysis.collect import read_study
from analysis.figures import FIGURES
from analysis.plot_tradeoffs import draw
from analysis.rate_curves import rate_curves

DRAWN = (0.5, 1, 2, 4)
"""At width 64 the error is more than twice that of the finest."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(factors=(1, 4, 8), steps=(5,), on_request=True))
    return path


@pytest.fixture(scope="module")
def figure(store):
    return FIGURES["rate_distortion"].draw(read_study(store))


def lines(axes, f, style_of_line):
    found = [line for line in axes.get_lines() if to_hex(line.get_color()) == style.colour(f)]
    return [line for line in found if line.get_linestyle() == style_of_line and len(line.get_xdata()) == len(DRAWN)]


@pytest.mark.parametrize(("panel", "error"), [(0, "rmse255"), (1, "psnr")])
@pytest.mark.parametrize(("of", "line"), [("", "-"), ("coded_", "None")])
def test_each_kl_first_stage_is_a_line_in_its_colour_with_coded_sizes_as_dots(figure, panel, error, of, line):
    for f in (4, 8):
        [drawn] = lines(figure.axes[panel], f, line)
        points = [curve_point(width, rate("kl", f), distortion("kl", f)) for width in DRAWN]
        assert list(drawn.get_xdata()) == pytest.approx([point[f"{of}bits_per_pixel"] for point in points])
        assert list(drawn.get_ydata()) == pytest.approx([point[f"{of}{error}"] for point in points])


def test_the_line_passes_through_the_trained_point(figure):
    [line] = lines(figure.axes[1], 4, "-")
    trained = (rate("kl", 4), psnr(1.05 * distortion("kl", 4)))
    assert tuple(line.get_xydata()[1]) == pytest.approx(trained)
    markers = [found.get_xydata()[0] for found in figure.axes[1].get_lines() if found.get_marker() == "o"]
    assert any(tuple(marker) == pytest.approx(trained) for marker in markers)


def test_a_note_says_what_was_swept_and_of_how_many_images(figure):
    assert "Lines through KL points" in said(figure)
    assert "n = 100" in said(figure)


def test_only_first_stages_with_posteriors_have_a_curve(store):
    curves = rate_curves(read_study(store))
    assert [(curve.label, curve.f, len(curve.points)) for curve in curves] == [("KL f=4", 4, 5), ("KL f=8", 8, 5)]


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_every_point_stands_in_a_table(store, tmp_path):
    written = draw(store, tmp_path, None, allow_mixed=False)
    assert tmp_path / "rate_curves.csv" in written
    rows = pd.read_csv(tmp_path / "rate_curves.csv")
    assert list(rows["f"]) == [4] * 5 + [8] * 5
    assert list(rows["width"]) == [0.5, 1, 2, 4, 64] * 2
    assert {"regulariser", "identity", "bits_per_pixel", "psnr", "coded_bits_per_pixel", "n"} <= set(rows.columns)


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_a_study_without_curves_has_neither_lines_nor_table(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,)))
    written = draw(tmp_path, tmp_path / "out", None, allow_mixed=False)
    assert "rate_curves.csv" not in [path.name for path in written]
    assert not rate_curves(read_study(tmp_path))
