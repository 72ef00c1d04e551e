"""Averages of any length after training: profiles in closed form, and reconstructions against brute-force sums."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ldm.training.power_ema import (
    STORED_LENGTHS,
    PowerAverage,
    Profile,
    combined,
    exponent,
    reconstruction,
)

STEPS = 400


def brute_force_weights(length: float, steps: int = STEPS, total: int = STEPS) -> np.ndarray:
    """What the weights of each of `total` steps count after `steps`, by the recursion of the average itself."""
    weights = np.zeros(total)
    for step in range(1, steps + 1):
        beta = (1 - 1 / step) ** (exponent(length) + 1)
        weights *= beta
        weights[step - 1] += 1 - beta
    return weights


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_a_length_is_the_relative_standard_deviation_of_the_profile(length):
    g = exponent(length)
    t = np.linspace(0, 1, 2_000_001)[1:]
    profile = (g + 1) * t**g
    mean = np.trapezoid(profile * t, t) if hasattr(np, "trapezoid") else np.trapz(profile * t, t)
    second = np.trapezoid(profile * t**2, t) if hasattr(np, "trapezoid") else np.trapz(profile * t**2, t)
    assert math.sqrt(second - mean**2) == pytest.approx(length, rel=1e-4)


def walk(steps: int) -> torch.Tensor:
    return torch.randn(steps, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)


def layer(value: torch.Tensor) -> nn.Linear:
    found = nn.Linear(2, 2).double()
    with torch.no_grad():
        found.weight.copy_(value[:4].view(2, 2))
        found.bias.copy_(value[4:])
    return found


def flat(state) -> torch.Tensor:
    return torch.cat([state["weight"].flatten(), state["bias"]])


@pytest.mark.parametrize("length", STORED_LENGTHS)
def test_an_average_is_the_brute_force_weighted_sum_of_all_weights(length):
    """Those of step k count (k/n)^(g+1) - ((k-1)/n)^(g+1), and where training began nothing."""
    path = walk(60)
    average = PowerAverage(layer(torch.full((6,), 1e9, dtype=torch.float64)), length)
    for step, value in enumerate(path, 1):
        average.update(layer(value), step)
    k, g = np.arange(1, 61), exponent(length)
    closed = (k / 60) ** (g + 1) - ((k - 1) / 60) ** (g + 1)
    np.testing.assert_allclose(brute_force_weights(length, 60, 60), closed, rtol=1e-9, atol=1e-15)
    expected = torch.from_numpy(closed) @ path
    torch.testing.assert_close(flat(average.module.state_dict()), expected, rtol=1e-10, atol=1e-10)


def snapshots(number: int) -> list[Profile]:
    steps = [round(STEPS * (i + 1) / number) for i in range(number)]
    return [Profile(length, step) for step in steps for length in STORED_LENGTHS]


@pytest.mark.parametrize("length", STORED_LENGTHS)
def test_a_stored_profile_is_reconstructed(length):
    stored = snapshots(16)
    found = reconstruction(stored, Profile(length, STEPS))
    assert found.error < 1e-3
    expected = np.array([float(one == Profile(length, STEPS)) for one in stored])
    np.testing.assert_allclose(found.weights, expected, atol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(("length", "error"), [(0.06, 0.02), (0.08, 0.02), (0.15, 0.03), (0.2, 0.04), (0.25, 0.1)])
def test_other_lengths_are_the_brute_force_average_nearly(length, error):
    """The sum of the stored averages' own weights of all steps against those of a training with that length."""
    stored = snapshots(16)
    found = reconstruction(stored, Profile(length, STEPS))
    parts = np.array([brute_force_weights(one.length, one.step) for one in stored])
    wanted = brute_force_weights(length)
    difference = np.linalg.norm(found.weights @ parts - wanted) / np.linalg.norm(wanted)
    assert difference < error
    assert found.error == pytest.approx(difference, abs=0.02)
    assert found.weights.sum() == pytest.approx(1, abs=1e-9)


def test_the_reconstruction_is_the_least_squares_solution():
    """No other weights of sum 1 have a smaller error, and more snapshots have none larger."""
    stored, wanted = snapshots(4), Profile(0.2, STEPS)
    found = reconstruction(stored, wanted)
    # By a fine grid of the profiles themselves.
    t = (np.arange(40_000) + 0.5) / 40_000 * STEPS

    def profile(one: Profile) -> np.ndarray:
        g = exponent(one.length)
        return np.where(t <= one.step, (g + 1) * t**g / one.step ** (g + 1), 0)

    basis, target = np.array([profile(one) for one in stored]), profile(wanted)

    def error(weights: np.ndarray) -> float:
        return float(np.linalg.norm(weights @ basis - target) / np.linalg.norm(target))

    assert found.error == pytest.approx(error(found.weights), rel=1e-3)
    draws = np.random.default_rng(0)
    for _ in range(50):
        moved = draws.normal(size=len(stored)) * 0.01
        assert error(found.weights + moved - moved.mean()) > error(found.weights)
    errors = [reconstruction(snapshots(number), wanted).error for number in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)


def test_snapshots_are_combined_by_name_and_what_never_moved_stays():
    path, stored = walk(STEPS), snapshots(8)
    states = []
    for one in stored:
        mean = torch.from_numpy(brute_force_weights(one.length, one.step)) @ path
        states.append({"moved": mean, "still": torch.full((3,), 0.7), "count": torch.tensor(one.step)})
    found = reconstruction(stored, Profile(0.15, STEPS))
    result = combined(states, found.weights.tolist())
    direct = torch.from_numpy(brute_force_weights(0.15)) @ path
    spread = float((path[-1] - direct).norm())
    assert float((result["moved"] - direct).norm()) < 0.05 * spread
    assert result["still"].dtype == torch.float32
    torch.testing.assert_close(result["still"], torch.full((3,), 0.7), rtol=0, atol=1e-6)
    assert int(result["count"]) == STEPS


@pytest.mark.parametrize("length", [0.0, -0.1, 0.29])
def test_a_length_that_no_average_has_is_refused(length):
    with pytest.raises(ValueError, match="no power-function average has the length"):
        exponent(length)
