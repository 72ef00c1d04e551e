"""Distances to the nearest training image: brute force, planted copies, and intervals that cover."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, norm

from ldm.metrics import memorisation
from ldm.metrics.intervals import proportion_interval
from ldm.metrics.memorisation import (
    bytes_to_find,
    heldout_distance,
    memorisation_metrics,
    nearest,
    probability_below,
    small_pixels,
)


def _distances(n, m, d, seed=0, offset=0.0):
    draw = np.random.default_rng(seed)
    return (offset + draw.normal(size=(n, d))).astype(np.float32), (offset + draw.normal(size=(m, d))).astype(
        np.float32
    )


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_nearest_is_that_of_brute_force_however_far_from_zero(monkeypatch, offset):
    monkeypatch.setattr(memorisation, "BLOCK_BYTES", 8 * 70 * 6)  # several blocks, the last one smaller
    queries, among = _distances(20, 70, 9, offset=offset)
    full = cdist(queries.astype(np.float64), among.astype(np.float64))
    found = nearest(queries, among)
    np.testing.assert_array_equal(found.indices, full.argmin(axis=1))
    np.testing.assert_allclose(found.distances, full.min(axis=1), rtol=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(1000, 3000, 200), (3000, 500, 900), (40, 5000, 64)])
def test_its_memory_is_that_of_blocks_however_many_there_are(monkeypatch, n, m, d):
    monkeypatch.setattr(memorisation, "BLOCK_BYTES", 2**20)
    queries, among = _distances(n, m, d)
    tracemalloc.start()
    nearest(queries, among)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_to_find(n, m, d) == pytest.approx(peak, rel=0.2)


def test_a_copy_lies_at_distance_zero():
    queries, among = _distances(5, 70, 900, offset=100.0)
    found = nearest(np.concatenate([queries, among[[41]]]), among)
    assert found.indices[-1] == 41
    assert found.distances[-1] == 0.0
    assert (found.distances[:-1] > 1).all()


def test_pixel_distances_are_grey_levels_of_averaged_images():
    black, grey = torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.full((1, 3, 64, 64), 7, dtype=torch.uint8)
    assert nearest(small_pixels(black), small_pixels(grey)).distances == pytest.approx([7.0], rel=1e-6)
    stripes = black.clone()
    stripes[:, :, ::2] = 14
    # Texture finer than the small side is gone, its mean is not.
    assert nearest(small_pixels(stripes), small_pixels(grey)).distances == pytest.approx([0.0], abs=1e-5)
    assert small_pixels(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 3 * 16 * 16)


def test_the_probability_is_mann_whitney_s_with_ties_halved():
    draw = np.random.default_rng(1)
    a, b = draw.integers(0, 12, 40).astype(float), draw.integers(3, 15, 31).astype(float)
    expected = 1 - mannwhitneyu(a, b).statistic / (len(a) * len(b))
    assert probability_below(a, b).value == pytest.approx(expected, rel=1e-12)


def _pair(kind, truth, draw, m, n):
    """Two samples with P(a < b) = truth: of one shape, or of others."""
    match kind:
        case "normal":
            return draw.normal(size=m) - norm.ppf(truth) * np.sqrt(2), draw.normal(size=n)
        case "wider":
            return draw.normal(size=m) - norm.ppf(truth) * np.sqrt(10), 3 * draw.normal(size=n)
        case "exponential":
            return draw.exponential(1 / truth - 1, m), draw.exponential(size=n)


@pytest.mark.parametrize("truth", [0.5, 0.961, 0.039, 0.007])
@pytest.mark.parametrize("kind", ["normal", "wider", "exponential"])
@pytest.mark.parametrize(("m", "n"), [(32, 40), (300, 40)])
def test_its_nominal_interval_covers_near_0_and_1_too(kind, truth, m, n):
    draw = np.random.default_rng(2)
    trials = [probability_below(*_pair(kind, truth, draw, m, n)) for _ in range(400)]
    assert np.mean([t.low <= truth <= t.high for t in trials]) >= 0.9
    assert np.mean([t.value for t in trials]) == pytest.approx(truth, abs=0.012)


@pytest.mark.parametrize("below", [0, 1, 9, 31, 32])
def test_where_one_sample_alone_decides_its_interval_holds_wilson_s(below):
    a, wilson = np.where(np.arange(32) < below, -1.0, 1.0), proportion_interval(below, 32)
    for found in (probability_below(a, np.zeros(40)), probability_below(np.zeros(40), -a)):
        assert found.value == pytest.approx(below / 32, abs=1e-12)
        assert found.low <= wilson.low + 1e-9
        assert found.high >= wilson.high - 1e-9


def test_near_one_half_its_interval_is_not_wider_than_it_must_be():
    draw = np.random.default_rng(2)
    trials = [probability_below(draw.normal(size=60), draw.normal(size=80)) for _ in range(1000)]
    assert 0.94 <= np.mean([t.low <= 0.5 <= t.high for t in trials]) <= 0.97


@pytest.mark.parametrize(("m", "n"), [(32, 40), (40, 32), (1, 2), (2048, 40)])
def test_samples_that_lie_apart_leave_what_the_smaller_of_them_cannot_rule_out(m, n):
    none, every = (
        probability_below(np.arange(m) + 100.0, np.arange(n)),
        probability_below(-1.0 - np.arange(m), np.arange(n)),
    )
    few = proportion_interval(0, min(m, n))
    assert (none.value, none.low, every.value, every.high) == (0, 0, 1, pytest.approx(1))
    assert (none.high, 1 - every.low) == pytest.approx((few.high, few.high), abs=1e-9)


def test_its_interval_is_mirrored_where_samples_change_places():
    draw = np.random.default_rng(4)
    a, b = draw.integers(0, 9, 20), draw.integers(4, 15, 31)
    one, other = probability_below(a, b), probability_below(b, a)
    assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low), abs=1e-9)


def _metrics(copies):
    """Metrics of 200 samples of the distribution that training and held-out images come from, some of them copies."""
    train, heldout = _distances(500, 200, 16)
    samples, noise = _distances(200, 200, 16, seed=3)
    samples[:copies] = train[:copies] + 0.01 * noise[:copies]
    held, mine = nearest(heldout, train).distances, nearest(samples, train).distances
    values, left_out = memorisation_metrics(mine, held, "e")
    assert not left_out
    return {value.metric: value for value in values}, heldout_distance(held, "e")


def test_a_model_that_learned_the_distribution_is_as_near_as_unseen_images():
    found, real = _metrics(copies=0)
    assert found["nearer_train_e"].ci_low < 0.5 < found["nearer_train_e"].ci_high
    assert found["close_train_e"].ci_low < 0.05 < found["close_train_e"].ci_high
    assert found["nearest_train_e"].ci_low < real.value < found["nearest_train_e"].ci_high
    assert {value.n for value in found.values()} == {200}
    assert real.metric == "real_nearest_train_e"


def test_copies_are_counted():
    some, _ = _metrics(copies=60)
    assert some["close_train_e"].value >= 0.3
    assert some["nearer_train_e"].ci_low > 0.5
    every, _ = _metrics(copies=200)
    assert every["nearer_train_e"].value == every["close_train_e"].value == 1.0
    assert every["close_train_e"].ci_low > 0.95


def test_one_held_out_image_does_not_say_what_is_near():
    real = heldout_distance(np.array([3.0]), "e")
    assert (real.value, real.n, real.ci_low) == (3.0, 1, None)
    values, left_out = memorisation_metrics(np.array([1.0, 2.0, 4.0]), np.array([3.0]), "e")
    assert [value.metric for value in values] == ["nearest_train_e"]
    assert [item.metric for item in left_out] == ["nearer_train_e", "close_train_e"]
    assert all("at least 2 held-out images" in item.reason for item in left_out)
