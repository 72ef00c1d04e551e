"""How often noise levels are drawn and which are visited: off by default, axes of their own, refused in a sentence."""

import math

import pytest
from tiny_plans import changed, plan_of

from experiments import build
from ldm.diffusion.times import UNIFORM, LogitNormalTimes
from ldm.errors import UserError

TRAINED = {"diffusion", "progress", "samples", "evaluation"}
LOGIT_NORMAL = "diffusion.times=logit_normal"


def test_the_density_of_times_is_the_model_s_and_inactive_where_it_is_uniform() -> None:
    assert changed(plan_of(), plan_of(LOGIT_NORMAL)) == TRAINED
    assert not changed(plan_of(), plan_of("diffusion.times_mean=1", "diffusion.times_std=3"))
    assert changed(plan_of(LOGIT_NORMAL), plan_of(LOGIT_NORMAL, "diffusion.times_std=0.8")) == TRAINED
    found = plan_of(LOGIT_NORMAL, "diffusion.times_mean=-0.5", "diffusion.times_std=2", "diffusion.times_unbiased=true")
    assert build.times(found.stages["diffusion"].settings["diffusion"]) == LogitNormalTimes(-0.5, 2, unbiased=True)
    assert build.times(plan_of().stages["diffusion"].settings["diffusion"]) == UNIFORM
    assert (found.axes["times"], plan_of().axes["times"]) == ("logit-normal(-0.5, 2) unbiased", None)


def test_latent_spaces_are_looked_at_alike_whatever_the_times() -> None:
    asked = "metrics.predictors=true"
    assert "predictors" not in changed(plan_of(asked), plan_of(asked, LOGIT_NORMAL))


@pytest.mark.parametrize(("f", "channels"), [(1, 3), (4, 3), (8, 4)])
def test_auto_dim_is_the_root_of_the_latent_s_numbers_over_4096(f: int, channels: int) -> None:
    found = plan_of(f"ae.f={f}", "diffusion.shift=auto_dim")
    assert found.config["diffusion"]["shift"] == math.sqrt(channels * (32 // f) ** 2 / 4096)
    assert found.axes["shift"] == "auto_dim"


def test_training_and_sampling_are_shifted_apart() -> None:
    sampled = plan_of("sampler.shift=auto_dim")
    assert changed(plan_of(), sampled) == {"samples", "evaluation"}
    assert (sampled.axes["shift"], sampled.axes["sampler_shift"]) == ("none", "auto_dim")
    back = plan_of("diffusion.shift=auto_dim", "sampler.shift=1")
    assert changed(plan_of("diffusion.shift=auto_dim"), back) == {"samples", "evaluation"}
    assert back.axes["sampler_shift"] == "none"


def test_the_shift_of_the_training_given_to_the_sampler_is_no_other_cell() -> None:
    assert not changed(plan_of(), plan_of("sampler.shift=1"))
    both = plan_of("diffusion.shift=auto_dim", "sampler.shift=auto_dim")
    assert not changed(plan_of("diffusion.shift=auto_dim"), both)
    assert both.axes["sampler_shift"] is None


def test_samples_of_another_size_are_shifted_by_their_own_numbers() -> None:
    larger = plan_of("sampler.shift=auto_dim", "samples.height=64", "samples.width=64")
    assert larger.config["sampler"]["shift"] == 2 * plan_of("sampler.shift=auto_dim").config["sampler"]["shift"]


def test_the_grid_of_a_shifted_sampler_has_as_many_levels() -> None:
    plan = plan_of("sampler.shift=0.3", "sampler.steps=7")
    schedule = build.schedule(plan.config["diffusion"])
    plain, moved = (build.time_grid_of(each.config["sampler"], schedule) for each in (plan_of("sampler.steps=7"), plan))
    assert len(moved) == len(plain) == 8
    assert (moved[1:-1] < plain[1:-1]).all()


def test_the_error_at_noise_levels_is_measured_on_request_and_changes_nothing_else() -> None:
    asked = "metrics.level_error=true"
    assert changed(plan_of(), plan_of(asked)) == {"level_error"}
    assert "level_error" not in plan_of(asked, "trainer.milestones=[]").stages


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("diffusion.times=lognormal", "did you mean 'logit_normal'"),
        ("diffusion.times_std=0", "above 0"),
        ("diffusion.shift=auto_dims", "number above 0 or auto or auto_dim"),
        ("sampler.shift=-1", "number above 0 or auto or auto_dim"),
    ],
)
def test_what_is_no_choice_is_one_sentence(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(override)
