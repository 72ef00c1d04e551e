"""The figure of progressive coding: the curves of the records, codecs in the same unit, the published points."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from reading_figures import said
from synthetic_store import Recipe, build, distortion

from analysis import looks, papers, style
from analysis.codecs import codecs
from analysis.collect import read_study
from analysis.figures import figures_of
from analysis.figures.progressive_coding import coding_curves


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5, 10), on_request=True))
    return read_study(path)


@pytest.fixture(scope="module")
def axes(study):
    study = replace(study, published=papers.ldm())  # what --overlay does
    [axes] = figures_of(study)["progressive_coding"](study).axes
    return axes


def lines(axes, colour):
    return [line for line in axes.get_lines() if to_hex(line.get_color()) == colour]


def coded(study, change, f=None):
    """The study with changed records of the curves, of one f where it is given."""
    finished = (
        replace(one, record=change(one.record))
        if "progressive" in one.record.facts and f in (None, one.cell.axes["f"])
        else one
        for one in study.finished
    )
    return replace(study, finished=tuple(finished))


def test_a_model_is_read_once_however_many_cells_sample_from_it(study):
    assert [(curve.label, curve.f, curve.n) for curve in coding_curves(study)] == [
        ("pixels f=1", 1, 100),
        ("KL f=4", 4, 100),
    ]


@pytest.mark.long
def test_each_model_is_a_line_from_where_something_has_arrived(axes):
    [pixels], [latents] = (lines(axes, style.colour(f)) for f in (1, 4))
    assert list(pixels.get_xdata()) == [0.0003, 0.01, 0.1, 0.5, 1.8]
    assert list(latents.get_xdata()) == [0.0003, 0.01, 0.1, 0.5, 0.9]
    assert latents.get_ydata()[-1] == pytest.approx(60 * 2.718281828**-0.9 + distortion("kl", 4))


def test_the_error_has_a_band_and_the_figure_its_protocol(study, axes):
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    ends = [curve.bounds[-1] for curve in coding_curves(study)]
    assert [band.y0 for band in bands] == pytest.approx([low for low, _ in ends])
    [protocol] = set(study.frame[study.frame["stage"] == "likelihood"]["protocol"])
    words = said(axes.figure)
    assert f"n = 100 held-out images; protocol {protocol}" in words
    assert "Bands: 95 % intervals" in words


@pytest.mark.long
def test_curves_of_several_protocols_are_marked(study):
    [_, second] = coding_curves(study)
    other = {**study.protocols[second.protocol], "n_samples": 50}
    mixed = replace(
        coded(study, lambda record: replace(record, rows=[replace(row, protocol="other") for row in record.rows]), f=4),
        protocols={**study.protocols, "other": other},
        frame=study.frame.assign(protocol=study.frame["protocol"].mask(study.frame["f"] == 4, "other")),
    )
    figure = figures_of(mixed)["progressive_coding"](mixed)
    assert "MIXED PROTOCOLS" in said(figure)
    assert "n_samples (" in said(figure)


@pytest.mark.long
def test_curves_from_before_bounds_were_kept_have_no_band(study):
    bounds = ("rmse255_low", "rmse255_high")
    old = coded(
        study,
        lambda record: replace(
            record,
            facts={"progressive": {k: v for k, v in record.facts["progressive"].items() if k not in bounds}},
        ),
    )
    [axes] = figures_of(old)["progressive_coding"](old).axes
    assert not axes.collections


def test_codecs_stand_there_in_bits_a_dimension(study, axes):
    [jpeg] = lines(axes, looks.CODECS["jpeg"].colour)
    rates = sorted(point.bits_per_pixel for point in codecs(study) if point.codec == "jpeg")
    assert list(jpeg.get_xdata()) == pytest.approx([rate / 3 for rate in rates])


@pytest.mark.long
def test_the_published_curve_is_ddpms_and_drawn_where_asked_for(study, axes):
    [plain] = figures_of(study)["progressive_coding"](study).axes
    assert not [line for line in plain.get_lines() if line.get_marker() == "x"]
    [published] = [line for line in axes.get_lines() if line.get_marker() == "x"]
    points = dict(zip(published.get_xdata(), published.get_ydata(), strict=True))
    assert points[1.77581] == 0.95136  # Ho et al. 2020, Table 4: all 1000 levels received
    assert points[0.00716] == 38.03236
    assert len(points) == 9  # after the first hundred levels nothing has arrived


def test_without_coding_there_is_no_such_figure(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,)))
    assert "progressive_coding" not in figures_of(read_study(tmp_path))
