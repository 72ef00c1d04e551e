"""The table of samplers: every entry keeps the contract, and a new one with an option of its own needs no more."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from fixed_network import RecordedNoise, starting_noise
from torch import Tensor

from ldm.diffusion import Schedule, make_schedule
from ldm.errors import UserError
from ldm.parts import defaults_of, option, options_of
from ldm.samplers import (
    SAMPLERS,
    asked_levels,
    build_sampler,
    inactive_options,
    own_options,
    sample,
    sampler_axes,
    time_grid,
)

SCHEDULE = make_schedule("scaled_linear")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_entry_is_built_from_its_defaults_and_ends_at_a_constant_estimate(name):
    part = SAMPLERS[name]
    assert part.title
    assert set(defaults_of(part)) == set(options_of(part))
    sampler = build_sampler(name, SCHEDULE, {**defaults_of(part), "steps": 9, "another": "setting"})
    assert isinstance(sampler, part)
    times = time_grid("trailing", 9)
    *_, end = sample(sampler, lambda x, t: torch.full_like(x, 0.25), starting_noise(), times, RecordedNoise())
    torch.testing.assert_close(end, torch.full_like(end, 0.25), rtol=0, atol=1e-6)
    assert len(asked_levels(sampler, times)) >= 9


def test_titles_tell_samplers_apart():
    assert len({part.title for part in SAMPLERS.values()}) == len(SAMPLERS)


def test_options_of_others_are_inactive():
    assert (own_options("ddim", {"eta": 1, "variance": "?"}), inactive_options("ddim")) == ({"eta": 1.0}, {"variance"})
    assert (own_options("plms", {"eta": 1}), inactive_options("plms")) == ({}, {"eta", "variance"})


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("dimm", {}, "sampler=dimm is none of ddim, ddpm, .*, did you mean 'ddim'"),
        ("ddim", {"eta": 1.5}, r"sampler\.eta=1\.5 is no number from 0 to 1"),
        ("ddim", {"eta": "much"}, r"sampler\.eta=much is no number from 0 to 1"),
        ("ddpm", {"variance": "learned"}, r"sampler\.variance=learned is none of small, large"),
    ],
)
def test_what_cannot_be_built_is_refused(name, settings, said):
    with pytest.raises(UserError, match=said):
        build_sampler(name, SCHEDULE, settings)


@dataclass(frozen=True)
class Halving:
    """Goes a share of the way to the estimate in each step."""

    title: ClassVar[str] = "Halving"

    schedule: Schedule
    share: float = option(0.5, above=0, high=1, help="of the way that a step goes")

    def step(self, denoise: Any, x_t: Tensor, t: Tensor, s: Tensor, state: Any, noise: Any) -> tuple[Tensor, Any]:
        return x_t + self.share * (denoise(x_t, t) - x_t), None


def test_a_new_sampler_needs_a_class_and_its_line(monkeypatch):
    before = sampler_axes()
    assert before == ("steps", "eta", "variance", "spacing", "final", "clip")
    monkeypatch.setitem(SAMPLERS, "halving", Halving)
    assert sampler_axes() == (*before, "share")
    assert inactive_options("halving") == {"eta", "variance"}
    assert "share" in inactive_options("ddim")
    halving = build_sampler("halving", SCHEDULE, {"share": 0.25, "eta": 0.0})
    times = time_grid("trailing", 3)
    *_, end = sample(halving, lambda x, t: torch.ones_like(x), torch.zeros(1, 1), times, RecordedNoise())
    assert float(end) == pytest.approx(1 - 0.75**3)
    with pytest.raises(UserError, match=r"sampler\.share=0 is no number above 0 and up to 1"):
        build_sampler("halving", SCHEDULE, {"share": 0})
