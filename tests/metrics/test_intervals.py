import dataclasses

import numpy as np
import pytest
import scipy.stats

from ldm.metrics.frechet import frechet_distance
from ldm.metrics.intervals import (
    Interval,
    block_jackknife,
    block_sizes,
    combine,
    difference,
    jackknife_spread,
    mean_interval,
    student_interval,
)


def test_mean_interval_is_students():
    values = np.random.default_rng(0).gamma(2, size=17)
    low, high = scipy.stats.t.interval(0.9, 16, loc=values.mean(), scale=scipy.stats.sem(values))
    found = mean_interval(values, level=0.9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)


def test_one_value_has_no_spread():
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([1.0])


@pytest.mark.parametrize(("n", "blocks"), [(10, 3), (7, 7), (100, 50)])
def test_blocks_are_as_equal_as_they_can_be(n, blocks):
    sizes = block_sizes(n, blocks)
    assert sizes.sum() == n
    assert len(sizes) == blocks
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("blocks", [1, 11])
def test_impossible_blocks_are_refused(blocks):
    with pytest.raises(ValueError, match="use 2 to 10"):
        block_sizes(10, blocks)


def test_leaving_one_out_of_a_mean_gives_the_textbook_variance():
    values = np.random.default_rng(1).normal(size=23)
    without = (values.sum() - values) / 22
    spread = jackknife_spread(values.mean(), without, np.ones(23))
    assert spread.variance == pytest.approx(values.var(ddof=1) / 23, rel=1e-10)
    assert spread.bias == pytest.approx(0, abs=1e-12)


def test_bias_of_the_plug_in_variance_is_removed_exactly():
    values = np.random.default_rng(2).normal(size=31)
    found = block_jackknife([values], lambda x: float(x.var()), blocks=31, correct_bias=True)
    assert found.value == pytest.approx(values.var(ddof=1), rel=1e-10)


def test_difference_of_means_has_welchs_interval():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=12), rng.normal(scale=3, size=12)
    found = block_jackknife([a, b], lambda x, y: float(x.mean() - y.mean()), blocks=12)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_unequal_blocks_leave_the_variance_of_a_mean_unbiased():
    rng = np.random.default_rng(4)
    sizes = np.array([1, 2, 3, 10, 14])
    edges = np.cumsum(sizes)
    draws = []
    for _ in range(4000):
        x = rng.normal(size=30)
        blocks = np.add.reduceat(x, edges - sizes)
        draws.append(jackknife_spread(x.mean(), (x.sum() - blocks) / (30 - sizes), sizes).variance)
    assert np.mean(draws) == pytest.approx(1 / 30, rel=0.05)


def test_interval_of_a_skewed_mean_covers_at_its_level():
    rng = np.random.default_rng(5)
    intervals = [
        block_jackknife([rng.exponential(size=200)], lambda x: float(np.log(x.mean())), 20) for _ in range(500)
    ]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.98


@pytest.mark.long
def test_corrected_frechet_interval_covers_the_population_value():
    """Uncorrected the estimate is biased upwards by more than its spread at equal distributions; here they differ."""
    rng = np.random.default_rng(6)
    shift = np.array([0.5, 0.0, 0.0])
    covered = 0
    for _ in range(200):
        samples = [rng.normal(size=(150, 3)), rng.normal(size=(150, 3)) + shift]
        interval = block_jackknife(samples, frechet_distance, 15, correct_bias=True)
        covered += interval.low <= 0.25 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def jackknifed(value: float, *samples: np.ndarray) -> Interval:
    """A mean over samples, each left out block by block, with what each block contributes."""
    spreads = []
    for sample in samples:
        sizes = block_sizes(len(sample), len(sample))
        spreads.append(jackknife_spread(sample.mean(), (sample.sum() - sample) / (len(sample) - 1), sizes))
    whole = combine(*spreads)
    interval = student_interval(value, whole.variance, whole.freedom)
    return dataclasses.replace(interval, deviations=whole.deviations)


def test_a_difference_of_independent_means_has_welchs_interval():
    a, b = (np.random.default_rng(seed).normal(size=n) for seed, n in ((0, 30), (1, 20)))
    found = difference(jackknifed(a.mean(), a), jackknifed(b.mean(), b))
    variances = a.var(ddof=1) / 30, b.var(ddof=1) / 20
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 29 + variances[1] ** 2 / 19)
    expected = student_interval(a.mean() - b.mean(), sum(variances), freedom)
    assert [found.value, found.low, found.high] == pytest.approx([expected.value, expected.low, expected.high])


def test_what_both_owe_to_a_shared_sample_drops_out_of_a_difference():
    draws = np.random.default_rng(2)
    shared, a, b = draws.normal(size=40) * 100, draws.normal(size=40), draws.normal(size=40)
    one, other = (jackknifed(x.mean() + shared.mean(), x, shared) for x in (a, b))
    apart = difference(jackknifed(a.mean(), a), jackknifed(b.mean(), b))
    found = difference(one, other, shared=(1,))
    assert found.high - found.low == pytest.approx(apart.high - apart.low)
    assert difference(one, other).high > 10 * found.high


def test_a_difference_of_values_without_deviations_adds_their_variances():
    found = difference(Interval(3, 2, 4), Interval(1, 0, 2))
    assert [found.value, found.high - found.value] == pytest.approx([2, 2**0.5])
