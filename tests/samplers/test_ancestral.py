"""Samplers that draw noise: the mean and covariance of what they draw, and that two names of one sampler are one."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from fixed_network import Fixed, RecordedNoise, starting_noise
from gaussian_data import ContinuousCosine, GaussianData

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, FlowSchedule, guided, make_schedule
from ldm.samplers import DDIM, DDPM, sample, time_grid

SCHEDULES = {"cosine": ContinuousCosine(), "flow": FlowSchedule()}
SAMPLERS = {
    "DDPM small": partial(DDPM, variance="small"),
    "DDPM large": partial(DDPM, variance="large"),
    "DDIM eta 1": partial(DDIM, eta=1.0),
    "DDIM eta 0.5": partial(DDIM, eta=0.5),
}


def kernel(data, t, s):
    """q(x_s | x_t, x_0) = N(a x_t + b x_0, v I) by Bayes' rule on q(x_t | x_s) and q(x_s | x_0), and its step's v."""
    alpha_t, alpha_s, sigma_t, sigma_s = (f(u) for f in (data.schedule.alpha, data.schedule.sigma) for u in (t, s))
    forward = alpha_t / alpha_s
    added = sigma_t**2 - forward**2 * sigma_s**2
    precision = forward**2 / added + 1 / sigma_s**2
    return forward / added / precision, alpha_s / sigma_s**2 / precision, 1 / precision, added


def propagated(name, data, times):
    """Mean and covariance at the end, matrix by matrix, without the sampler's code."""
    mean, covariance = data.marginal(times[0])
    for t, s in pairwise(times):
        of_x, of_x0, posterior, added = kernel(data, t, s)
        if (
            name == "DDIM eta 0.5"
        ):  # keeps the marginal sigma_s with half the noise: x_s = alpha_s x_0 + c eps + d noise
            alpha_t, sigma_t, alpha_s, sigma_s = (
                f(u) for u in (t, s) for f in (data.schedule.alpha, data.schedule.sigma)
            )
            posterior = 0.25 * posterior
            of_x = (sigma_s**2 - posterior).sqrt() / sigma_t
            of_x0 = alpha_s - of_x * alpha_t
        probes = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
        ends = of_x * probes + of_x0 * data.denoise(probes, t)
        matrix, offset = (ends[1:] - ends[0]).T, ends[0]
        variance = added if name == "DDPM large" else posterior
        mean = matrix @ mean + offset
        covariance = matrix @ covariance @ matrix.T + variance * torch.eye(2, dtype=torch.float64)
    return mean, covariance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_drawn_samples_have_the_propagated_mean_and_covariance(name, schedule):
    data = GaussianData(SCHEDULES[schedule])
    times = torch.linspace(0.95, 0.05, 9, dtype=torch.float64)
    n, generator = 200_000, torch.Generator().manual_seed(0)
    mean, covariance = data.marginal(times[0])

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn((n, *shape), generator=generator, dtype=torch.float64)

    start = mean + normal((2,)) @ torch.linalg.cholesky(covariance).T
    *_, end = sample(SAMPLERS[name](data.schedule), data.denoise, start, times, normal)
    mean, covariance = propagated(name, data, times)
    # Five standard errors: Var of a covariance is (S_ii S_jj + S_ij^2) / n.
    spread = covariance.diagonal()
    assert ((end.mean(0) - mean).abs() < 5 * (spread / n).sqrt()).all()
    assert ((end.T.cov() - covariance).abs() < 5 * ((torch.outer(spread, spread) + covariance**2) / n).sqrt()).all()
    assert (covariance - data.marginal(times[-1])[1]).abs().max() > 0.01, "eight steps must be far from the limit"


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_many_steps_the_distribution_becomes_that_of_the_data(name):
    data = GaussianData(ContinuousCosine())
    errors = []
    for steps in (200, 400):
        times = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)
        mean, covariance = propagated(name, data, times)
        torch.testing.assert_close(mean, data.marginal(times[-1])[0], rtol=0, atol=1e-9)
        errors.append(float((covariance - data.marginal(times[-1])[1]).abs().max()))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "cosine", "flow"])
@pytest.mark.parametrize(("spacing", "final"), [("trailing", "clean"), ("uniform", "alpha0"), ("quadratic", "clean")])
def test_ddim_with_eta_one_is_ddpm_with_the_small_variance(spacing, final, schedule):
    model = DenoisingModel(Fixed(), make_schedule(schedule), "x0")
    times = time_grid(spacing, 25, final)
    ends = []
    for sampler in (DDIM(model.schedule, 1.0), DDPM(model.schedule, "small")):
        noise = RecordedNoise()
        ends.append(list(sample(sampler, guided(model, Condition()), starting_noise(), times, noise)))
        assert len(noise.drawn) == len(times) - 1 - (final == "clean")
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="no variance 'learned' of DDPM: use one of small, large"):
        DDPM(FlowSchedule(), "learned")
