"""What each sampler and grid makes of Gaussian data of every spread, with the exact denoiser: no training is in it.

Coordinate i is N(0, s_i^2). E[x_0 | x_t] = alpha s^2 x_t / (alpha^2 s^2 + sigma^2) is linear, and so is every sampler
without noise: one pass from x_T = 1 gives the standard deviation that comes out of x_T ~ N(0, 1).
"""

import math

import pytest
import torch
from fixed_network import no_noise
from torch import Tensor

from benchmarks.spacings import exact
from ldm.diffusion import Schedule
from ldm.diffusion.schedule import make_schedule
from ldm.samplers import DDIM, DDPM, PLMS, DPMSolverPlusPlus, Euler, Heun, Sampler, UniPC, sample, time_grid

SCHEDULE = make_schedule("scaled_linear")
SPREADS = torch.logspace(-2, math.log10(3), 25, dtype=torch.float64)
DETERMINISTIC = {
    "ddim": DDIM,
    "euler": Euler,
    "plms": PLMS,
    "dpmpp": DPMSolverPlusPlus,
    "heun": Heun,
    "unipc": UniPC,
}


def ratios(sampler: Sampler, times: Tensor, spreads: Tensor = SPREADS, schedule: Schedule = SCHEDULE) -> Tensor:
    """Standard deviation that comes out over the one that should, for each of these."""
    start = torch.ones(1, len(spreads), dtype=torch.float64)
    *_, end = sample(sampler, exact(spreads, schedule), start, times, no_noise)
    return end[0] / spreads


def ancestral_ratios(sampler: Sampler, times: Tensor, spreads: Tensor) -> Tensor:
    """The same of a sampler that draws noise: the variances that x_T and each draw give, alone, add up."""
    # Row 0 starts at 1 and is given no noise; row k starts at 0 and is given 1 at the k-th draw.
    x, draws = torch.zeros(len(times), len(spreads), dtype=torch.float64), 0
    x[0] = 1

    def noise(shape):
        nonlocal draws
        draws += 1
        drawn = torch.zeros(len(times), *shape, dtype=torch.float64)
        drawn[draws] = 1
        return drawn

    *_, end = sample(sampler, exact(spreads, SCHEDULE), x, times, noise)
    return end.square().sum(dim=0).sqrt() / spreads


@pytest.mark.parametrize(
    ("spacing", "final", "expected"),
    [("trailing", "clean", 0.315), ("uniform", "alpha0", 0.770), ("quadratic", "clean", 0.818)],
)
def test_what_is_small_is_averaged_away_by_the_last_jump(spacing, final, expected):
    """A spread of 0.1 after 20 steps of DDIM: a third of it with trailing indices."""
    small = torch.tensor([0.1], dtype=torch.float64)
    found = ratios(DDIM(SCHEDULE), time_grid(spacing, 20, final), small)
    assert float(found) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("spacing", ["trailing", "quadratic", "neutral"])
def test_a_step_of_ddim_multiplies_the_spread_by_the_cosine_of_an_angle(spacing):
    """cos(theta - theta'), theta = arctan(sigma / (alpha s)): what `neutral` is derived from."""
    times = time_grid(spacing, 20)
    alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
    angles = torch.atan2(sigma[:, None], alpha[:, None] * SPREADS)
    start = 1 / (alpha[0] ** 2 * SPREADS**2 + sigma[0] ** 2).sqrt()
    lost = angles.diff(dim=0).cos().prod(dim=0)
    torch.testing.assert_close(ratios(DDIM(SCHEDULE), times), start * lost, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_neutral_loses_least_of_what_is_small(name, steps):
    """Of spreads from 0.1 to 1, whatever the sampler, over trailing indices: the worst spread, by its logarithm."""
    seen = torch.logspace(-1, 0, 9, dtype=torch.float64)
    worst = {
        spacing: float(ratios(DETERMINISTIC[name](SCHEDULE), time_grid(spacing, steps), seen).log().abs().max())
        for spacing in ("trailing", "neutral")
    }
    assert worst["neutral"] < 0.5 * worst["trailing"], worst


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_neutral_treats_the_spreads_between_its_scales_alike(steps):
    """In any schedule, pure noise included: within 8 % of each other at 20 steps."""
    seen = torch.logspace(-0.5, 1, 9, dtype=torch.float64)
    for name in ("scaled_linear", "cosine", "flow"):
        schedule = make_schedule(name)
        found = ratios(DDIM(schedule), time_grid("neutral", steps, "clean", schedule), seen, schedule)
        start = time_grid("neutral", steps, "clean", schedule)[:1]
        # The noise that sampling starts with has none of the signal that the schedule leaves at its end.
        known = (schedule.alpha(start) ** 2 * seen**2 + schedule.sigma(start) ** 2).sqrt()
        found = found * known
        assert float(found.max() / found.min()) < 1 + 1.6 / steps, (name, found)
        assert (found <= 1).all()


@pytest.mark.long
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_all_samplers_agree_with_many_steps(name):
    """On what the trained levels resolve."""
    seen = torch.logspace(-0.5, 0, 5, dtype=torch.float64)
    found = ratios(DETERMINISTIC[name](SCHEDULE), time_grid("neutral", 500), seen)
    assert float((found - 1).abs().max()) < 0.03


@pytest.mark.long
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_ancestral_sampling_gains_by_it_as_well(steps):
    """The variance by propagation, and DDIM with eta 1 beside DDPM."""
    seen = torch.logspace(-1, 0, 9, dtype=torch.float64)
    for sampler in (DDPM(SCHEDULE), DDIM(SCHEDULE, eta=1.0), DDIM(SCHEDULE, eta=0.5)):
        worst = {
            spacing: float(ancestral_ratios(sampler, time_grid(spacing, steps), seen).log().abs().max())
            for spacing in ("trailing", "neutral")
        }
        assert worst["neutral"] < worst["trailing"], worst
    small, ddim = (
        ancestral_ratios(s, time_grid("neutral", steps), seen) for s in (DDPM(SCHEDULE), DDIM(SCHEDULE, 1.0))
    )
    torch.testing.assert_close(small, ddim, rtol=1e-9, atol=0)
