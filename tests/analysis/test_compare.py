import math

import numpy as np
import pytest
import scipy.stats
from synthetic_store import Recipe, build

from analysis.collect import read_study
from analysis.compare import (
    Measured,
    SeedFactor,
    against_best,
    compare,
    comparisons_frame,
    mean_over_seeds,
    means_frame,
    seed_factor,
    tables,
)
from analysis.table import markdown
from ldm.errors import UserError

METRIC = "kd_efficientnet_lite2"
TWO_CELLS = {"factors": (4,), "steps": (10,)}
"""KL and VQ at f = 4: 0.0207 and 0.0238, each with an interval of 0.0015 to either side."""


def cell(name, values, variance=0.01, first_seed=0):
    repetitions = [(str(first_seed + index), "0", "0") for index in range(len(values))]
    return Measured(name, dict(zip(repetitions, values, strict=True)), dict.fromkeys(repetitions, variance))


def verdicts(store, sweep=None):
    study = read_study(store, sweep)
    [found] = [table for table in tables(study.frame) if table.metric == METRIC]
    return {item.cell: item.sentence for item in found.comparisons}, markdown(study)


def test_one_seed_says_what_it_does_not_know(tmp_path):
    build(tmp_path, Recipe(**TWO_CELLS))
    found, page = verdicts(tmp_path)
    assert found == {"VQ f = 4, 3 channels, 10 steps": "worse, training variance unknown"}
    assert "| worse, training variance unknown |" in page
    assert "best mean" in page
    assert "how far another training would move them is not known" in page


@pytest.mark.parametrize(("scatter", "verdict"), [(0.0, "worse"), (0.0001, "worse"), (0.006, "not distinguishable")])
def test_seeds_that_scatter_more_than_the_gap_take_a_verdict_back(tmp_path, scatter, verdict):
    """The gap is 0.003 and three times its sampling error, whatever the seeds do."""
    build(tmp_path, Recipe(**TWO_CELLS, seeds=(0, 1, 2), scatter=scatter))
    found, page = verdicts(tmp_path)
    assert found == {"VQ f = 4, 3 channels, 10 steps": verdict}
    assert "unknown" not in page.split("Which cells are better")[1].split("##")[0]


@pytest.mark.parametrize(("scatter", "verdict"), [(0.0002, "worse"), (0.004, "not distinguishable")])
def test_two_sweeps_of_the_same_cells_with_different_seeds_are_one_comparison(tmp_path, scatter, verdict):
    for seed in (0, 1):
        name = f"2026-01-0{seed + 1}_sweep"
        build(tmp_path, Recipe(**TWO_CELLS, seeds=(seed,), scatter=scatter, name=name, created=name))
    alone, _ = verdicts(tmp_path, "2026-01-01_sweep")
    together, page = verdicts(tmp_path, "all")
    assert all(sentence.endswith("training variance unknown") for sentence in alone.values())
    [sentence] = together.values()
    assert sentence == verdict
    assert "(2 seeds)" in page


def test_a_lucky_seed_does_not_make_the_best_cell():
    """The mean counts: the cell with the lowest single value is worse."""
    found = against_best([cell("steady", [10.0, 10.1, 9.9]), cell("lucky", [9.0, 13.0, 14.0])])
    assert [(item.cell, item.other) for item in found] == [("lucky", "steady")]


def test_one_pair_with_known_errors_is_a_z_test():
    [item] = compare([cell("a", [10.5])], cell("b", [10.0]), SeedFactor(1.0, 0))
    expected = 2 * scipy.stats.norm.sf(0.5 / math.sqrt(0.02))
    assert item.p == pytest.approx(expected, rel=1e-12)
    assert (item.low, item.high) == pytest.approx((0.5 - 1.959964 * math.sqrt(0.02), 0.5 + 1.959964 * math.sqrt(0.02)))


def test_without_intervals_shared_seeds_make_a_paired_t_test():
    a, b = [10.1, 11.3, 9.7, 10.4], [9.6, 10.9, 9.5, 9.7]
    [item] = compare([cell("a", a, math.nan)], cell("b", b, math.nan), SeedFactor(1.0, 0))
    assert item.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    [single] = compare([cell("a", a[:1], math.nan)], cell("b", b[:1], math.nan), SeedFactor(1.0, 0))
    assert (single.verdict, single.p) == (None, None)
    assert single.sentence == "no verdict: no interval and no second seed"


def test_the_seed_factor_is_pooled_over_cells_and_never_below_one():
    rng = np.random.default_rng(0)
    cells = [cell(str(index), list(rng.normal(scale=0.3, size=3)), variance=0.01) for index in range(200)]
    found = seed_factor(cells)
    assert found.freedom == 400
    assert found.factor == pytest.approx(9, rel=0.2)
    assert seed_factor([cell("a", [1.0, 1.0, 1.0])]).factor == 1
    assert seed_factor([cell("a", [1.0]), cell("b", [2.0])]).freedom == 0


def test_holm_counts_the_pairs_that_the_best_was_chosen_from():
    """Of five cells alike in truth the extremes differ by far more than two that were named beforehand."""
    plain = [cell(str(index), [value]) for index, value in enumerate([10.0, 10.2, 10.25, 10.3, 10.35])]
    chosen = against_best(plain)
    named = compare(plain[1:], plain[0], SeedFactor(1.0, 0))
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
    assert {item.verdict for item in against_best(drawn)} == {"worse"}
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
    found = tables(read_study(tmp_path).frame)
    means, compared = means_frame(found), comparisons_frame(found)
    own = means[means["metric"] == METRIC]
    assert len(own) == 4
    assert set(own["training_seeds"]) == {2}
    assert (compared["metric"] == METRIC).sum() == 3
    assert {"difference", "ci_low", "ci_high", "p", "verdict", "pairs"} <= set(compared.columns)
    # Higher is better for precision: the other cells' differences from the best are below 0.
    assert (compared[compared["metric"] == "precision_efficientnet_lite2"]["difference"] <= 0).all()


def test_cells_may_be_compared_with_one_that_was_named_beforehand(tmp_path):
    build(tmp_path, Recipe(factors=(4, 16), steps=(10,), seeds=(0, 1, 2), scatter=0.0003))
    study = read_study(tmp_path)
    [found] = [table for table in tables(study.frame, "VQ f = 4") if table.metric == METRIC]
    verdict = {item.cell.partition(",")[0]: item.verdict for item in found.comparisons}
    assert verdict == {"KL f = 4": "better", "KL f = 16": "worse", "VQ f = 16": "worse"}
    assert {item.pairs for item in found.comparisons} == {3}
    assert "| better |" in markdown(study, "VQ f = 4")
    with pytest.raises(UserError, match="--against 'VQ' begins the name of 2 cells, not of one of: KL f = 4"):
        tables(study.frame, "VQ")
