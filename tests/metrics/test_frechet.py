import numpy as np
import pytest
import scipy.linalg
import torch

from ldm.metrics.frechet import Statistics, frechet_distance, frechet_distance_of, frechet_infinity, frechet_with_spread
from ldm.metrics.intervals import block_jackknife, student_interval
from ldm.pretrained.torchvision_ops import ensure_torchvision


def features(n, d, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    return np.abs(rng.normal(size=(n, d)) @ mixing) * scale + rng.normal(size=d) * 0.1


def torch_fidelity_distance(a, b):
    ensure_torchvision()
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def random_covariance(d, rng):
    root = rng.normal(size=(d, d))
    return root @ root.T / d


def test_commuting_gaussians_have_the_closed_form():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    std_a, std_b = rng.uniform(0.1, 3, 7), rng.uniform(0.1, 3, 7)
    mean_a, mean_b = rng.normal(size=7), rng.normal(size=7)
    a = Statistics.from_moments(mean_a, rotation * std_a**2 @ rotation.T, 10)
    b = Statistics.from_moments(mean_b, rotation * std_b**2 @ rotation.T, 10)
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((std_a - std_b) ** 2)
    assert frechet_distance_of(a, b) == pytest.approx(expected, rel=1e-12)


def test_general_gaussians_equal_the_matrix_square_root():
    rng = np.random.default_rng(1)
    cov_a, cov_b, mean = random_covariance(9, rng), random_covariance(9, rng), rng.normal(size=9)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = mean @ mean + np.trace(cov_a + cov_b - 2 * np.real(root))
    found = frechet_distance_of(Statistics.from_moments(mean, cov_a, 5), Statistics.from_moments(mean * 0, cov_b, 5))
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n_a", "n_b", "d"), [(200, 300, 64), (129, 140, 64)])
def test_equals_torch_fidelity_where_n_exceeds_twice_d(n_a, n_b, d):
    a, b = features(n_a, d, 2), features(n_b, d, 3, scale=1.3)
    expected = torch_fidelity_distance(a, b)
    assert abs(frechet_distance(a, b) - expected) <= 1e-6 * max(1, abs(expected))


@pytest.mark.parametrize(("n_a", "n_b", "d"), [(32, 32, 96), (32, 300, 96), (96, 97, 96), (300, 40, 96)])
def test_equals_torch_fidelity_where_covariances_are_singular(n_a, n_b, d):
    a, b = features(n_a, d, 4), features(n_b, d, 5, scale=1.3)
    expected = torch_fidelity_distance(a, b)
    assert abs(frechet_distance(a, b) - expected) <= 1e-4 * max(1, abs(expected))


@pytest.mark.parametrize(("n_a", "n_b"), [(20, 20), (20, 200), (64, 65)])
def test_both_factors_of_a_covariance_give_one_distance(n_a, n_b):
    a, b = features(n_a, 64, 6), features(n_b, 64, 7)
    moments = [Statistics.from_moments(x.mean(0), np.cov(x, rowvar=False), len(x)) for x in (a, b)]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance_of(*moments), rel=1e-6)


@pytest.mark.parametrize("n", [40, 400])
def test_covariance_is_the_unbiased_one(n):
    a = features(n, 64, 8)
    np.testing.assert_allclose(Statistics.from_features(a).covariance, np.cov(a, rowvar=False), atol=1e-12)


def test_a_covariance_without_full_rank_has_a_factor():
    """One column is the sum of two others, and one is constant, for which there is no Cholesky factor."""
    a, b = features(400, 64, 8), features(300, 64, 9)
    for x in (a, b):
        x[:, 5], x[:, 6] = x[:, 3] + x[:, 4], 2.0
    np.testing.assert_allclose(Statistics.from_features(a).covariance, np.cov(a, rowvar=False), atol=1e-12)
    assert frechet_distance(a, b) == pytest.approx(torch_fidelity_distance(a, b), rel=1e-4)


@pytest.mark.parametrize(("n", "rank"), [(20, 20), (64, 64), (65, 64)])
def test_few_items_need_no_decomposition(n, rank):
    assert Statistics.from_features(features(n, 64, 14)).factor.shape == (64, rank)


@pytest.mark.parametrize("n", [30, 200])
def test_is_a_distance_that_motions_do_not_change(n):
    rng = np.random.default_rng(9)
    a, b = features(n, 50, 10), features(n, 50, 11)
    rotation, shift = np.linalg.qr(rng.normal(size=(50, 50)))[0], rng.normal(size=50)
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a @ rotation + shift, b @ rotation + shift) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a[rng.permutation(n)], b) == pytest.approx(distance, rel=1e-9)
    assert abs(frechet_distance(a, a)) < 1e-9 * distance
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-9)


def test_float32_features_are_measured_in_float64():
    a = features(300, 20, 12).astype(np.float32) + np.float32(1000)
    b = features(300, 20, 13).astype(np.float32) + np.float32(1000)
    assert frechet_distance(a, b) == frechet_distance(a.astype(np.float64), b.astype(np.float64))


def test_refuses_what_has_no_covariance_or_other_dimensions():
    with pytest.raises(ValueError, match="n >= 2"):
        frechet_distance(features(1, 4, 0), features(8, 4, 0))
    with pytest.raises(ValueError, match="4 and 5 dimensions"):
        frechet_distance(features(8, 4, 0), features(8, 5, 0))


@pytest.mark.parametrize(("n_a", "n_b", "d"), [(90, 70, 7), (41, 300, 7), (30, 40, 57), (30, 90, 57), (64, 63, 63)])
def test_quick_jackknife_equals_leaving_blocks_out_one_by_one(n_a, n_b, d):
    a, b = features(n_a, d, 15), features(n_b, d, 16, scale=1.2)
    value, spread = frechet_with_spread(a, b, blocks=11)
    assert value == frechet_distance(a, b)
    found = student_interval(value, spread.variance, spread.freedom)
    expected = block_jackknife([a, b], frechet_distance, blocks=11)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    corrected = block_jackknife([a, b], frechet_distance, blocks=11, correct_bias=True)
    assert value - spread.bias == pytest.approx(corrected.value, abs=1e-6 * value)


@pytest.mark.long
def test_at_infinite_n_the_bias_is_gone():
    """Gaussians of known distance: 4 * 0.09 + 0; at n = 80 chance adds about as much again."""
    rng = np.random.default_rng(17)
    plain, infinite = [], []
    for _ in range(300):
        a, b = rng.normal(size=(80, 4)) + 0.3, rng.normal(size=(80, 4))
        plain.append(frechet_distance(a, b))
        infinite.append(frechet_infinity(a, b))
    error = np.std(infinite) / np.sqrt(300)
    assert np.mean(plain) > 0.36 + 10 * error
    assert abs(np.mean(infinite) - 0.36) < 3 * error


def test_infinity_is_the_end_of_a_line_in_one_over_n(monkeypatch):
    import ldm.metrics.frechet as module

    monkeypatch.setattr(module, "frechet_distance", lambda a, b: 5 + 30 / len(a) + 12 / len(b))
    assert frechet_infinity(np.zeros((120, 3)), np.zeros((240, 3))) == pytest.approx(5, rel=1e-12)
