"""Rank correlations of predictors: Spearman's own in one group, f earning nothing within f, and honest intervals."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from synthetic_store import JUDGE, Recipe, build

from analysis import predictors
from analysis.collect import read_study
from analysis.predictors import LEAST, ranked, ranking

ONE = np.zeros(30, dtype=np.int64)


def draws(seed, n=30, slope=1.0):
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    return x, slope * x + random.normal(size=n)


@pytest.mark.parametrize("slope", [-2.0, 0.0, 0.5])
def test_in_one_group_it_is_spearmans(slope):
    x, y = draws(1, slope=slope)
    assert ranked(x, y, ONE) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    tied = x.round()
    assert ranked(tied, y.round(), ONE) == pytest.approx(spearmanr(tied, y.round()).statistic, abs=1e-12)


def test_what_only_follows_the_group_earns_nothing_within_groups():
    groups = np.repeat([4, 8, 16], 10)
    x, y = draws(2, slope=0.0)
    assert ranked(x + 100 * groups, y + 100 * groups, ONE) > 0.8
    apart = ranked(x + 100 * groups, y + 100 * groups, groups)
    assert apart == pytest.approx(ranked(x, y, groups))
    assert abs(apart) < 0.4


def test_groups_that_disagree_cancel():
    x, groups = np.tile(np.arange(5.0), 2), np.repeat([1, 2], 5)
    assert ranked(x, np.concatenate([x[:5], -x[:5]]), groups) == pytest.approx(0)
    assert ranked(x, np.concatenate([x[:5], 100 + 3 * x[:5]]), groups) == pytest.approx(1)


def test_a_constant_predictor_has_no_correlation():
    assert math.isnan(ranking(np.ones(30), draws(3)[1], ONE).value)


def test_too_few_first_stages_have_none():
    few = np.arange(LEAST - 1.0)
    assert math.isnan(ranking(few, few, np.zeros(LEAST - 1, dtype=np.int64)).value)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
@pytest.mark.parametrize("sizes", [(8,), (18,), (30,), (6, 6), (9, 9), (6, 6, 6)], ids=str)
def test_intervals_cover_what_such_groups_give_on_average(sizes, rho):
    """Of bivariate normal data; 3,000 repetitions are within 0.5 % of the coverage."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 3000, len(groups)))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    target = ranked(x, y, groups).mean()
    found = [ranking(*pair, groups) for pair in zip(x, y, strict=True)]
    assert 0.9 <= np.mean([item.low <= target <= item.high for item in found]) <= 0.995


def test_a_perfect_order_has_an_interval_that_ends_at_one():
    order = np.arange(6.0)
    up, down = ranking(order, order, ONE[:6]), ranking(order, -order, ONE[:6])
    assert (up.value, up.high) == (1.0, 1.0)
    assert 0.3 < up.low < 0.9
    assert (down.value, down.low, down.high) == pytest.approx((-up.value, -up.high, -up.low))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve first stages whose samples are known, a predictor that is right within f, and one that is wrong."""
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(regularisers=("kl", "vq"), factors=(4, 8, 16), steps=(5, 10)))
    found = read_study(path)
    rows = found.frame[found.frame["stage"] == "evaluation"]
    kernel = rows[rows["metric"].str.startswith("kd_") & (rows["steps"] == 10)]
    made = [
        kernel.assign(stage="predictors", metric=name, value=sign * kernel["value"] + 10 * kernel["f"].astype(float))
        for name, sign in (("right", 1.0), ("wrong", -1.0))
    ]
    return replace(found, frame=pd.concat([found.frame, *made], ignore_index=True))


def test_predictors_are_compared_with_the_samples_of_their_first_stage(study):
    page = predictors.markdown(study)
    lines = {line.split("|")[1].strip(): line.split("|") for line in page.splitlines() if line.startswith("| `")}
    assert lines["`right`"][2].split()[0] == "+1.00"
    assert lines["`wrong`"][2].split()[0] == "-1.00"
    assert lines["`right`"][3].strip() == lines["`right`"][5].strip() == "6"
    # Overall both follow f, with which samples get worse here, so that the wrong one looks right.
    assert 0 < float(lines["`wrong`"][4].split()[0]) < float(lines["`right`"][4].split()[0])
    assert "`decoded_kd_efficientnet_lite2`" in lines


def test_outcomes_are_at_the_most_steps_that_all_have(study):
    metric = study.frame[(study.frame["stage"] == "evaluation") & study.frame["metric"].str.startswith("kd_")]
    [outcome] = predictors.outcomes(study)
    for first_stage, value in outcome.values.items():
        own = metric[(metric["first_stage"] == first_stage) & (metric["steps"] == 10)]
        assert own["value"].tolist() == [value]


def test_values_of_several_protocols_are_never_averaged(study):
    """The same first stages judged again on more samples, whose values are the other way round."""
    kernel = study.frame[study.frame["metric"].str.startswith("kd_") & (study.frame["stage"] == "evaluation")]
    floors = study.frame[study.frame["metric"] == f"decoded_kd_{JUDGE}"]
    again = [rows.assign(protocol="other", n=2048, value=-rows["value"]) for rows in (kernel, floors)]
    mixed = replace(study, frame=pd.concat([study.frame, *again], ignore_index=True))
    assert [outcome.n for outcome in predictors.outcomes(mixed)] == [512, 2048]
    pages = predictors.markdown(mixed).split("\n## ")[1:]
    assert [page.splitlines()[0] for page in pages] == ["Protocol a, n = 512 samples", "Protocol c, n = 2,048 samples"]
    within = [next(line for line in page.splitlines() if line.startswith("| `right`")) for page in pages]
    assert [line.split("|")[2].split()[0] for line in within] == ["+1.00", "-1.00"]
    columns = set(predictors.predictions(mixed).columns)
    assert {f"decoded_kd_{JUDGE} (protocol {letter})" for letter in "bc"} < columns, columns


def test_without_samples_it_says_what_is_missing(study):
    without = replace(study, frame=study.frame[study.frame["stage"] != "evaluation"])
    assert "let the sweep run to its end" in predictors.markdown(without)
