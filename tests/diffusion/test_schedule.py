"""Noise schedules against diffusers' tables, and what makes them continuous."""

import math

import pytest
import torch

from ldm.diffusion.schedule import SCHEDULES, VariancePreservingSchedule, linear_betas, make_schedule
from ldm.errors import UserError
from ldm.pretrained.torchvision_ops import ensure_torchvision

INDICES = torch.arange(1000)
GRID = (INDICES.double() + 1) / 1000


@pytest.fixture(params=sorted(set(SCHEDULES) - {"flow"}))
def schedule(request) -> VariancePreservingSchedule:
    return make_schedule(request.param)


@pytest.mark.parametrize(
    ("name", "theirs", "ends"),
    [
        ("scaled_linear", "scaled_linear", {"start": 0.0015, "end": 0.0195}),
        ("scaled_linear", "scaled_linear", {"start": 0.00085, "end": 0.012}),
        ("linear", "linear", {"start": 1e-4, "end": 0.02}),
        ("cosine", "squaredcos_cap_v2", {}),
    ],
)
def test_alpha_bar_equals_that_of_diffusers(name, theirs, ends, monkeypatch):
    ensure_torchvision()
    pytest.importorskip("diffusers")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    betas = {f"beta_{key}": value for key, value in ends.items()}
    with monkeypatch.context() as patched:
        patched.setattr(torch, "float32", torch.float64)  # its tables name this dtype: the comparison is of formulas
        reference = DDPMScheduler(beta_schedule=theirs, **betas).alphas_cumprod
    assert reference.dtype == torch.float64
    torch.testing.assert_close(make_schedule(name, **ends).alpha_bar, reference, rtol=1e-11, atol=0)


def test_default_ends_are_those_of_the_papers():
    assert torch.equal(
        make_schedule("scaled_linear").alpha_bar, make_schedule("scaled_linear", 0.0015, 0.0195).alpha_bar
    )
    assert torch.equal(make_schedule("linear").alpha_bar, make_schedule("linear", 1e-4, 0.02).alpha_bar)


def test_grid_points_return_the_table_exactly(schedule):
    assert torch.equal(schedule.alpha(GRID), schedule.alpha_bar.sqrt())
    assert torch.equal(schedule.sigma(GRID), (1 - schedule.alpha_bar).sqrt())
    one_by_one = torch.stack([schedule.alpha(schedule.time(k)) for k in INDICES[::37]])
    assert torch.equal(one_by_one, schedule.alpha_bar[::37].sqrt())


@pytest.mark.parametrize("steps", [49, 107, 4000])
def test_grid_points_are_exact_where_the_length_times_a_time_is_not(steps):
    """49 (1 / 49) is less than 1 in floating point, so that the index must be found by more than rounding down."""
    schedule = VariancePreservingSchedule(linear_betas(steps=steps))
    times = schedule.time(torch.arange(steps))
    assert torch.equal(schedule.alpha(times), schedule.alpha_bar.sqrt())


def test_the_clean_end_has_no_noise(schedule):
    zero = torch.zeros((), dtype=torch.float64)
    assert schedule.alpha(zero) == 1
    assert schedule.sigma(zero) == 0
    assert schedule.log_snr(zero) == float("inf")


def test_alpha_falls_everywhere_and_the_variance_is_preserved(schedule):
    t = torch.linspace(0, 1, 7001, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-15)


def test_there_is_no_jump_at_grid_points(schedule):
    step = 1e-7
    for away in (-step, step):
        near = schedule.alpha(GRID[:-1] + away) ** 2
        # Nowhere does alpha^2 change faster over a step than between the grid points on either side.
        steepest = 1000 * torch.cat([1 - schedule.alpha_bar[:1], -schedule.alpha_bar.diff()]).max()
        assert (near - schedule.alpha_bar[:-1]).abs().max() < 3 * step * steepest


def test_between_grid_points_log_snr_is_linear_and_below_the_first_alpha_squared(schedule):
    middle = (GRID[:-1] + GRID[1:]) / 2
    at_grid = schedule.log_snr(GRID)
    torch.testing.assert_close(schedule.log_snr(middle), (at_grid[:-1] + at_grid[1:]) / 2, rtol=1e-9, atol=1e-9)
    share = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = 1 - share * (1 - schedule.alpha_bar[0])
    torch.testing.assert_close(schedule.alpha(share / 1000) ** 2, expected, rtol=1e-12, atol=0)


def test_index_and_time_are_inverses(schedule):
    assert torch.equal(schedule.time(INDICES), GRID)
    torch.testing.assert_close(schedule.index(schedule.time(INDICES)), INDICES.double(), rtol=0, atol=1e-9)
    fractional = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 999
    torch.testing.assert_close(schedule.index(schedule.time(fractional)), fractional, rtol=0, atol=1e-9)
    assert schedule.index(torch.zeros(())) == 0


def test_what_is_no_schedule_is_refused():
    with pytest.raises(UserError, match="schedule=sigmoid is none of scaled_linear, linear, cosine, flow"):
        make_schedule("sigmoid")
    with pytest.raises(UserError, match=r"beta_start=0\.0001 is no option of the schedule cosine"):
        make_schedule("cosine", start=1e-4)
    with pytest.raises(UserError, match=r"beta_end=0\.0001 is no option of the schedule flow"):
        make_schedule("flow", end=1e-4)
    with pytest.raises(UserError, match="shift=-1 is no number above 0"):
        make_schedule("flow", shift=-1)
    with pytest.raises(UserError, match=r"beta_end=1\.5 is no number above 0 and below 1"):
        make_schedule("linear", end=1.5)


def test_flow_is_the_straight_path_from_the_image_to_the_noise():
    schedule, t = make_schedule("flow"), torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.equal(schedule.sigma(t), t)
    assert torch.equal(schedule.alpha(t), 1 - t)
    assert (float(schedule.log_snr(t[:1])), float(schedule.log_snr(t[-1:]))) == (float("inf"), float("-inf"))


@pytest.mark.parametrize("shift", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_shift_adds_to_the_log_snr_and_keeps_the_path(name, shift):
    """-2 log(shift) at every index (Hoogeboom et al. 2023), on the same kind of path with the same ends."""
    plain, shifted = make_schedule(name), make_schedule(name, shift=shift)
    inner = GRID[:-1]  # no signal is left at the end of flow
    expected = plain.log_snr(inner) - 2 * math.log(shift)
    torch.testing.assert_close(shifted.log_snr(inner), expected, rtol=1e-9, atol=1e-9)
    of_path = (lambda a, s: a + s) if name == "flow" else (lambda a, s: a**2 + s**2)
    total = of_path(shifted.alpha(GRID), shifted.sigma(GRID))
    torch.testing.assert_close(total, torch.ones_like(GRID), rtol=0, atol=1e-14)
    zero = torch.zeros((), dtype=torch.float64)
    assert (shifted.alpha(zero), shifted.sigma(zero)) == (1, 0)
    assert torch.equal(shifted.index(GRID), plain.index(GRID))
    assert torch.equal(make_schedule(name, shift=1.0).alpha(GRID), plain.alpha(GRID))


def test_a_shift_of_flow_is_a_change_of_time():
    """t' = s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23)."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    moved = 3 * t / (1 + 2 * t)
    shifted, plain = make_schedule("flow", shift=3.0), make_schedule("flow")
    torch.testing.assert_close(shifted.alpha(t), plain.alpha(moved), rtol=0, atol=1e-15)
    torch.testing.assert_close(shifted.sigma(t), plain.sigma(moved), rtol=0, atol=1e-15)
