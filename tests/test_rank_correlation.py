"""Rank correlation: Spearman's own in one group, the group earning nothing within groups, and honest intervals."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from ldm.rank_correlation import LEAST, ranked, ranking

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


def test_one_of_many_has_a_wider_interval_about_the_same_value():
    """Bonferroni: of twenty, each at 99.75 %, whose normal quantile is 3.02."""
    x, y = draws(4)
    one, of_many = ranking(x, y, ONE), ranking(x, y, ONE, among=20)
    assert of_many.value == one.value
    width = math.atanh(of_many.high) - math.atanh(of_many.low)
    assert width / (math.atanh(one.high) - math.atanh(one.low)) == pytest.approx(3.0233 / 1.9600, rel=1e-3)
