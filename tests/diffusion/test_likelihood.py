"""Bound and progressive coding on Gaussian data, where the best denoiser, rate, distortion and bound are known."""

import math

import pytest
import torch

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, VariancePreservingSchedule, make_schedule
from ldm.diffusion.likelihood import (
    GREY_LEVEL,
    coding_times,
    discretised_nats,
    gaussian_nats,
    prior_nats,
    received,
)

LINEAR = make_schedule("linear")
ALPHA_BAR = torch.linspace(9, -10, 2000, dtype=torch.float64).sigmoid()
FINE = VariancePreservingSchedule(1 - ALPHA_BAR / torch.cat([torch.ones(1), ALPHA_BAR[:-1]]))
"""Even steps in log-SNR, so fine that a chain loses less than 1 % of what it sends."""
DIMENSIONS = 3 * 4 * 4


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noises(n, seed):
    draw = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn((n, *shape), generator=draw, dtype=torch.float64)


def ideal(schedule, spread):
    """E[x_0 | x_t] of independent dimensions with these standard deviations around 0."""

    def denoise(x_t, t):
        alpha, variance = schedule.alpha(t), schedule.sigma(t) ** 2
        return alpha * spread**2 / (alpha**2 * spread**2 + variance) * x_t

    return denoise


def remaining(schedule, spread, t):
    """Mean squared error of that denoiser."""
    alpha, variance = schedule.alpha(t), schedule.sigma(t) ** 2
    return spread**2 * variance / (alpha**2 * spread**2 + variance)


def closed_form_nats(schedule, spread, times):
    """Expected nats a dimension at each level: KL to the prior, then 1/2 (SNR(s) - SNR(t)) of the remaining error."""
    alpha, variance = schedule.alpha(times[0]), schedule.sigma(times[0]) ** 2
    prior = ((alpha * spread) ** 2 + variance - 1 - variance.log()) / 2
    snr = schedule.log_snr(times).exp()
    terms = (snr[1:] - snr[:-1]) / 2 * remaining(schedule, spread, times[:-1])
    return torch.cat([prior.reshape(1), prior + terms.cumsum(0)])


def coded(schedule, x0, spread, levels=None):
    """All that is received of x0, the denoiser the ideal one of that spread."""
    times = coding_times(schedule, levels)
    return list(received(ideal(schedule, spread), schedule, x0, times, noises(len(x0), 2)))


def rates_and_errors(found, x0):
    """Nats a dimension, and mean squared error, at each level."""
    nats = torch.stack([item.nats.mean() for item in found]) / DIMENSIONS
    return nats, torch.stack([(item.estimate - x0).square().mean() for item in found])


@pytest.mark.long
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "flow"])
def test_rate_and_distortion_of_gaussian_data_are_the_closed_forms(name):
    schedule, spread, levels = make_schedule(name), 0.4, 250
    x0, times = spread * normal(1600, 3, 4, 4, seed=1), coding_times(schedule, levels)
    found = coded(schedule, x0, spread, levels)
    assert [item.t for item in found] == times.tolist()
    nats, squared = rates_and_errors(found, x0)
    torch.testing.assert_close(nats, closed_form_nats(schedule, spread, times), rtol=0.01, atol=1e-5)
    torch.testing.assert_close(squared.sqrt(), remaining(schedule, spread, times).sqrt(), rtol=0.01, atol=0)


@pytest.mark.long
def test_the_curve_of_a_gaussian_source_is_shannons():
    """R(D) = 1/2 log2(s^2 / D) bits a dimension, within 1 % from half a bit to more than five."""
    x0, spread = 0.4 * normal(400, 3, 4, 4, seed=1), 0.4
    nats, squared = rates_and_errors(coded(FINE, x0, spread), x0)
    # Twenty levels together, as one alone is known to 1 % only.
    bits, shannon = (values.view(-1, 20).mean(1) for values in (nats / math.log(2), (spread**2 / squared).log2() / 2))
    known = shannon > 0.5
    assert known.sum() > 30
    assert shannon.max() > 5
    torch.testing.assert_close(bits[known], shannon[known], rtol=0.01, atol=0)


def grey_gaussian(n, spread):
    return ((spread * normal(n, 3, 4, 4, seed=1) + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def bound_in_bits(schedule, x0, spread):
    """Bits a dimension of the whole bound, with the decoder of grey levels."""
    last = coded(schedule, x0, spread)[-1]
    decoder = discretised_nats(x0, last.estimate, schedule.sigma(torch.tensor(last.t)).item())
    return (last.nats + decoder).mean().item() / DIMENSIONS / math.log(2)


def grey_entropy(spread):
    """Bits of a Gaussian in grey levels."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    edges = [torch.special.ndtr((levels + side * GREY_LEVEL / 2) / spread) for side in (1, -1)]
    return torch.special.entr(edges[0] - edges[1]).sum().item() / math.log(2)


@pytest.mark.long
def test_the_bound_of_gaussian_images_in_grey_levels_is_their_entropy():
    assert grey_entropy(0.2) == pytest.approx(6.72, abs=0.01)
    assert grey_entropy(0.2) < bound_in_bits(FINE, grey_gaussian(400, 0.2), 0.2) < 1.01 * grey_entropy(0.2)


@pytest.mark.long
def test_the_bound_under_ddpms_schedule_is_its_closed_form():
    """Its first levels halve the noise each, which costs 0.6 bits more than the entropy, whatever the denoiser."""
    spread, first = 0.2, torch.tensor(1 / LINEAR.steps)
    alpha, sigma = LINEAR.alpha(first).item(), LINEAR.sigma(first).item()
    # x_0 given the estimate is Gaussian around it, so the decoder's cost is an average over that difference alone.
    off = math.sqrt(remaining(LINEAR, spread, first).item()) * torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-((off / off[-1] * 8) ** 2) / 2)
    cost = torch.stack([discretised_nats(torch.zeros(1, 1, 1, 1), value.view(1, 1, 1, 1), sigma) for value in off])
    decoder = (cost.flatten() * weight).sum().item() / weight.sum().item()
    sent = closed_form_nats(LINEAR, spread, coding_times(LINEAR))[-1].item()
    expected = (sent + decoder) / math.log(2)
    assert alpha**2 + sigma**2 == pytest.approx(1)
    assert expected - grey_entropy(spread) == pytest.approx(0.6, abs=0.05)
    assert bound_in_bits(LINEAR, grey_gaussian(400, spread), spread) == pytest.approx(expected, rel=0.01)


@pytest.mark.long
def test_the_density_bound_of_gaussian_latents_is_their_entropy():
    spread = 1.3
    x0 = spread * normal(200, 3, 4, 4, seed=1)
    last = coded(FINE, x0, spread)[-1]
    nats = last.nats + gaussian_nats(x0, last.estimate, FINE.sigma(torch.tensor(last.t)).item())
    entropy = math.log(2 * math.pi * math.e * spread**2) / 2
    # Both code at the same accuracy, so what is 1 % of what was sent, not of a density, is the measure.
    sent = last.nats.mean().item() / DIMENSIONS
    assert 0 < nats.mean().item() / DIMENSIONS - entropy < 0.01 * sent


@pytest.mark.long
def test_a_chain_of_fewer_levels_costs_more():
    x0 = 0.4 * normal(100, 3, 4, 4, seed=1)
    rates = [coded(LINEAR, x0, 0.4, levels)[-1].nats.mean().item() for levels in (1000, 100, 20)]
    assert 1.05 * rates[0] < rates[1] < 0.95 * rates[2]


def test_a_worse_denoiser_costs_more_in_every_term():
    """The network always says that the image is grey."""

    class Silent(torch.nn.Module):
        def forward(self, x, index, context=None, concat=None):
            return torch.zeros_like(x)

    x0, times = 0.4 * normal(50, 3, 4, 4, seed=1), coding_times(LINEAR, 50)
    model = DenoisingModel(Silent(), LINEAR, "x0")
    silent = received(lambda x, t: model.denoise(x, t, Condition()), LINEAR, x0, times, noises(50, 2))
    best = received(ideal(LINEAR, 0.4), LINEAR, x0, times, noises(50, 2))
    costs = [[item.nats.mean().item() for item in found] for found in (silent, best)]
    assert costs[0][0] == costs[1][0] == prior_nats(LINEAR, x0, times[0]).mean().item()
    assert all(worse > better for worse, better in zip(costs[0][1:], costs[1][1:], strict=True))


def test_the_prior_term_is_the_divergence_of_two_gaussians():
    x0, t = normal(3, 3, 4, 4, seed=1), torch.tensor(0.7)
    sent = torch.distributions.Normal(LINEAR.alpha(t) * x0, LINEAR.sigma(t))
    wanted = torch.distributions.kl_divergence(sent, torch.distributions.Normal(torch.zeros_like(x0), 1.0))
    torch.testing.assert_close(prior_nats(LINEAR, x0, t), wanted.flatten(1).sum(1))


def test_grey_levels_share_all_of_the_mass():
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(-1, 1, 1, 1)
    for mean, std in ((0.1, 0.01), (-1.2, 0.3), (0.999, 2.0), (0.5, 1e-3)):
        mass = torch.exp(-discretised_nats(levels, torch.full_like(levels, mean), std))
        assert mass.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.05), (-0.9, 0.004), (2.0, 0.1)])
def test_the_mass_of_a_grey_level_is_the_integral_of_the_density(mean, std):
    levels = torch.tensor([-1.0, 128 / 127.5 - 1, 254 / 127.5 - 1, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    found = torch.exp(-discretised_nats(levels, torch.full_like(levels, mean), std))
    at = torch.linspace(-6, 6, 1_200_001, dtype=torch.float64)
    density = torch.exp(-(((at - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    for level, mass in zip(levels.flatten().tolist(), found.tolist(), strict=True):
        low = -math.inf if level == -1 else level - GREY_LEVEL / 2
        high = math.inf if level == 1 else level + GREY_LEVEL / 2
        inside = (at > low) & (at < high)
        assert mass == pytest.approx(torch.trapezoid(density[inside], at[inside]).item(), rel=0.01, abs=1e-12)


def test_a_guess_far_off_costs_what_the_tail_says_and_is_finite():
    x0, mean = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)
    # 90 standard deviations out: the nearer edge's tail, z^2 / 2 + log(z sqrt(2 pi)).
    z = (0.9 - GREY_LEVEL / 2) / 0.01
    assert discretised_nats(x0, mean, 0.01).item() == pytest.approx(
        z**2 / 2 + math.log(z * math.sqrt(2 * math.pi)), rel=1e-6
    )
    assert discretised_nats(x0, -mean, 0.01).item() == pytest.approx(discretised_nats(x0, mean, 0.01).item(), rel=1e-12)


@pytest.mark.parametrize("levels", [1, 1001])
def test_chains_that_the_schedule_cannot_give_are_refused(levels):
    with pytest.raises(ValueError, match="outside 2 to 1000"):
        coding_times(LINEAR, levels)


def test_a_chain_has_both_ends():
    assert coding_times(LINEAR, 11).tolist() == pytest.approx(
        [1, 0.9, 0.8, 0.7, 0.6, 0.501, 0.401, 0.301, 0.201, 0.101, 0.001], abs=0.0011
    )
    assert coding_times(LINEAR).tolist() == ((torch.arange(1000, dtype=torch.float64).flip(0) + 1) / 1000).tolist()
