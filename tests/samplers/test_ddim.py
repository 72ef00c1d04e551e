"""DDIM against diffusers' from the same noise, against the DDPM posterior, and in closed form on Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch
from fixed_network import Fixed, RecordedNoise, no_noise, starting_noise

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, VariancePreservingSchedule, guided, make_schedule
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.samplers import DDIM, sample, time_grid

SCHEDULE = make_schedule("scaled_linear")


# Our spacing and final level, and the settings of diffusers that mean the same.
CORRESPONDING = {
    "trailing": ("trailing", "clean", {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
    "leading": ("leading", "clean", {"timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": True}),
    "reference": ("uniform", "alpha0", {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}),
}
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("target", PREDICTIONS)
@pytest.mark.parametrize("correspondence", CORRESPONDING)
def test_samples_equal_those_of_diffusers(correspondence, target, eta, dtype, tolerance):
    ensure_torchvision()
    pytest.importorskip("diffusers")
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    spacing, final, settings = CORRESPONDING[correspondence]
    network, noise = Fixed(dtype), RecordedNoise(dtype)
    start = starting_noise(dtype)
    model = DenoisingModel(network, SCHEDULE, target)
    times = time_grid(spacing, 20, final)
    *_, ours = sample(DDIM(SCHEDULE, eta), guided(model, Condition()), start, times, noise)

    theirs = DDIMScheduler(clip_sample=False, prediction_type=PREDICTIONS[target], **settings)
    # Its own tables are float32, whose rounding would hide any difference below 1e-5.
    theirs.alphas_cumprod = SCHEDULE.alpha_bar
    theirs.final_alpha_cumprod = torch.ones(()) if settings["set_alpha_to_one"] else SCHEDULE.alpha_bar[0]
    theirs.set_timesteps(20)
    assert len(noise.drawn) == (0 if eta == 0 else len(times) - 1 - (final == "clean"))
    x = start
    for number, k in enumerate(theirs.timesteps):
        prediction = network(x, torch.full((2,), float(k), dtype=dtype))
        drawn = noise.drawn[number] if number < len(noise.drawn) else torch.zeros_like(x)
        x = theirs.step(prediction, k, x, eta=eta, variance_noise=drawn).prev_sample
    assert (ours - x).abs().max() < tolerance * x.abs().max()
    assert ours.dtype == dtype


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.5, 0.45), (0.3, 0.001), (0.02, 0.0)])
def test_eta_one_draws_from_the_ddpm_posterior(t, s):
    """q(x_s | x_t, x_0) by Bayes' rule on Gaussians (Ho et al. 2020, eq. 6, 7), for a fixed estimate of x_0."""
    t, s = torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)
    x_t, x0, z = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward = SCHEDULE.alpha(t) / SCHEDULE.alpha(s)
    added = SCHEDULE.sigma(t) ** 2 - forward**2 * SCHEDULE.sigma(s) ** 2
    precision = forward**2 / added + 1 / SCHEDULE.sigma(s) ** 2
    mean = (forward * x_t / added + SCHEDULE.alpha(s) * x0 / SCHEDULE.sigma(s) ** 2) / precision if s > 0 else x0
    expected = mean + precision**-0.5 * z
    result, _ = DDIM(SCHEDULE, 1.0).step(lambda x, time: x0, x_t, t, s, None, lambda shape: z)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


# Gaussian data: x_0 ~ N(MEAN, SPREAD^2), for which the exact denoiser is the posterior mean.
MEAN, SPREAD = 0.7, 0.4


def exact_denoiser(schedule: VariancePreservingSchedule):
    def denoise(x_t, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return (MEAN * sigma**2 + alpha * SPREAD**2 * x_t) / (alpha**2 * SPREAD**2 + sigma**2)

    return denoise


def marginal(schedule: VariancePreservingSchedule, t: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of x_t."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    return alpha * MEAN, math.hypot(alpha * SPREAD, sigma)


def slope(steps: list[int], errors: list[float]) -> float:
    """The order of convergence: minus the slope of log error over log steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


STEPS = [100, 200, 400]


def even_in_root(steps: int) -> torch.Tensor:
    """A grid from 0.95 to 0 without the logarithm that steps of equal length give near 0, as sigma^2 grows with t."""
    return 0.95 * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


@pytest.mark.long
@pytest.mark.parametrize("name", ["scaled_linear", "linear", "cosine"])
def test_without_noise_it_follows_the_probability_flow_with_order_one(name):
    """The flow keeps (x_t - mean_t) / deviation_t, so x at t = 0 is known."""
    schedule = make_schedule(name)
    z = torch.linspace(-2, 2, 5, dtype=torch.float64).view(1, 1, 1, 5)
    start = torch.tensor(0.95, dtype=torch.float64)
    mean, deviation = marginal(schedule, start)
    errors = []
    for steps in STEPS:
        x = mean + deviation * z
        *_, end = sample(DDIM(schedule), exact_denoiser(schedule), x, even_in_root(steps), no_noise)
        errors.append(float((end - (MEAN + SPREAD * z)).abs().max()))
    assert errors[-1] < 0.01
    assert slope(STEPS, errors) == pytest.approx(1, abs=0.03)


def propagated(eta: float, times: torch.Tensor) -> tuple[float, float]:
    """Mean and variance at the end, exactly: with this denoiser a step is x_s = a x_t + b + d noise."""
    mean, deviation = marginal(SCHEDULE, times[0])
    variance = deviation**2
    denoise = exact_denoiser(SCHEDULE)
    for t, s in pairwise(times):
        probes = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).view(3, 1)
        noise = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).view(3, 1)
        ends, _ = DDIM(SCHEDULE, eta).step(denoise, probes, t, s, None, lambda shape, noise=noise: noise)
        b, a, d = float(ends[0]), float(ends[1] - ends[0]), float(ends[2] - ends[0])
        mean, variance = a * mean + b, a**2 * variance + d**2
    return mean, variance


@pytest.mark.long
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_noise_the_distribution_of_samples_becomes_that_of_the_data(eta):
    ends = [propagated(eta, even_in_root(steps)) for steps in STEPS]
    errors = [abs(variance - SPREAD**2) for _, variance in ends]
    assert all(mean == pytest.approx(MEAN, abs=1e-9) for mean, _ in ends)
    assert errors[-1] < 0.02 * SPREAD**2
    assert slope(STEPS, errors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_drawn_samples_have_the_propagated_mean_and_variance(eta):
    times = time_grid("trailing", 10, "alpha0")[1:]
    mean, deviation = marginal(SCHEDULE, times[0])
    n, generator = 200_000, torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn((n, *shape), generator=generator, dtype=torch.float64)

    *_, end = sample(DDIM(SCHEDULE, eta), exact_denoiser(SCHEDULE), mean + deviation * normal((1,)), times, normal)
    expected_mean, expected_variance = propagated(eta, times)
    # Five standard errors of a mean and of a variance.
    assert float(end.mean()) == pytest.approx(expected_mean, abs=5 * math.sqrt(expected_variance / n))
    assert float(end.var()) == pytest.approx(expected_variance, rel=5 * math.sqrt(2 / n))
    assert abs(expected_variance - SPREAD**2) > 0.02 * SPREAD**2, "ten steps must be far enough from the limit to tell"


def test_every_state_is_yielded_and_the_trajectory_can_be_taken_up_anywhere():
    times = time_grid("uniform", 8)
    start = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = list(sample(DDIM(SCHEDULE), exact_denoiser(SCHEDULE), start, times, no_noise))
    assert len(states) == len(times) - 1
    *_, resumed = sample(DDIM(SCHEDULE), exact_denoiser(SCHEDULE), states[2], times[3:], no_noise)
    assert torch.equal(resumed, states[-1])
