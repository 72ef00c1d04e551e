"""The grids of noise levels: against the reference's and diffusers' arithmetic, and their ends."""

import math

import numpy as np
import pytest
import torch

from ldm.diffusion.schedule import STEPS as TOTAL
from ldm.diffusion.schedule import VariancePreservingSchedule, make_schedule, scaled_linear_betas
from ldm.errors import UserError
from ldm.samplers import shifted, step_indices, time_grid
from ldm.samplers.spacing import FINALS, NEUTRAL_SCALES, SPACINGS

HUNDRED = VariancePreservingSchedule(scaled_linear_betas(steps=100))
SCHEDULES = {
    "scaled_linear": make_schedule("scaled_linear"),
    "cosine": make_schedule("cosine"),
    "flow": make_schedule("flow"),
    "shifted flow": make_schedule("flow", shift=3.0),
    "a hundred": HUNDRED,
}
STEPS = [1, 2, 3, 7, 10, 20, 50, 64, 150, 200, 250, 333, 500]


def reference_indices(spacing: str, steps: int) -> list[int]:
    """The reference's (CompVis make_ddim_timesteps) or diffusers' rule (leading, trailing), in NumPy."""
    rules = {
        "uniform": lambda: np.arange(0, 1000, 1000 // steps) + 1,
        "quadratic": lambda: (np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2).astype(int) + 1,
        "leading": lambda: np.arange(steps) * (1000 // steps),
        "trailing": lambda: np.sort(np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1),
    }
    # A repeated index is a step that goes nowhere, and an index past the table an error there: the last one is meant.
    return sorted({min(int(index), 999) for index in rules[spacing]()})


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name != "neutral"])
def test_indices_are_those_of_the_rule_they_are_named_after(spacing, steps):
    assert step_indices(spacing, steps).tolist() == reference_indices(spacing, steps)


@pytest.mark.parametrize("steps", [*STEPS, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_leading_and_trailing_give_the_number_of_steps_asked_for(spacing, steps):
    indices = step_indices(spacing, steps)
    assert len(indices) == steps
    assert indices[0 if spacing == "leading" else -1] == (0 if spacing == "leading" else 999)


@pytest.mark.parametrize("final", FINALS)
@pytest.mark.parametrize("steps", [1, 3, 20, 50, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_grid_falls_from_the_last_index_to_the_final_level(spacing, steps, final):
    grid = time_grid(spacing, steps, final)
    indices = step_indices(spacing, steps)
    end = {"clean": 0.0, "alpha0": 0.001}[final]
    assert grid.dtype == torch.float64
    assert grid[-1] == end
    assert (grid.diff() < 0).all()
    # Index 0 is alpha0's own level, from which no step leads there.
    visited = [k for k in indices.tolist() if not (final == "alpha0" and k == 0)]
    assert (grid[:-1] * 1000 - 1).round().long().tolist() == visited[::-1]


def test_a_schedule_of_another_length_keeps_the_proportions():
    assert step_indices("trailing", 10, HUNDRED).tolist() == list(range(9, 100, 10))
    assert time_grid("leading", 4, "clean", HUNDRED).tolist() == pytest.approx([0.76, 0.51, 0.26, 0.01, 0.0])


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(UserError, match=rf"sampler\.steps={steps} is no whole number from 1 to 1000"):
        step_indices("uniform", steps)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="spacing=cubic is none of uniform, quadratic, leading, trailing, neutral"):
        step_indices("cubic", 10)
    with pytest.raises(UserError, match="final=noisy is none of clean, alpha0"):
        time_grid("uniform", 10, "noisy")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_neutral_gives_every_number_of_steps_from_the_noisiest_index_to_the_clean_end(schedule):
    noise = SCHEDULES[schedule]
    for steps in range(1, noise.steps + 1, 1 if noise is HUNDRED else 7):
        indices = step_indices("neutral", steps, noise)
        assert len(indices) == steps
        assert int(indices[-1]) == noise.steps - 1
        assert int(indices[0]) >= 0
        grid = time_grid("neutral", steps, "clean", noise)
        assert (grid.diff() < 0).all()
        assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
    assert step_indices("neutral", noise.steps, noise).tolist() == list(range(noise.steps))


@pytest.mark.long
def test_every_number_of_steps_is_exact_on_the_default_schedule():
    assert [len(step_indices("neutral", steps)) for steps in range(1, TOTAL + 1)] == list(range(1, TOTAL + 1))


@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine", "flow"])
def test_between_its_scales_neutral_is_even_in_the_log_snr_and_beyond_it_is_sparser(schedule):
    """By its defining integral, not by the elliptic one."""
    noise, (low, high) = SCHEDULES[schedule], NEUTRAL_SCALES
    fine = torch.logspace(-6, 9, 400_001, dtype=torch.float64)
    density = (1 / (fine**2 + low**2) - 1 / (fine**2 + high**2)).sqrt()
    way = torch.cumulative_trapezoid(density, fine)
    times = noise.time(step_indices("neutral", 20, noise))
    ratio = noise.sigma(times) / noise.alpha(times).clamp(min=1e-12)
    reached = way[torch.searchsorted(fine, ratio.clamp(max=1e8)).clamp(max=len(way) - 1)]
    even = reached[-1] * torch.arange(1, 21) / 20
    # The first few are as low as the trained levels go; above them an index is found within a quarter of a step.
    assert (reached[4:] - even[4:]).abs().max() < 0.25 * even[0]


def test_neutral_follows_the_schedule():
    """The others visit the same indices whatever the noise there is."""
    for spacing in SPACINGS:
        a, b = (step_indices(spacing, 20, SCHEDULES[name]).tolist() for name in ("scaled_linear", "cosine"))
        assert (a == b) == (spacing != "neutral")


@pytest.mark.parametrize("q", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("trained", [1.0, 2.0])
def test_a_shifted_grid_has_the_noise_levels_of_a_schedule_of_that_shift(q, trained):
    """Of the straight path exactly, against the closed form and the schedule's own shift."""
    schedule = make_schedule("flow", shift=trained)
    times = time_grid("trailing", 20, "clean", schedule)
    found = shifted(times, schedule, q)
    wanted = make_schedule("flow", shift=q)
    torch.testing.assert_close(schedule.log_snr(found[1:-1]), wanted.log_snr(times[1:-1]), rtol=1e-10, atol=1e-10)
    ratio = q / trained
    torch.testing.assert_close(found, ratio * times / (1 + (ratio - 1) * times), rtol=0, atol=1e-12)


@pytest.mark.parametrize("q", [0.1, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("final", ["clean", "alpha0"])
def test_a_shifted_grid_of_a_schedule_that_ends_keeps_its_ends_and_its_number_of_levels(q, final):
    schedule = make_schedule("scaled_linear")
    times = time_grid("trailing", 50, final)
    found = shifted(times, schedule, q)
    assert found[0] == times[0]
    assert final == "alpha0" or found[-1] == 0
    assert (found.diff() < 0).all()
    assert len(found) == len(times)
    clean = times[(times > 0) & (times < 0.3)]
    moved = found[(times > 0) & (times < 0.3)]
    # Where there is little noise the SNR is that of the shift, to the share r / R that the end is kept for.
    far = (1 + (q - 1) * torch.exp((schedule.log_snr(torch.ones(1)) - schedule.log_snr(clean)) / 2)).log()
    torch.testing.assert_close(
        schedule.log_snr(moved), schedule.log_snr(clean) - 2 * math.log(q) + 2 * far, rtol=1e-9, atol=1e-9
    )


def test_the_shift_that_was_trained_with_changes_nothing():
    for schedule in (make_schedule("scaled_linear", shift=1.7), make_schedule("flow", shift=1.7)):
        times = time_grid("neutral", 15, "clean", schedule)
        torch.testing.assert_close(shifted(times, schedule, 1.7), times, rtol=0, atol=1e-10)
