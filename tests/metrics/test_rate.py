import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm.metrics.rate import (
    LatentMoments,
    aggregate_moments,
    index_crossentropy,
    index_log2,
    kl_fitted,
    kl_prior,
)

PIXELS = 8 * 12


def posterior(n=5, channels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, channels, 2, 7, generator=g, dtype=torch.float64) * 2 + torch.arange(channels).view(-1, 1, 1)
    logvar = torch.randn(n, channels, 2, 7, generator=g, dtype=torch.float64) - 2
    return mean, logvar


def test_kl_to_the_prior_equals_torch_distributions():
    mean, logvar = posterior()
    nats = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    np.testing.assert_allclose(kl_prior(mean, logvar, PIXELS), nats / math.log(2) / PIXELS, rtol=1e-12)


def test_kl_to_a_fitted_gaussian_equals_torch_distributions():
    mean, logvar = posterior()
    moments = LatentMoments(torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.5, 2.0, 9.0]).double())
    fitted = Normal(moments.mean.view(3, 1, 1), moments.variance.sqrt().view(3, 1, 1))
    nats = kl_divergence(Normal(mean, (logvar / 2).exp()), fitted).sum(dim=(1, 2, 3))
    np.testing.assert_allclose(kl_fitted(mean, logvar, moments, PIXELS), nats / math.log(2) / PIXELS, rtol=1e-12)


def test_kl_is_the_mean_log_ratio_of_samples():
    mean, logvar = torch.tensor([[[[1.5]]]]), torch.tensor([[[[-1.0]]]])
    q, p = Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)
    z = mean + (logvar / 2).exp() * torch.randn(400_000, generator=torch.Generator().manual_seed(1))
    bits = ((q.log_prob(z) - p.log_prob(z)).mean() / math.log(2)).item()
    assert kl_prior(mean, logvar, 1)[0] == pytest.approx(bits, rel=5e-3)


def test_a_posterior_that_is_the_prior_costs_nothing():
    zeros = torch.zeros(2, 4, 3, 3)
    np.testing.assert_array_equal(kl_prior(zeros, zeros, PIXELS), [0, 0])


def test_moments_are_those_of_posterior_samples():
    mean, logvar = posterior(n=40)
    moments = aggregate_moments([(mean, logvar)])
    g = torch.Generator().manual_seed(2)
    draws = torch.cat([mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=g) for _ in range(200)])
    torch.testing.assert_close(moments.mean, draws.mean(dim=(0, 2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(moments.variance, draws.var(dim=(0, 2, 3)), rtol=0.02, atol=0)


def test_moments_do_not_depend_on_batches_nor_cancel():
    mean, logvar = posterior(n=9)
    mean = mean + 1e7
    whole = aggregate_moments([(mean, logvar)])
    parts = aggregate_moments([(mean[:2], logvar[:2]), (mean[2:3], logvar[2:3]), (mean[3:], logvar[3:])])
    expected = mean.var(dim=(0, 2, 3), correction=0) + logvar.exp().mean(dim=(0, 2, 3))
    torch.testing.assert_close(whole.variance, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.variance, whole.variance, rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)


def test_the_fitted_gaussian_is_the_cheapest():
    mean, logvar = posterior(n=30)
    moments = aggregate_moments([(mean, logvar)])
    best = kl_fitted(mean, logvar, moments, PIXELS).mean()
    for shift, factor in ((0.1, 1.0), (-0.1, 1.0), (0.0, 1.1), (0.0, 0.9)):
        other = LatentMoments(moments.mean + shift, moments.variance * factor)
        assert kl_fitted(mean, logvar, other, PIXELS).mean() > best
    assert kl_prior(mean, logvar, PIXELS).mean() > best


def test_no_batch_has_no_moments():
    with pytest.raises(ValueError, match="at least one batch"):
        aggregate_moments([])


def test_index_rate_is_log2_of_the_codebook():
    assert index_log2(codes=16384, tokens=16 * 16, pixels=256 * 256) == 14 / 256


def test_uniform_histogram_costs_as_much_as_the_plain_index():
    indices = np.arange(24).reshape(2, 3, 4) % 8
    bits = index_crossentropy(indices, np.full(8, 1000), PIXELS)
    np.testing.assert_allclose(bits, index_log2(8, 12, PIXELS), rtol=1e-12)


def test_cross_entropy_equals_torch():
    rng = np.random.default_rng(3)
    counts, indices = rng.integers(0, 50, 6), rng.integers(0, 6, (4, 5))
    logits = torch.from_numpy(np.log(counts + 2.0)).expand(20, 6)
    nats = torch.nn.functional.cross_entropy(logits, torch.from_numpy(indices).ravel(), reduction="none")
    expected = nats.view(4, 5).sum(dim=1) / math.log(2) / PIXELS
    np.testing.assert_allclose(index_crossentropy(indices, counts, PIXELS, smoothing=2.0), expected, rtol=1e-12)


def test_unseen_codes_cost_finite_bits_and_more_than_seen_ones():
    bits = index_crossentropy([[0], [1]], [100, 0, 3], 1)
    np.testing.assert_allclose(bits, [-math.log2(100.5 / 104.5), -math.log2(0.5 / 104.5)], rtol=1e-12)
