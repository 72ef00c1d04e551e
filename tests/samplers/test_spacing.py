"""The grids of noise levels: against the reference's and diffusers' arithmetic, and their ends."""

import numpy as np
import pytest
import torch

from ldm.errors import UserError
from ldm.samplers import step_indices, time_grid
from ldm.samplers.spacing import FINALS, SPACINGS

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
@pytest.mark.parametrize("spacing", SPACINGS)
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
    assert step_indices("trailing", 10, total=100).tolist() == list(range(9, 100, 10))
    assert time_grid("leading", 4, "clean", total=100).tolist() == pytest.approx([0.76, 0.51, 0.26, 0.01, 0.0])


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(UserError, match=rf"sampler\.steps={steps} is no whole number from 1 to 1000"):
        step_indices("uniform", steps)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="spacing=cubic is none of uniform, quadratic, leading, trailing"):
        step_indices("cubic", 10)
    with pytest.raises(UserError, match="final=noisy is none of clean, alpha0"):
        time_grid("uniform", 10, "noisy")
