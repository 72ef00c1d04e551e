import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from synthetic_store import Recipe, build, decoded_kernel_distance, kernel_distance

from analysis.axes import axes_of
from analysis.collect import read_study
from analysis.compare import (
    FIRST_STAGE_UNKNOWN,
    UNKNOWN,
    Measured,
    SeedFactor,
    Training,
    against_best,
    compare,
    comparisons_frame,
    mean_over_seeds,
    means_frame,
    one_cell,
    seed_factor,
    tables,
)
from analysis.older_stores import STAGES
from analysis.table import markdown
from ldm.errors import UserError

METRIC = "kd_efficientnet_lite2"
TWO_CELLS = {"factors": (4,), "steps": (10,)}
"""KL and VQ at f = 4: 0.0207 and 0.0238, each with an interval of 0.0015 to either side."""


def cell(name, values, variance=0.01, deviations=None):
    """A cell with one training a value; `deviations`: what blocks of images do to each."""
    told = deviations or [None] * len(values)
    trained = [Training(value, variance, one) for value, one in zip(values, told, strict=True)]
    return Measured(name, {str(seed): one for seed, one in enumerate(trained)}, tuple(values), 500)


def verdicts(store, sweep=None):
    study = read_study(store, sweep)
    [found] = [table for table in tables(study.frame, study.axes) if table.metric == METRIC]
    return {item.cell: item.sentence for item in found.comparisons}, markdown(study)


@pytest.mark.long
def test_one_seed_says_what_it_does_not_know(tmp_path):
    build(tmp_path, Recipe(**TWO_CELLS))
    found, page = verdicts(tmp_path)
    assert found == {"VQ f = 4, 3 channels, 10 steps": "worse, training variance unknown, provisional order"}
    assert "| worse, training variance unknown, provisional order |" in page
    assert "best mean" in page
    assert "how far another training would move them is not known" in page


ONCE = ", first-stage training variance unknown, provisional order"


@pytest.mark.long
@pytest.mark.parametrize(("scatter", "verdict"), [(0.0, "worse"), (0.0001, "worse"), (0.006, "not distinguishable")])
def test_seeds_that_scatter_more_than_the_gap_take_a_verdict_back(tmp_path, scatter, verdict):
    """The gap is 0.003 and three times its sampling error, whatever the seeds do."""
    build(tmp_path, Recipe(**TWO_CELLS, seeds=(0, 1, 2), scatter=scatter))
    found, page = verdicts(tmp_path)
    assert found == {"VQ f = 4, 3 channels, 10 steps": verdict + ONCE}
    assert UNKNOWN not in page.split("Which cells are better")[1].split("##")[0].replace(ONCE, "")


@pytest.mark.long
@pytest.mark.parametrize(("scatter", "verdict"), [(0.0002, "worse"), (0.004, "not distinguishable")])
def test_two_sweeps_of_the_same_cells_with_different_seeds_are_one_comparison(tmp_path, scatter, verdict):
    for seed in (0, 1):
        name = f"2026-01-0{seed + 1}_sweep"
        build(tmp_path, Recipe(**TWO_CELLS, seeds=(seed,), scatter=scatter, name=name, created=name))
    alone, _ = verdicts(tmp_path, "2026-01-01_sweep")
    together, page = verdicts(tmp_path, "all")
    assert all(sentence.endswith(", training variance unknown, provisional order") for sentence in alone.values())
    [sentence] = together.values()
    assert sentence == verdict + ONCE
    assert "(2 trainings)" in page


def test_first_stages_matter_only_where_they_differ_and_were_trained_once():
    """The identity and given weights are trained no second time."""
    a, b = cell("a", [1.0, 1.1]), cell("b", [2.0, 2.1])
    for mine, others, unknown in (
        (("kl 4", 1), ("kl 8", 1), True),
        (("kl 4", 1), ("kl 4", 1), False),
        (("kl 4", 2), ("kl 8", 1), True),
        (("kl 4", 2), ("kl 8", 2), False),
        (("", 1), ("", 1), False),
        (("", 1), ("kl 8", 1), True),
    ):
        pair = [replace(one, first_stage=name, ae_seeds=n) for one, (name, n) in ((a, mine), (b, others))]
        [found] = against_best(pair)
        assert found.unknown == (FIRST_STAGE_UNKNOWN if unknown else ""), (mine, others)


def test_a_lucky_seed_does_not_make_the_best_cell():
    """The mean counts: the cell with the lowest single value is worse."""
    found = against_best([cell("steady", [10.0, 10.1, 9.9]), cell("lucky", [9.0, 13.0, 14.0])])
    assert [(item.cell, item.other) for item in found] == [("lucky", "steady")]


def test_one_pair_with_known_errors_is_a_z_test():
    [item] = compare([cell("a", [10.5])], cell("b", [10.0]), SeedFactor(0.0, 0, 2))
    expected = 2 * scipy.stats.norm.sf(0.5 / math.sqrt(0.02))
    assert item.p == pytest.approx(expected, rel=1e-12)
    assert (item.low, item.high) == pytest.approx((0.5 - 1.959964 * math.sqrt(0.02), 0.5 + 1.959964 * math.sqrt(0.02)))


def test_without_intervals_shared_seeds_make_a_paired_t_test():
    a, b = [10.1, 11.3, 9.7, 10.4], [9.6, 10.9, 9.5, 9.7]
    [item] = compare([cell("a", a, math.nan)], cell("b", b, math.nan), SeedFactor(0.0, 0, 2))
    assert item.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    [single] = compare([cell("a", a[:1], math.nan)], cell("b", b[:1], math.nan), SeedFactor(0.0, 0, 2))
    assert (single.verdict, single.p) == (None, None)
    assert single.sentence.startswith("no verdict")


def drawn_rows(rng, name, seeds, sampler_seeds, trained, sampled):
    """Rows of one cell in truth 5: trainings scatter by `trained`, samples of one by `sampled`, as intervals say."""
    rows = []
    for seed in range(seeds):
        luck = rng.normal(scale=trained)
        for sampler_seed in range(sampler_seeds):
            value = 5 + luck + rng.normal(scale=sampled)
            half = 1.959964 * sampled
            row = {"value": value, "ci_low": value - half, "ci_high": value + half, "seed": seed, "ae_seed": 0}
            rows.append({**row, "sampler_seed": sampler_seed, "deviations": None, "alone": None, "n": 500})
    axes = dict.fromkeys(axes_of(STAGES).settings, "") | {
        "regulariser": "kl",
        "f": 4,
        "shift": name,
        "estimand": "population",
    }
    return pd.DataFrame([{**axes, "estimand": "population", **row} for row in rows])


@pytest.mark.long
@pytest.mark.parametrize(
    ("seeds", "sampler_seeds"),
    [(2, 1), pytest.param(2, 3, marks=pytest.mark.slow), pytest.param(2, 5, marks=pytest.mark.slow), (3, 3)],
)
def test_samples_of_one_training_are_no_repetitions_of_it(seeds, sampler_seeds):
    """Taken as such, 30 to 40 % of cells that are alike would be told apart, and means cover half as often."""
    rng, wrong, covered, runs = np.random.default_rng(6), 0, 0, 200
    for _ in range(runs):
        cells = [one_cell(drawn_rows(rng, name, seeds, sampler_seeds, 0.3, 0.1), name) for name in "ab"]
        [found] = against_best(cells)
        wrong += found.verdict != "not distinguishable"
        mean = mean_over_seeds(cells[0], seed_factor(cells))
        covered += mean.low <= 5 <= mean.high
    assert wrong / runs <= 0.08
    assert covered / runs >= 0.92
    assert mean.training_seeds == seeds
    assert mean.repetitions == seeds * sampler_seeds


def test_first_stages_that_were_trained_anew_are_the_repetitions():
    rng = np.random.default_rng(7)
    rows = pd.concat([drawn_rows(rng, "a", 3, 2, 0.1, 0.1).assign(ae_seed=seed) for seed in (0, 1)])
    found = one_cell(rows)
    expected = rows.groupby("ae_seed")["value"].mean()
    assert [one.value for one in found.trainings.values()] == pytest.approx(list(expected))
    assert (found.ae_seeds, len(found.values)) == (2, 12)


def test_trainings_of_other_seeds_are_compared_by_their_means():
    """One shared seed of three says little: the difference is that of the printed means."""
    a, b = cell("a", [10.0, 9.0, 9.1]), cell("b", [11.0, 9.5, 9.6])
    b = replace(b, trainings=dict(zip("034", b.trainings.values(), strict=True)))
    [found] = compare([a], b, seed_factor([a, b]))
    assert found.difference == pytest.approx(a.mean - b.mean)


def drawn_cells(rng, gap, seeds, trained, common, alone, blocks=20):
    """Two cells, in truth 5 and 5 + gap: trainings scatter by `trained`; blocks of images move all alike by `common`,
    and each training by `alone` besides, as the rows tell."""
    shared = rng.normal(scale=common / math.sqrt(blocks), size=(2, blocks))
    cells = []
    for name, truth in (("a", 5.0), ("b", 5.0 + gap)):
        own = [shared + rng.normal(scale=alone / math.sqrt(2 * blocks), size=shared.shape) for _ in range(seeds)]
        values = [truth + rng.normal(scale=trained) + moved.sum() for moved in own]
        told = [tuple(map(tuple, moved)) for moved in own]
        trainings = [Training(v, float(np.square(d).sum()), d) for v, d in zip(values, told, strict=True)]
        cells.append(Measured(name, {str(seed): one for seed, one in enumerate(trainings)}, tuple(values), 500))
    return cells


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("trained", [0.0, 0.2])
def test_what_all_owe_to_the_same_images_drops_out_of_differences_and_stays_in_means(seeds, trained):
    """The error of a mean is 0.7 or more; taken for the two cells' own, no gap of 0.5 could be seen."""
    rng, runs = np.random.default_rng(8), 200
    scatter = trained if seeds > 1 else 0.0  # with one training nothing can tell how others would differ
    covered = wrong = seen = 0
    for _ in range(runs):
        alike = drawn_cells(rng, 0.0, seeds, scatter, 0.5, 0.1)
        wrong += against_best(alike)[0].verdict != "not distinguishable"
        mean = mean_over_seeds(alike[0], seed_factor(alike))
        covered += mean.low <= 5 <= mean.high
        seen += against_best(drawn_cells(rng, 0.5, seeds, 0.0, 0.5, 0.1))[0].verdict == "worse"
    assert wrong / runs <= 0.09
    assert 0.9 <= covered / runs <= 1
    assert seen / runs >= (0.5 if seeds == 2 else 0.8)  # two trainings a cell leave two degrees of freedom


def test_cells_without_common_trainings_still_share_their_images():
    rng, wide = np.random.default_rng(10), []
    for _ in range(50):
        a, b = drawn_cells(rng, 0.5, 3, 0.0, 0.5, 0.1)
        b = replace(b, trainings=dict(zip("345", b.trainings.values(), strict=True)))
        [found] = against_best([a, b])
        wide.append(found.high - found.low)
    assert np.median(wide) < 0.8  # 2.8 without


def test_a_cell_that_scatters_unlike_the_others_counts_by_itself():
    """Pooled with seven steady cells its own three trainings would be told apart in one case of three."""
    rng, wrong = np.random.default_rng(9), 0
    for _ in range(300):
        drawn = [cell(str(index), list(rng.normal(scale=0.1 if index else 1.0, size=3))) for index in range(8)]
        [found] = compare(drawn[:1], drawn[1], seed_factor(drawn))
        wrong += found.verdict != "not distinguishable"
    assert wrong / 300 <= 0.12


def test_equal_shares_without_an_interval_give_no_verdict():
    """Two seeds whose differences happen to be the same are no proof."""
    pair = [cell("a", [0.4, 0.45], math.nan), cell("b", [0.35, 0.4], math.nan)]
    [found] = against_best(pair, higher_is_better=True)
    assert (found.p, found.verdict) == (None, None)
    assert found.sentence == "no verdict: nothing tells how far the values may be off"


def test_the_seed_factor_is_pooled_over_cells():
    rng = np.random.default_rng(0)
    cells = [cell(str(index), list(rng.normal(scale=0.3, size=3)), variance=0.01) for index in range(200)]
    found = seed_factor(cells)
    assert found.freedom == 400
    assert found.factor == pytest.approx(9, rel=0.2)
    assert seed_factor([cell("a", [1.0, 1.0, 1.0])]).factor == 0
    assert seed_factor([cell("a", [1.0]), cell("b", [2.0])]).freedom == 0


def test_holm_counts_the_pairs_that_the_best_was_chosen_from():
    """Of five cells alike in truth the extremes differ by far more than two that were named beforehand."""
    plain = [cell(str(index), [value]) for index, value in enumerate([10.0, 10.2, 10.25, 10.3, 10.35])]
    chosen = against_best(plain)
    named = compare(plain[1:], plain[0], SeedFactor(0.0, 0, 2))
    assert {item.pairs for item in chosen} == {10}
    assert {item.pairs for item in named} == {4}
    raw = [2 * scipy.stats.norm.sf(d / math.sqrt(0.02)) for d in (0.35, 0.3, 0.25, 0.2)]
    expected = np.maximum.accumulate([min(1, (4 - rank) * p) for rank, p in enumerate(raw)])
    assert [item.p for item in reversed(named)] == pytest.approx(list(expected), rel=1e-9)


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("cells", [2, 6])
def test_cells_that_are_alike_are_seldom_told_apart(cells, seeds):
    """Seeds scatter three times as far as sampling; with one seed only sampling varies, for more it cannot know."""
    rng, wrong = np.random.default_rng(1), 0
    scale = 0.1 if seeds == 1 else 0.3
    for _ in range(400):
        drawn = [cell(str(index), list(rng.normal(scale=scale, size=seeds))) for index in range(cells)]
        wrong += any(item.verdict != "not distinguishable" for item in against_best(drawn))
    assert wrong / 400 <= 0.08


def test_a_gap_of_many_errors_is_seen_among_many_cells():
    rng = np.random.default_rng(2)
    drawn = [cell(str(index), list(10 + (index > 0) * 2 + rng.normal(scale=0.2, size=2))) for index in range(20)]
    # One in five sweeps may have a cell that seems to scatter more than the others.
    assert sum(item.verdict == "worse" for item in against_best(drawn)) >= 18
    higher = against_best(drawn, higher_is_better=True)
    assert next(item for item in higher if item.cell == "0").verdict == "worse"


def test_means_over_seeds_have_intervals_that_cover():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(300):
        drawn = [cell(str(index), list(5 + rng.normal(scale=0.25, size=3))) for index in range(4)]
        mean = mean_over_seeds(drawn[0], seed_factor(drawn))
        covered += mean.low <= 5 <= mean.high
    assert 0.92 <= covered / 300 <= 1
    assert mean.estimand.startswith("mean over training seeds")


def test_frames_hold_every_cell(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5, 10), seeds=(0, 1)))
    study = read_study(tmp_path)
    found = tables(study.frame, study.axes)
    means, compared = means_frame(found), comparisons_frame(found)
    own = means[means["metric"] == METRIC]
    assert len(own) == 4
    assert set(own["training_seeds"]) == {2}
    assert (compared["metric"] == METRIC).sum() == 3
    assert {"difference", "ci_low", "ci_high", "p", "verdict", "pairs"} <= set(compared.columns)
    # Higher is better for precision: the other cells' differences from the best are below 0.
    assert (compared[compared["metric"] == "precision_efficientnet_lite2"]["difference"] <= 0).all()


@pytest.mark.long
def test_cells_may_be_compared_with_one_that_was_named_beforehand(tmp_path):
    build(tmp_path, Recipe(factors=(4, 16), steps=(10,), seeds=(0, 1, 2), scatter=0.0003))
    study = read_study(tmp_path)
    [found] = [table for table in tables(study.frame, study.axes, "VQ f = 4") if table.metric == METRIC]
    verdict = {item.cell.partition(",")[0]: item.verdict for item in found.comparisons}
    assert verdict == {"KL f = 4": "better", "KL f = 16": "worse", "VQ f = 16": "worse"}
    assert {item.pairs for item in found.comparisons} == {3}
    assert "| better, first-stage training variance unknown, provisional order |" in markdown(study, "VQ f = 4")
    with pytest.raises(UserError, match="--against 'VQ' begins the name of 2 cells, not of one of: KL f = 4"):
        tables(study.frame, study.axes, "VQ")


BEATEN, UNBEATEN = (0.08, 0.06), (0.08, 0.01)
"""Kernel distances of a Gaussian, and of one of each class, that cells are better than, or only the first of them."""


def of_gaussians(tmp_path, against=None, **recipe):
    """The table of KL at f = 4, 8 and 16, whose distances are 0.022, 0.025 and 0.048, and the page."""
    build(tmp_path, Recipe(**{"regularisers": ("kl",), "factors": (4, 8, 16), "steps": (10,), **recipe}))
    study = read_study(tmp_path)
    [found] = [table for table in tables(study.frame, study.axes, against) if table.metric == METRIC]
    return found, markdown(study, against)


def short(name):
    return name.partition(",")[0].removeprefix("KL f = ")


@pytest.mark.long
def test_a_cell_that_does_not_beat_its_gaussian_gets_no_verdict_and_is_not_the_best(tmp_path):
    found, page = of_gaussians(tmp_path, gaussian={4: UNBEATEN, 8: BEATEN, 16: BEATEN})
    assert {short(name) for name in found.unbeaten} == {"4"}
    [compared] = found.comparisons
    assert (short(compared.cell), short(compared.other), compared.verdict, compared.pairs) == ("16", "8", "worse", 1)
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| KL f = ")}
    verdict = {short(name): line.split("|")[-2].strip() for name, line in lines.items()}
    assert verdict["4"] == f"no better than the Gaussian, {UNKNOWN}"
    assert verdict["8"] == "best mean"
    assert verdict["16"] == f"worse, {UNKNOWN}, provisional order"
    said = comparisons_frame([found])
    against = said[said["other"].str.contains("Gaussian")]
    against = against.set_index(against["cell"].map(short))
    assert against["other"].unique().tolist() == ["a Gaussian of each class, no network"]
    assert against.loc["8", "verdict"] == f"better than the Gaussian, {UNKNOWN}"
    assert against.loc["4", "difference"] == pytest.approx(kernel_distance("kl", 4, 10) - UNBEATEN[1])


@pytest.mark.long
def test_samples_that_are_told_no_class_are_measured_against_one_gaussian_of_all(tmp_path):
    found, _ = of_gaussians(tmp_path, gaussian={4: UNBEATEN, 8: BEATEN, 16: BEATEN}, conditioning="text")
    assert not found.unbeaten
    assert {item.other for item in found.gaussian.values()} == {"a Gaussian, no network"}


@pytest.mark.long
def test_a_difference_that_may_be_nothing_is_no_better(tmp_path):
    """Both have an interval of 0.0015 to either side, their difference one of 0.0021."""
    own = kernel_distance("kl", 4, 10)
    for above, is_unbeaten in ((0.002, True), (0.0023, False)):
        gaussian = {4: (own + above, own + above), 8: BEATEN, 16: BEATEN}
        found, _ = of_gaussians(tmp_path / str(above), gaussian=gaussian)
        assert bool(found.unbeaten) is is_unbeaten, above


@pytest.mark.long
def test_where_one_cell_or_none_is_left_each_is_still_measured_against_its_gaussian(tmp_path):
    found, page = of_gaussians(tmp_path / "one", gaussian={4: UNBEATEN, 8: BEATEN, 16: UNBEATEN})
    assert found.comparisons == []
    assert f"| better than the Gaussian, {UNKNOWN} |" in page
    assert page.count(f"| no better than the Gaussian, {UNKNOWN} |") == 2
    _, page = of_gaussians(tmp_path / "none", gaussian=dict.fromkeys((4, 8, 16), UNBEATEN))
    assert page.count(f"| no better than the Gaussian, {UNKNOWN} |") == 3
    assert "best mean" not in page


@pytest.mark.long
def test_a_named_cell_may_be_one_that_does_not_beat_its_gaussian(tmp_path):
    found, page = of_gaussians(tmp_path, "KL f = 4", gaussian={4: UNBEATEN, 8: BEATEN, 16: UNBEATEN}, seeds=(0, 1, 2))
    assert {short(item.cell) for item in found.comparisons} == {"8"}
    assert "| the others are compared with this; no better than the Gaussian |" in page  # whose trainings vary nothing


@pytest.mark.long
def test_the_distance_above_the_decoded_floor_stands_beside_each_cell(tmp_path):
    found, page = of_gaussians(tmp_path)
    for name, item in found.decoded.items():
        f = int(short(name))
        expected = kernel_distance("kl", f, 10) - decoded_kernel_distance("kl", f)
        assert item.difference == pytest.approx(expected)
        half = math.hypot(0.0015, 0.0009)
        assert (item.low, item.high) == pytest.approx((expected - half, expected + half))
    assert len(found.decoded) == 3
    assert "| above the decoded floor |" in page
    assert "above the Gaussian" not in page
