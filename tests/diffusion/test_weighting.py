"""How much each noise level counts: min-SNR in every target's own terms, and the variational bound itself."""

import math

import pytest
import torch

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, VariancePreservingSchedule, make_schedule
from ldm.diffusion.schedule import SCHEDULES
from ldm.diffusion.target import TARGETS, prediction_from_x0, target_of, x0_from_prediction
from ldm.diffusion.weighting import WEIGHTINGS, loss_weight
from ldm.errors import UserError

ALL = torch.arange(1000)


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def errors(target, schedule, t):
    """Squared errors of a wrong prediction and of the x_0 that it implies."""
    x0, eps, wrong = (normal(len(t), seed=seed) for seed in (1, 2, 3))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    right = target_of(target, x0, eps, alpha, sigma)
    implied = x0_from_prediction(target, right + wrong, alpha * x0 + sigma * eps, alpha, sigma)
    return wrong**2, (implied - x0) ** 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_min_snr_weighs_the_implied_error_of_x0_the_same_under_every_target(target, schedule):
    schedule = make_schedule(schedule)
    t = schedule.time(ALL[:-1])
    of_prediction, of_x0 = errors(target, schedule, t)
    expected = (schedule.alpha(t) / schedule.sigma(t)).square().clamp(max=5) * of_x0
    torch.testing.assert_close(loss_weight("min_snr", target, schedule, t) * of_prediction, expected, rtol=1e-6, atol=0)


def test_min_snr_is_that_of_its_paper():
    """Hang et al. 2023: min(SNR, 5)/SNR for eps, min(SNR, 5) for x_0, and min(SNR, 5)/(SNR + 1) for v (their code)."""
    schedule = make_schedule("cosine")
    t = schedule.time(ALL)
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    for target, over in (("eps", snr), ("x0", torch.ones_like(snr)), ("v", snr + 1)):
        weight = loss_weight("min_snr", target, schedule, t)
        torch.testing.assert_close(weight, snr.clamp(max=5) / over, rtol=1e-6, atol=1e-12)


def bound_term(schedule, k, x0, estimate, x_t):
    """KL between the posterior q(x_s | x_t, x_0) and the same at the estimate, by Bayes' rule; index 0: the decoder."""
    t = schedule.time(torch.tensor(k))
    sigma_t = schedule.sigma(t)
    if k == 0:
        decoder = torch.distributions.Normal(estimate, sigma_t)
        return float((decoder.log_prob(estimate) - decoder.log_prob(x0)).sum())
    s = schedule.time(torch.tensor(k - 1))
    forward, sigma_s = schedule.alpha(t) / schedule.alpha(s), schedule.sigma(s)
    added = sigma_t**2 - forward**2 * sigma_s**2
    variance = 1 / (forward**2 / added + 1 / sigma_s**2)
    posteriors = [
        torch.distributions.Normal(
            variance * (forward * x_t / added + schedule.alpha(s) * clean / sigma_s**2), variance.sqrt()
        )
        for clean in (x0, estimate)
    ]
    return float(torch.distributions.kl_divergence(*posteriors).sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_likelihood_weighted_losses_are_the_terms_of_the_variational_bound(target, schedule, network):
    schedule = make_schedule(schedule)
    model = DenoisingModel(network, schedule, target, weighting="likelihood")
    x0, eps = normal(1, 3, 4, 4, seed=1), normal(1, 3, 4, 4, seed=2)
    for k in (0, 1, 2, 40, 500, 998):
        t = schedule.time(torch.tensor([k]))
        x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
        estimate = model.denoise(x_t, t, Condition()).detach()
        expected = bound_term(schedule, k, x0, estimate, x_t)
        nats = float(model.loss(x0, t, eps, Condition())) * x0.numel() / schedule.steps
        assert nats == pytest.approx(expected, rel=1e-6), k


def test_the_bound_of_gaussian_data_meets_its_entropy():
    """With the best denoiser and fine steps, mean loss + prior + the decoder's constant is little above the entropy."""
    spread, alpha_bar = 0.4, torch.linspace(10, -10, 10_000, dtype=torch.float64).sigmoid()
    schedule = VariancePreservingSchedule(1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]]))
    t = schedule.time(torch.arange(schedule.steps))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    of_x0 = spread**2 * sigma**2 / (alpha**2 * spread**2 + sigma**2)
    loss = (loss_weight("likelihood", "x0", schedule, t) * of_x0).mean()
    of_end = (alpha[-1] * spread) ** 2 + sigma[-1] ** 2
    prior = (of_end - 1 - of_end.log()) / 2
    bound = float(loss + prior + (2 * math.pi * sigma[0] ** 2).log() / 2)
    entropy = math.log(2 * math.pi * math.e * spread**2) / 2
    assert entropy <= bound < entropy + 0.01


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_is_the_weight_times_the_squared_error(target, weighting, network):
    schedule = make_schedule("scaled_linear")
    x0, eps, t = normal(4, 3, 4, 4, seed=1), normal(4, 3, 4, 4, seed=2), schedule.time(torch.tensor([0, 17, 500, 999]))
    plain = DenoisingModel(network, schedule, target).loss(x0, t, eps, Condition())
    weighted = DenoisingModel(network, schedule, target, weighting=weighting).loss(x0, t, eps, Condition())
    torch.testing.assert_close(weighted, loss_weight(weighting, target, schedule, t) * plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("output", TARGETS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_the_network_gives_leaves_the_loss_that_of_the_target(target, output, schedule):
    """A network of each kind whose outputs imply the same wrong clean image: their losses are that of the target."""
    schedule = make_schedule(schedule)
    t = schedule.time(ALL[:-1])
    alpha, sigma = (each.view(-1, 1, 1, 1) for each in (schedule.alpha(t), schedule.sigma(t)))
    x0, eps, wrong = (normal(len(t), 1, 2, 2, seed=seed) for seed in (1, 2, 3))
    x_t = alpha * x0 + sigma * eps
    given = prediction_from_x0(output, x0 + wrong, x_t, alpha, sigma)

    model = DenoisingModel(lambda *_, **__: given, schedule, target, output=output)
    error = prediction_from_x0(target, x0 + wrong, x_t, alpha, sigma) - target_of(target, x0, eps, alpha, sigma)
    expected = error.square().flatten(1).mean(1)
    torch.testing.assert_close(model.loss(x0, t, eps, Condition()), expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(model.denoise(x_t, t, Condition()), x0 + wrong, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_finite_where_no_signal_is_left(target, weighting):
    schedule = make_schedule("flow")
    weights = loss_weight(weighting, target, schedule, schedule.time(ALL))
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert weights[-1] > 0 or (target == "eps" or weighting == "min_snr")


def test_unknown_names_are_refused():
    schedule = make_schedule("flow")
    with pytest.raises(UserError, match="weighting=snr is none of plain, min_snr, likelihood, did you mean 'min_snr'"):
        loss_weight("snr", "eps", schedule, torch.tensor([0.5]))
    with pytest.raises(UserError, match="target=score is none of"):
        loss_weight("min_snr", "score", schedule, torch.tensor([0.5]))
