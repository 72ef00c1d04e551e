"""What the figures show: the right points at the right places, floors, gaps, and nothing of mixed protocols."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from matplotlib.colors import to_hex
from reading_figures import said
from synthetic_store import (
    JUDGE,
    Recipe,
    build,
    decoded_kernel_distance,
    distortion,
    images_trained,
    kernel_distance,
    network_calls,
    psnr,
    rate,
)

from analysis import looks, numbers, papers, placing, protocols, rates, style
from analysis.answer import answers
from analysis.codecs import codecs
from analysis.collect import read_study
from analysis.compare import mean_over_seeds, one_cell, seed_factor, tables
from analysis.figures import FIGURES, figures_of, panels
from analysis.figures.floors import LOOKS
from analysis.figures.quality_at_budgets import at_budget, three_budgets
from analysis.headline import headline
from analysis.print_tables import files
from ldm.errors import UserError
from ldm.records import DETAIL, GAUSSIAN, GENERATION

FACTORS = (1, 4, 8)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(factors=FACTORS, steps=(5, 10)))
    return read_study(path)


@pytest.fixture(scope="module")
def figures(study):
    return _drawn(study)


def _drawn(study):
    return {name: figure_of(study) for name, figure_of in figures_of(study).items()}


SHAPES = {
    "one cell": Recipe(regularisers=("kl",), factors=(4,), steps=(5,)),
    "many": Recipe(regularisers=("kl", "vq", "fsq", "bsq"), factors=(1, 4), steps=(20,), samplers=("ddim", "heun")),
    "long": Recipe(factors=(2, 4, 16), steps=(10, 200), on_request=True, budget="flops"),
}


@pytest.fixture(scope="module", params=["two", "one cell", "many", pytest.param("long", marks=pytest.mark.slow)])
def drawn(request, tmp_path_factory):
    """All figures of a study of this shape."""
    if request.param == "two":
        return request.getfixturevalue("figures")
    path = tmp_path_factory.mktemp("drawn")
    build(path, SHAPES[request.param])
    study = read_study(path)
    return _drawn(study if request.param != "long" else dataclasses.replace(study, published=papers.ldm()))


def _markers(axes, marker, *, hollow=False):
    """(x, y, colour) of single points drawn with a marker at full size: the filled ones, or with the hollow too."""
    return {
        (round(float(line.get_xdata()[0]), 9), round(float(line.get_ydata()[0]), 9), to_hex(line.get_color()))
        for line in axes.get_lines()
        if line.get_marker() == marker
        and len(line.get_xdata()) == 1
        and line.get_markersize() != style.RING["markersize"]
        and (hollow or to_hex(line.get_markerfacecolor()) != "#ffffff")
    }


@pytest.mark.long
def test_quality_vs_f_draws_each_cell_in_the_colour_of_its_f(figures):
    [axes] = figures["quality_vs_f"].axes
    for regulariser, marker in (("kl", "o"), ("vq", "s")):
        assert _markers(axes, marker, hollow=True) == {
            (float(f), round(kernel_distance(regulariser, f, steps), 9), style.colour(f))
            for f in (4, 8)
            for steps in (5, 10)
        }
    # Pixels belong to both families: a line of each begins there.
    pixels = _markers(axes, "D", hollow=True)
    assert len(pixels) == 2
    begins = [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == list(FACTORS)]
    assert all(begins.count(pytest.approx(y, abs=1e-8)) == 2 for _, y, _ in pixels)


@pytest.mark.long
def test_regularisers_share_a_panel_as_far_as_its_lines_can_be_told_apart(study, monkeypatch):
    assert len(FIGURES["quality_vs_f"].draw(study).axes) == 1
    monkeypatch.setattr(panels, "MOST_LINES", 3)
    kl, vq = FIGURES["quality_vs_f"].draw(study).axes
    assert [axes.get_title(loc="left") for axes in (kl, vq)] == ["KL", "VQ"]
    assert _markers(kl, "D", hollow=True) == _markers(vq, "D", hollow=True)
    assert not _markers(kl, "s", hollow=True)


def test_quality_vs_f_shows_both_floors(figures):
    axes = figures["quality_vs_f"].axes[0]
    levels = [list(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert [0.0008, 0.0008] in levels
    decoded = [0.0008 + 0.0007 * distortion("kl", f) for f in FACTORS]
    assert any(level == pytest.approx(decoded) for level in levels)


def test_rate_distortion_pairs_kl_rates_with_posterior_samples(figures):
    left, right = figures["rate_distortion"].axes
    found = {(x, y) for x, y, _ in _markers(left, "o")}
    assert found == {(round(rate("kl", f), 9), round(1.05 * distortion("kl", f), 9)) for f in (4, 8)}
    assert {(x, y) for x, y, _ in _markers(left, "s")} == {
        (round(rate("vq", f), 9), round(distortion("vq", f), 9)) for f in (4, 8)
    }
    assert {(x, y) for x, y, _ in _markers(right, "o")} == {
        (round(rate("kl", f), 9), round(psnr(1.05 * distortion("kl", f)), 9)) for f in (4, 8)
    }
    assert {(x, y) for x, y, _ in _markers(left, "D")} == {(10.3, 0.0)}
    assert left.get_xscale() == "log"


@pytest.mark.long
def test_regularisers_of_one_rate_are_named_together(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl", "vq", "fsq"), factors=(4,), steps=(5,)))
    study = read_study(tmp_path)
    figure = FIGURES["rate_distortion"].draw(study)
    notes = " ".join(figure.words.notes)
    assert "Rates: KL fitted, VQ/fsq cross-entropy, codecs without headers." in notes
    assert "; VQ, fsq = rate_index_crossentropy (indices under the training histogram), hollow" in notes
    rows = study.frame[study.frame["stage"] == "reconstruction"]
    assert rates.sentence(study.axes, rows).count("rate_index_crossentropy") == 1
    assert {"o", "s", "^"} <= {line.get_marker() for line in figure.axes[0].get_lines()}


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """First stages of two weights and two seeds."""
    path = tmp_path_factory.mktemp("weighted")
    build(path, Recipe(regularisers=("kl",), factors=(1, 4, 8), steps=(5,), kl_weights=WEIGHTS, ae_seeds=(0, 1)))
    return read_study(path)


WEIGHTS = (1e-6, 100)


@pytest.mark.long
def test_rate_distortion_draws_first_stages_of_other_settings_apart(weighted):
    figure = FIGURES["rate_distortion"].draw(weighted)
    axes = figure.axes[0]
    means = {(f, w): (rate("kl", f, w) + rate("kl", f, w, 1)) / 2 for f in (4, 8) for w in WEIGHTS}
    assert {x for x, _, _ in _markers(axes, "o")} == {round(value, 9) for value in means.values()}
    labels = {text.get_text() for text in axes.texts}
    assert {f"f = {f}, ae.kl_weight={w:g}" for f, w in means} < labels
    # A line joins the first stages of one weight.
    lines = [sorted(line.get_xdata()) for line in axes.get_lines() if line.get_color() == style.FAINT]
    lines = [line for line in lines if len(line) > 1]
    assert lines == [pytest.approx([means[8, w], means[4, w]]) for w in sorted(WEIGHTS, key=lambda w: f"{w:g}")]


@pytest.mark.long
def test_rates_over_first_stage_seeds_are_means_with_students_intervals(weighted):
    figure = FIGURES["rate_distortion"].draw(weighted)
    bars = [
        sorted(line.get_xdata())
        for line in figure.axes[0].get_lines()
        if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.1 and line.get_xdata()[0] != line.get_xdata()[1]
    ]
    rows = weighted.frame[weighted.frame["metric"] == "rate_kl_fitted"]
    cells = [one_cell(own) for _, own in rows.groupby(["f", "ae_settings"])]
    means = [mean_over_seeds(cell, seed_factor(cells)) for cell in cells]
    assert [mean.value for mean in means] == pytest.approx(
        [1.05 * rate("kl", f, w) for f in (4, 8) for w in sorted(WEIGHTS, reverse=True)]
    )
    for mean in means:
        assert any(bar == pytest.approx([mean.low, mean.high], rel=1e-6) for bar in bars)
    assert "means over trainings (swept: 2 first-stage seeds)" in said(figure)


@pytest.mark.long
def test_rate_distortion_keeps_lines_apart_as_they_are_drawn(weighted):
    """Under names of their own, switched by the key of their regulariser."""
    found = [one for one in FIGURES["rate_distortion"].draw(weighted).planes[0].series if one.group == "KL"]
    assert len({one.name for one in found}) == len(found) > 1
    assert all(one.name.startswith("KL, ae.kl_weight=") and one.rows["f"].is_unique for one in found)


def test_the_rate_distortion_legend_names_families_and_codecs(figures):
    named = {text.get_text() for legend in figures["rate_distortion"].legends for text in legend.get_texts()}
    assert {"KL", "VQ", "pixels (f = 1)", "JPEG", "WebP"} <= named


@pytest.mark.long
def test_pixels_stand_beside_first_stages_of_every_setting(weighted):
    """And so does their floor; where they differ in more than what first stages have, they have a panel alone."""
    metric = headline(weighted.frame).metric
    pixels = weighted.frame[(weighted.frame["f"] == 1) & (weighted.frame["stage"] == "evaluation")]
    [value] = set(pixels[pixels["metric"] == metric]["value"])
    for axes in FIGURES["quality_vs_f"].draw(weighted).axes:
        line = next(line for line in axes.get_lines() if list(line.get_xdata()) == [1, 4, 8])
        assert line.get_ydata()[0] == value
    flow = weighted.frame.assign(target=weighted.frame["target"].mask(weighted.frame["f"] == 1, "flow"))
    apart = dataclasses.replace(weighted, frame=pd.concat([weighted.frame, flow[flow["f"] == 1]], ignore_index=True))
    titles = [axes.get_title(loc="left") for axes in FIGURES["quality_vs_f"].draw(apart).axes]
    assert titles == ["KL, ae.kl_weight=100", "KL, ae.kl_weight=1e-06", "KL, target flow"]


@pytest.mark.long
def test_the_decoded_floor_of_a_panel_is_that_of_its_own_first_stages(weighted):
    frame = weighted.frame[weighted.frame["metric"].str.startswith("decoded_kd") & (weighted.frame["f"] == 1)]
    [pixels] = set(frame["value"])
    for name in ("quality_vs_f", "quality_vs_compute"):
        panels = FIGURES[name].draw(weighted).axes
        titles = [axes.get_title(loc="left") for axes in panels]
        assert titles == ["KL, ae.kl_weight=100", "KL, ae.kl_weight=1e-06"]
        for axes, weight in zip(panels, (100, 1e-6), strict=True):
            wanted = [pixels] + [
                (decoded_kernel_distance("kl", f, weight) + decoded_kernel_distance("kl", f, weight, 1)) / 2
                for f in (4, 8)
            ]
            if name == "quality_vs_f":
                [line] = [line for line in axes.get_lines() if line.get_color() == style.FLOOR]
                assert list(line.get_ydata()) == pytest.approx(wanted)
            else:
                ticks = [line.get_ydata()[0] for line in axes.get_lines() if line.get_marker() == ">"]
                assert ticks == pytest.approx(wanted)


@pytest.mark.long
def test_the_gaussian_is_drawn_faintly_beside_the_decoded_floor(tmp_path):
    gaussian = {f: (0.1 + f / 100, 0.09) for f in (1, 4, 8)}
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4, 8), steps=(10,), gaussian=gaussian))
    study = read_study(tmp_path)
    wanted = [pooled for pooled, _ in gaussian.values()]
    for name in ("quality_vs_f", "quality_vs_compute", "quality_vs_training"):
        figure = FIGURES[name].draw(study)
        [axes] = figure.axes
        drawn = [line for line in axes.get_lines() if line.get_alpha() == LOOKS[GAUSSIAN].alpha]
        values = [float(value) for line in drawn for value in line.get_ydata() if line.get_zorder() in (1, 5)]
        assert values == pytest.approx(wanted), name
        low, high = axes.get_ylim()
        assert low < min(wanted) < max(wanted) < high, name
        assert "Gaussian, no network" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_over_compute_are_shown_with_and_without_the_first_stage(figures):
    axes = figures["quality_vs_compute"].axes[0]
    seen = (3_000, 6_000, 12_000, 24_000, 48_000)
    share = 2.4e14 + 1e12
    for f in FACTORS:
        lines = [
            line
            for line in axes.get_lines()
            if line.get_color() == style.colour(f)
            and len(line.get_xdata()) == 5
            and line.get_linestyle() == looks.FAMILIES["kl"].line
        ]
        without, with_share = sorted((list(line.get_xdata()) for line in lines), key=lambda xs: xs[0])
        wanted = [1.2e15 / f**1.5 * n / 48_000 for n in seen]
        assert without == pytest.approx(wanted)
        assert with_share == pytest.approx([x + (share if f > 1 else 0) for x in wanted])
        for line in lines:
            assert list(line.get_ydata()) == pytest.approx(
                [kernel_distance("identity" if f == 1 else "kl", f, 10, share=n / 48_000) for n in seen]
            )
    alone = {x for x, _, _ in _markers(axes, "|")}
    assert sorted(alone) == pytest.approx(sorted(1.2e15 / f**1.5 for f in FACTORS))


@pytest.mark.long
def test_compute_of_a_study_without_milestones_is_that_of_its_samples(tmp_path):
    missing = [("progress", "kl", f, steps) for f in (4, 8) for steps in (5, 10)]
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10), missing=missing))
    axes = FIGURES["quality_vs_compute"].draw(read_study(tmp_path)).axes[0]
    # At the largest step count alone.
    share = 2.4e14 + 1e12
    assert {(x, y) for x, y, _ in _markers(axes, "o")} == {
        (round(1.2e15 / f**1.5 + share, 9), round(kernel_distance("kl", f, 10), 9)) for f in (4, 8)
    }


def _at_budgets(study):
    """The lines of the one panel of quality at three budgets, by what they are labelled, and the figure's text."""
    figure = figures_of(study)["quality_at_budgets"](study)
    axes = figure.axes[0]
    ends = {text.get_text(): text.get_color() for text in axes.texts}
    lines = {line.get_color(): line for line in axes.get_lines() if len(line.get_xdata()) > 1}
    return {name: dict(zip(*lines[tint].get_data(), strict=True)) for name, tint in ends.items()}, said(figure)


@pytest.mark.long
def test_quality_at_three_budgets_is_that_of_the_milestones_there(tmp_path):
    factors = (1, 2, 4, 8, 16)
    build(tmp_path, Recipe(regularisers=("kl",), factors=factors, steps=(5,), budget="flops"))
    lines, text = _at_budgets(read_study(tmp_path))
    full = 1.2e15 / 4**1.5
    assert set(lines) == {f"{full / 2**k:.2g} FLOPs" for k in (0, 2, 5)}
    for k in (0, 2, 5):
        for f, value in lines[f"{full / 2**k:.2g} FLOPs"].items():
            share = round(images_trained(Recipe(budget="flops"), f) / 2**k) / 48_000
            regulariser = "identity" if f == 1 else "kl"
            assert value == pytest.approx(kernel_distance(regulariser, f, 10, share=share), rel=1e-6)
    assert "Interpolated" not in text
    # The order of pixel space depends on the budget: what the figure is for.
    small, large = lines[f"{full / 32:.2g} FLOPs"], lines[f"{full:.2g} FLOPs"]
    assert max(small, key=small.get) == max(large, key=large.get) == 1
    assert min(small, key=small.get) != min(large, key=large.get)


@pytest.mark.long
def test_budgets_of_equal_images_count_images(study):
    lines, text = _at_budgets(study)
    assert set(lines) == {f"{name}, {n} images" for name in ("KL", "VQ") for n in ("3,000", "12,000", "48,000")}
    assert "Budgets count images seen" in text


def test_values_between_milestones_are_interpolated_in_the_logarithm_of_the_budget():
    rows = pd.DataFrame({"spent": [1.0, 100.0], "value": [4.0, 2.0], "ci_low": [3.9, 1.9], "ci_high": [4.1, 2.1]})
    row, is_between = at_budget(rows, "spent", 10.0)
    assert is_between
    assert row["value"] == pytest.approx(3.0)
    assert math.isnan(row["ci_low"])
    assert (math.isnan(row["images_seen"]), row["made"]) == (True, "interpolated")
    near, is_between = at_budget(rows, "spent", 95.0)
    assert not is_between
    assert (near["value"], near["ci_low"]) == (2.0, 1.9)
    for beyond in (0.5, 200.0):
        assert at_budget(rows, "spent", beyond) == (None, False)


def test_three_budgets_are_those_that_every_training_reaches():
    assert three_budgets([[1, 2, 4, 8, 16], [4, 8, 16, 32, 64, 128]]) == [4, 8, 16]
    assert three_budgets([[10, 20], [10, 20]]) == [10, 20]
    assert three_budgets([[1, 2], [10, 20]]) == []


def test_throughput_joins_the_step_counts_of_one_f(figures):
    axes = figures["quality_vs_throughput"].axes[0]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 2 and line.get_color() == style.colour(8)]
    joined = [line for line in lines if line.get_linestyle() == "-" and line.get_xdata()[0] != line.get_xdata()[1]]
    assert len(joined) == 1
    assert list(joined[0].get_ydata()) == pytest.approx([kernel_distance("kl", 8, steps) for steps in (5, 10)])
    speeds = joined[0].get_xdata()
    assert speeds[0] > speeds[1]


def test_training_curves_hold_every_milestone(figures):
    axes = figures["quality_vs_training"].axes[0]
    seen = {x for x, _, colour in _markers(axes, "o") if colour == style.colour(4)}
    assert seen == {3_000, 6_000, 12_000, 24_000, 48_000}


@pytest.mark.long
def test_seeds_are_averaged_and_bars_hold_their_variance(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), seeds=(0, 1, 2)))
    axes = FIGURES["quality_vs_f"].draw(read_study(tmp_path)).axes[0]
    value = kernel_distance("kl", 4, 5)
    assert {y for _, y, _ in _markers(axes, "o")} == {round(1.05 * value, 9)}
    [bar] = [line.get_ydata() for line in axes.get_lines() if list(line.get_xdata()) == [4, 4]]
    # 1, 1.05 and 1.1 times the value scatter more than sampling explains, all of which they may have in common.
    scatter, sampling = (0.05 * value) ** 2 / 3, (0.0015 / scipy.stats.norm.ppf(0.975)) ** 2
    half = scipy.stats.t.ppf(0.975, 2 * (1 + sampling / scatter) ** 2) * math.sqrt(scatter + sampling)
    assert list(bar) == pytest.approx([1.05 * value - half, 1.05 * value + half], rel=1e-6)


@pytest.mark.long
def test_other_swept_axes_get_panels_of_their_own(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), guidance=(1.0, 3.0)))
    titles = [axes.get_title(loc="left") for axes in FIGURES["quality_vs_f"].draw(read_study(tmp_path)).axes]
    assert titles == ["KL, guidance scale 1", "KL, guidance scale 3"]


@pytest.mark.long
def test_settings_that_a_sampler_does_not_read_part_no_panels(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), samplers=("ddim", "ddpm", "heun")))
    titles = [axes.get_title(loc="left") for axes in FIGURES["quality_vs_f"].draw(read_study(tmp_path)).axes]
    assert titles == ["KL, sampler ddim", "KL, sampler ddpm", "KL, sampler heun"]


@pytest.mark.long
def test_samplers_are_compared_at_their_network_calls_in_a_panel_for_each_f(tmp_path, study):
    assert "quality_vs_nfe" not in figures_of(study)
    samplers = ("ddim", "ddpm", "heun")
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4, 16), steps=(5, 10), seeds=(0, 1), samplers=samplers))
    compared = read_study(tmp_path)
    figure = figures_of(compared)["quality_vs_nfe"](compared)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["KL, f = 1", "KL, f = 4", "KL, f = 16"]
    for f, axes in zip((1, 4, 16), figure.axes, strict=True):
        assert _markers(axes, "D" if f == 1 else "o", hollow=True) == {
            (network_calls(name, steps), round(1.025 * kernel_distance("kl", f, steps), 9), looks.SAMPLERS[name].colour)
            for name in samplers
            for steps in (5, 10)
        }
        assert {text.get_text() for text in axes.texts} == {"DDIM", "DDPM", "Heun"}


@pytest.mark.long
def test_floors_of_the_frechet_distance_count_only_at_the_same_n(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), n=10_000))
    study = read_study(tmp_path)
    quality, training = (FIGURES[name].draw(study) for name in ("quality_vs_f", "quality_vs_training"))
    assert any(list(line.get_ydata()) == [38.0, 38.0] for line in quality.axes[0].get_lines())
    assert not any(list(line.get_ydata()) == [38.0, 38.0] for line in training.axes[0].get_lines())
    assert "Only floors of the same n are drawn (measured: 10000)" in said(training)


def test_headline_is_the_kernel_distance_where_samples_are_few(tmp_path):
    for n, metric in ((512, f"kd_{JUDGE}"), (10_000, f"fd_{JUDGE}")):
        build(tmp_path / str(n), Recipe(factors=(4,), steps=(5,), n=n))
        chosen = headline(read_study(tmp_path / str(n)).frame)
        assert (chosen.metric, chosen.n) == (metric, n)
    assert headline(read_study(tmp_path / "512").frame, "latents") is None


def test_headline_takes_the_other_distance_where_one_was_left_out(study):
    frame = study.frame[~study.frame["metric"].str.startswith("kd_")]
    assert headline(frame).metric == f"fd_{JUDGE}"


def test_headline_is_that_of_the_cells_own_extractor_whoever_judges_beside(study):
    beside = study.frame[study.frame["metric"].str.endswith(JUDGE)]
    beside = beside.assign(metric=beside["metric"].str.replace(JUDGE, "clip"), network="clip")
    assert headline(pd.concat([beside, beside, study.frame])).metric == headline(study.frame).metric


def test_every_figure_names_n_data_budget_and_protocol(study, figures):
    for name, figure in figures.items():
        text = said(figure)
        protocol = next(p for p in study.protocols if p in text)
        n = 256 if name in ("quality_vs_training", "quality_vs_compute", "quality_at_budgets", "crossings") else 512
        assert f"n = {n}" in text
        assert "emoji 32 px" in text
        assert "equal budget in images" in text
        assert study.protocols[protocol]["n_samples"] == n


@pytest.mark.long
def test_missing_cells_are_said_in_the_figures_they_are_missing_from(tmp_path):
    build(tmp_path, Recipe(factors=FACTORS, steps=(5, 10), missing=[("evaluation", "kl", 8, 10)]))
    study = read_study(tmp_path)
    assert "Missing: KL f=8, 10 steps (not finished)" in said(FIGURES["quality_vs_f"].draw(study))
    assert "Missing" not in said(FIGURES["quality_vs_training"].draw(study))


def test_a_figure_without_data_says_so(tmp_path):
    everything = [(stage, "kl", 4, 5) for stage in ("reconstruction", "progress", "samples")]
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), missing=everything))
    study = read_study(tmp_path)
    for name in ("quality_vs_f", "quality_vs_throughput", "quality_vs_training", "quality_vs_compute"):
        (axes,) = FIGURES[name].draw(study).axes
        assert "no finished" in axes.texts[0].get_text()
        assert not axes.get_lines()
    assert not _markers(FIGURES["rate_distortion"].draw(study).axes[0], "o")


@pytest.mark.long
def test_negative_distances_stay_on_the_axes(tmp_path):
    build(tmp_path, Recipe(factors=FACTORS, steps=(5, 10), kernel_offset=-0.03))
    axes = FIGURES["quality_vs_f"].draw(read_study(tmp_path)).axes[0]
    low, high = axes.get_ylim()
    values = [kernel_distance("kl", f, s) - 0.03 for f in FACTORS for s in (5, 10)]
    assert axes.get_yscale() != "log"
    assert low < min(values) < 0 < max(values) < high


@pytest.mark.long
def test_labels_stand_inside_the_axes_and_none_covers_another(drawn):
    for name, figure in drawn.items():
        for axes in figure.axes:
            frame = axes.get_window_extent()
            boxes = [placing.box_of(text) for text in axes.texts]
            for index, (left, low, right, high) in enumerate(boxes):
                inside = (left - frame.x0, low - frame.y0, frame.x1 - right, frame.y1 - high)
                assert min(inside) >= -1, (name, axes.texts[index].get_text())
                for other in boxes[index + 1 :]:
                    across = min(right, other[2]) - max(left, other[0])
                    assert min(across, min(high, other[3]) - max(low, other[1])) <= 0.5, (name, axes.texts[index])


def test_every_axis_has_two_ticks_or_more(drawn):
    for name, figure in drawn.items():
        for axes in figure.axes:
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
                is_factors = axes.get_xlabel().startswith("compression factor") and axis is axes.xaxis
                assert len(ticks) >= (1 if is_factors else 2), name


def test_footnotes_have_two_lines_and_the_captions_all(drawn):
    captions = numbers.captions({name: figure.words for name, figure in drawn.items()})
    for name, figure in drawn.items():
        [footer] = [text.get_text() for text in figure.texts if text.get_position()[1] < 0.05] or [""]
        assert len(footer.splitlines()) <= style.FOOTNOTES, name
        footer = " ".join(footer.split())
        assert footer.endswith(style.ELSEWHERE) or footer == " ".join(figure.words.notes), name
        assert all(note in captions for note in figure.words.notes), name
        assert all(f"{fact}." in captions for fact in figure.words.facts), name


def test_letters_can_be_read_at_the_width_of_a_column(drawn):
    for name, figure in drawn.items():
        if len({axes.get_position().x0 for axes in figure.axes}) == 1:
            texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
            smallest = min(text.get_fontsize() for text in texts if text.get_text())
            assert smallest * 3.3 / figure.get_size_inches()[0] >= 4.7, name


def test_footnotes_are_as_many_as_have_room_and_a_long_one_is_cut():
    assert style.footnotes(["One.", "Two."], 5) == ["One.", "Two."]
    long = "word " * 80
    assert style.footnotes([long, "Short."], 5) == [f"Short. {style.ELSEWHERE}"]
    cut = style.footnotes([long], 5)
    assert len(cut) == style.FOOTNOTES
    assert cut[-1].endswith(f"... {style.ELSEWHERE}")


def test_end_labels_are_a_line_apart(figures):
    [axes] = figures["quality_vs_training"].axes
    lows = sorted(placing.box_of(text)[1] for text in axes.texts)
    assert len(lows) == 2 * len(FACTORS) - 1
    assert min(b - a for a, b in pairwise(lows)) > 8


def test_milestones_have_ticks(figures):
    [axes] = figures["quality_vs_training"].axes
    assert list(axes.get_xticks()) == [3_000, 6_000, 12_000, 24_000, 48_000]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_in_order_within_bounds(seed):
    random = np.random.default_rng(seed)
    for count in (1, 2, 5, 30):
        wanted, gap = sorted(random.uniform(0, 100, count)), float(random.uniform(0.5, 12))
        found = placing.spread(wanted, gap, 0.0, 100.0)
        apart = min(gap, 100 / count)
        assert all(b - a >= apart - 1e-6 for a, b in pairwise(found))
        assert apart / 2 - 1e-6 <= min(found) <= max(found) <= 100 - apart / 2 + 1e-6
    assert placing.spread([10.0, 50.0], 5.0, 0.0, 100.0) == [10.0, 50.0]


def _of_distances(study):
    """The protocols of distances, without those of task scores."""
    rows = study.frame.query("stage == 'evaluation'")
    return set(rows[~rows["metric"].str.contains("class_accuracy")]["protocol"])


def test_mixed_protocols_are_refused_with_the_fields_that_differ(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=FACTORS, steps=(5,), odd_protocol=[("kl", 8)]))
    study = read_study(tmp_path)
    with pytest.raises(UserError, match=r"reference_hash \(.*other-images.*\)") as caught:
        protocols.check(study)
    assert sum(protocol in str(caught.value) for protocol in study.protocols) == 2
    protocols.check(study, allow_mixed=True)


def test_details_of_which_no_end_is_better_may_each_be_measured_in_a_way_of_its_own(tmp_path):
    """The check of a sampler by twice its steps has a protocol for every number of steps that a sweep is over."""
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5, 10)))
    study = read_study(tmp_path)
    one = study.frame[study.frame["stage"] == "evaluation"].iloc[[0]]
    named = {"stage": "sampler_check", "metric": "sampler_check_kd", "group": DETAIL}
    for direction, found in (("", []), (False, ["5 against 10", "10 against 20"])):
        checks = [one.assign(**named, higher_is_better=direction, protocol=f"{n} against {2 * n}") for n in (5, 10)]
        frame = pd.concat([study.frame, *checks], ignore_index=True)
        assert sorted(protocols.mixed(frame)) == sorted(found)


@pytest.mark.long
def test_mixed_protocols_are_marked_where_allowed(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=FACTORS, steps=(5,), odd_protocol=[("kl", 8)]))
    study = read_study(tmp_path)
    figure = FIGURES["quality_vs_f"].draw(study)
    ids = sorted(_of_distances(study))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"KL, protocol {name}" for name in ids]
    assert "MIXED PROTOCOLS" in said(figure)
    assert "MIXED PROTOCOLS" in said(FIGURES["rate_distortion"].draw(study))
    # A floor is a mean over the rows that it was measured in, and these are not alike.
    assert "Floors are not drawn: they follow several protocols" in said(figure)
    assert not any(line.get_linestyle() == "--" for axes in figure.axes for line in axes.get_lines())


@pytest.mark.long
@pytest.mark.parametrize("name", ["rate_distortion", "progressive_coding"])
def test_curves_of_two_data_sets_are_two_curves_with_names(tmp_path, name):
    for data, n in (("emoji", 512), ("imagenet", 256)):
        recipe = Recipe(regularisers=("kl",), factors=(4,), steps=(5,), data=data, n=n, name=data, on_request=True)
        build(tmp_path, recipe)
    study = read_study(tmp_path, "all")
    assert {point.images for point in codecs(study)} == {"emoji 32 px", "imagenet 32 px"}
    axes = figures_of(study)[name](study).axes[0]
    curves = [line for line in axes.get_lines() if line.get_color() == looks.CODECS["jpeg"].colour]
    assert [len(line.get_xdata()) for line in curves] == [7, 7]
    labels = [text.get_text() for text in axes.texts]
    assert {"JPEG A", "JPEG B"} < set(labels)
    assert "A = emoji 32 px, n = 512; B = imagenet 32 px, n = 256" in said(axes.figure)
    assert sum("data=imagenet" in label for label in labels) == 1


def test_colours_are_ordered_in_lightness_and_fixed():
    def lightness(code):
        linear = [(int(code[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    levels = [lightness(style.colour(f)) for f in (1, 2, 4, 8, 16, 32)]
    assert levels == sorted(levels)
    assert all(b / a > 1.25 for a, b in pairwise(levels))


@pytest.mark.parametrize(
    ("values", "lows", "scale"),
    [
        ([0.01, 0.2], [0.009, 0.19], "log"),
        ([0.1, 0.2], [0.09, 0.19], "linear"),
        ([0.01, 0.2], [-0.001, 0.19], "linear"),
        ([-0.001, 0.002, 0.001, 0.5], [-0.002, 0.49], "symlog"),
        ([math.nan], [], "linear"),
    ],
)
def test_value_scale(values, lows, scale):
    _, ((axes,),) = style.new_figure(1, 1, 3, 3)
    axes.plot(range(len(values)), values)
    style.value_scale(axes, values, lows)
    assert axes.get_yscale() == scale


@pytest.mark.long
def test_figures_and_means_give_one_interval(weighted):
    """Whatever panel a cell stands in: the scatter of trainings is pooled over all cells of its protocol."""
    metric = headline(weighted.frame).metric
    [table] = [t for t in tables(weighted.frame, weighted.axes) if t.metric == metric]
    means = {(round(mean.value, 9), round(mean.low, 9), round(mean.high, 9)) for mean in table.means}
    shown = set()
    for axes in FIGURES["quality_vs_f"].draw(weighted).axes:
        bars = [line for line in axes.get_lines() if line.get_linewidth() == 1.1 and len(set(line.get_xdata())) == 1]
        points = dict(
            zip(*next(line for line in axes.get_lines() if len(line.get_xdata()) == 3).get_data(), strict=True)
        )
        shown |= {(round(points[b.get_xdata()[0]], 9), *(round(float(y), 9) for y in b.get_ydata())) for b in bars}
    assert shown == means


def test_marks_go_on_behind_z():
    rows = [{"stage": "s", "metric": f"m{i // 2}", "protocol": f"p{i:03}"} for i in range(60)]
    frame = pd.DataFrame(rows).assign(group=GENERATION, higher_is_better=False)
    marks = list(protocols.letters(frame).values())
    assert marks[:2] + marks[24:28] + marks[51:54] == ["a", "b", "y", "z", "aa", "ab", "az", "ba", "bb"]


@pytest.mark.long
def test_autoencoders_have_a_line_each_and_a_panel_a_measure(study):
    """Given ones stand side by side; what is drawn of each is what was measured of it."""
    assert not FIGURES["autoencoders"].is_of(study)
    compressed = study.frame[study.frame["f"].fillna(0) != 1]
    names = compressed["regulariser"] + compressed["f"].map("-f{}".format)
    named = compressed.assign(ae_weights=names.where(compressed["first_stage"] != "", ""))
    given = dataclasses.replace(study, frame=named)
    assert FIGURES["autoencoders"].is_of(given)
    panels = FIGURES["autoencoders"].draw(given).axes
    lines = [label.get_text() for label in panels[0].get_yticklabels()]
    assert sorted(line.splitlines()[0] for line in lines) == ["kl-f4", "kl-f8", "vq-f4", "vq-f8"]
    assert [panel.get_xlabel().splitlines()[0] for panel in panels[:2]] == ["PSNR, dB", "rate, bits per pixel"]
    for regulariser, marker in (("kl", "o"), ("vq", "s")):
        place = {f: float(lines.index(line)) for f in (4, 8) for line in lines if f"{regulariser}-f{f}\n" in line}
        for panel, value in (
            (panels[0], lambda f, kind=regulariser: psnr(distortion(kind, f))),
            (panels[1], lambda f, kind=regulariser: rate(kind, f)),
            (panels[-1], lambda f, kind=regulariser: kernel_distance(kind, f, 10)),
        ):
            found = {(x, y) for x, y, _ in _markers(panel, marker, hollow=True)}
            assert found == {(round(value(f), 9), place[f]) for f in (4, 8)}


@pytest.mark.long
def test_floors_below_zero_have_no_place_on_a_logarithmic_axis(tmp_path):
    """Kernel distances are unbiased, so those of equal distributions may be negative."""
    build(tmp_path, Recipe(factors=(1, 4, 8, 16, 32), steps=(5, 20, 50), kernel_offset=-0.002))
    study = read_study(tmp_path)
    for name in ("quality_vs_f", "quality_vs_throughput"):
        figure = figures_of(study)[name](study)
        assert figure.axes[0].get_yscale() == "log"
        heights = [y for line in figure.axes[0].lines for y in line.get_ydata() if np.ndim(y) == 0]
        assert min(heights) > 0
        assert "Floors that are not above 0 have no place on a logarithmic axis." in figure.words.notes


def test_an_axis_of_almost_equal_costs_has_ticks_that_differ():
    _, ((axes,),) = style.new_figure(1, 1, 3, 3)
    axes.set_xscale("log")
    axes.plot([3.905e14, 3.915e14], [1, 2])
    style.sparse_log_ticks(axes, "x")
    ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    told = [axes.xaxis.get_major_formatter()(tick) for tick in ticks]
    assert len(set(told)) == len(told) >= 2


@pytest.mark.long
def test_the_front_says_what_it_leaves_out_of_several_protocols(tmp_path):
    build(tmp_path, Recipe(factors=(4, 8), odd_protocol=(("kl", 8),)))
    study = read_study(tmp_path)
    figure = figures_of(study)["front"](study)
    shown, other = (answer.protocol for answer in answers(study))
    assert any("measured by another protocol are not drawn" in note for note in figure.words.notes)
    assert any(shown in fact for fact in figure.words.facts)
    assert not any(other in fact for fact in figure.words.facts)
    assert f"protocol {shown}; 1 more in table.md" in files(study)["cells.md"]
