"""How often noise levels are drawn, against the density in closed form, and losses that it must not change."""

import math

import numpy as np
import pytest
import torch

from ldm.diffusion.times import LogitNormalTimes, UniformTimes, make_times
from ldm.errors import UserError

STEPS = 1000


def density(t, mean, std):
    """pi_ln of Esser et al. 2024, section 3.1, word for word."""
    logit = torch.log(t / (1 - t))
    return torch.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi) * t * (1 - t))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.6, 0.8), (1.5, 2.0)])
def test_probabilities_are_the_integral_of_the_density_over_each_index(mean, std):
    found = LogitNormalTimes(mean, std).probabilities(STEPS)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    lower = torch.arange(STEPS, dtype=torch.float64)[:, None] / STEPS
    t = lower + (nodes + 1) / 2 / STEPS
    expected = (density(t, mean, std) * weights / 2 / STEPS).sum(1)
    torch.testing.assert_close(found[5:-5], expected[5:-5], rtol=1e-8, atol=1e-14)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("times", [LogitNormalTimes(0.0, 1.0), LogitNormalTimes(-1.0, 0.7), UniformTimes()])
def test_the_histogram_of_draws_is_the_density_within_what_chance_allows(times):
    n = 200_000
    drawn = times.draw(n, STEPS, torch.Generator().manual_seed(1))
    counts = torch.bincount(drawn, minlength=STEPS).view(50, -1).sum(1).double()
    is_uniform = isinstance(times, UniformTimes)
    each = torch.full((STEPS,), 1 / STEPS) if is_uniform else times.probabilities(STEPS)
    expected = n * each.double().view(50, -1).sum(1)
    likely = expected > 5
    chi_squared = ((counts - expected).square() / expected)[likely].sum()
    assert abs(chi_squared - likely.sum()) < 5 * math.sqrt(2 * likely.sum())


def test_shares_of_the_draws_lie_below_the_index_of_that_share():
    times = LogitNormalTimes(0.3, 1.2)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), times.probabilities(STEPS).cumsum(0)])
    share = torch.linspace(0.01, 0.99, 301, dtype=torch.float64)
    index = times.at(share, STEPS)
    assert ((below[index] <= share + 1e-12) & (share <= below[index + 1] + 1e-12)).all()
    assert UniformTimes().at(torch.tensor([0.0, 0.5, 0.9999]).double(), STEPS).tolist() == [0, 500, 999]


@pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (0.5, 1.8)])
def test_unbiased_losses_have_the_mean_of_uniform_times_and_plain_ones_have_not(mean, std):
    loss = (torch.arange(STEPS, dtype=torch.float64) / STEPS).square()
    unbiased, plain = LogitNormalTimes(mean, std, unbiased=True), LogitNormalTimes(mean, std)
    p = plain.probabilities(STEPS)
    assert float((p * unbiased.weights(STEPS) * loss).sum()) == pytest.approx(float(loss.mean()), rel=1e-12)
    assert float((p * plain.weights(STEPS) * loss).sum()) != pytest.approx(float(loss.mean()), rel=0.01)
    drawn = unbiased.draw(400_000, STEPS, torch.Generator().manual_seed(2))
    assert float((unbiased.weights(STEPS) * loss)[drawn].mean()) == pytest.approx(float(loss.mean()), rel=0.02)


def test_a_density_too_narrow_for_unbiased_losses_is_refused():
    with pytest.raises(UserError, match=r"times_std=1: levels that are hardly drawn would count 4e\+08 times"):
        LogitNormalTimes(0.0, 1.0, unbiased=True).weights(STEPS)
    with pytest.raises(UserError, match="would count"):
        LogitNormalTimes(0.0, 0.05, unbiased=True).weights(STEPS)  # some are never drawn


def test_times_are_made_by_name():
    assert make_times("uniform", 3.0, 4.0) == UniformTimes()
    assert make_times("logit_normal", 0.5, 2.0, True) == LogitNormalTimes(0.5, 2.0, True)
    with pytest.raises(UserError, match="did you mean 'logit_normal'"):
        make_times("logitnormal")
