"""What shapes latents in training, as plans, costs and sentences know it."""

from types import SimpleNamespace

import pytest
import torch
from tiny_plans import changed, job_for, plan_of

from experiments import artifacts, build
from experiments.counts import count_first_stage
from experiments.forecast import _made_up_images
from experiments.stages import first_stage
from experiments.stages.first_stage import flops_of_training, training_of
from ldm.errors import UserError
from ldm.training.checkpoint import save_weights
from ldm.training.flops import count_flops

BOTH = ("ae.equivariance.rotation=true", "ae.equivariance.scaling=true")
BESIDE = ("ae.downsampling.loss_weight=0.25",)
STEPS = 4
QUICK = (
    *("ae.loss.perceptual=none", "ae.loss.discriminator.start=0.5"),
    *(f"ae.training.images={2 * STEPS}", "ae.training.batch=2"),
)


def test_what_is_off_is_in_no_identity_and_what_is_on_is_an_axis():
    plain, off = plan_of(), plan_of("ae.equivariance.probability=0.3")
    assert not changed(plain, off)
    assert plain.axes["equivariance"] is plain.axes["downsampling"] is None
    on, beside = plan_of(*BOTH), plan_of(*BESIDE)
    assert {"first_stage", "latents", "diffusion"} <= changed(plain, on) & changed(plain, beside)
    assert "reference" not in changed(plain, on)
    assert (on.axes["equivariance"], on.axes["downsampling"]) == ("rotation+scaling", None)
    assert (beside.axes["equivariance"], beside.axes["downsampling"]) == (None, "0.25")
    assert changed(on, plan_of(*BOTH, "ae.equivariance.probability=0.3"))
    assert not changed(plan_of("ae.f=1"), plan_of("ae.f=1", *BOTH, *BESIDE)), "pixels have no latents to shape"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("ae.f=32", BOTH[0]), "ae.equivariance.rotation turns latents, and these have a side of 1"),
        (("ae.f=32", BOTH[1]), "scales latents to a smaller side, and these have a side of 1: choose a smaller ae.f"),
        (("ae.f=16", *BOTH), "these have a side of 2"),
        (("ae.f=32", *BESIDE), "halves latents, and these have a side of 1"),
        (("ae.nested=[2,4]", "ae.channels_used=3"), "ae.channels_used=3 is none of ae.nested=[2, 4]"),
        (("ae.nested=[2,4]", "ae.channels=3"), "ae.nested=[2, 4] ends with all channels, and ae.channels=3"),
        (("ae.nested=[4]",), "ae.nested=[4] is not a list of two or more rising numbers"),
        (("ae=fsq", "ae.nested=[2,4]"), "no first channels can be cut from ae=fsq; use ae=kl"),
        (("ae.channels=3", "ae.channels_used=4"), "ae.channels_used=4 and ae.channels=3 are two numbers"),
        (("ae.equivariance.probability=0",), "ae.equivariance.probability=0 is no number above 0 and up to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(overrides, words):
    with pytest.raises(UserError) as refusal:
        plan_of(*overrides)
    assert words in str(refusal.value)


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides", [pytest.param((), marks=pytest.mark.slow), (*BOTH, *BESIDE)], ids=["plain", "shaped"]
)
def test_the_cost_of_a_training_is_the_sum_of_its_steps(overrides):
    plan = plan_of("ae.f=4", *QUICK, *overrides)
    settings = plan.stages["first_stage"].settings
    trained = training_of(settings, _made_up_images(32), "cpu")
    kinds = {trained.kind(step) for step in range(STEPS)}
    assert len(kinds) > (2 if overrides else 1)
    steps = [count_flops(trained.advance) for _ in range(STEPS)]
    assert flops_of_training(training_of(settings, _made_up_images(32), "cpu")) == sum(steps)
    forecast = count_first_stage(plan.config["ae"], 32).step
    assert forecast is not None
    # As if the discriminator's share were the same at every side.
    assert forecast.work * 2 * STEPS == pytest.approx(sum(steps), rel=0.2 if overrides else 1e-6)


NESTED = ("ae.f=4", "ae.nested=[2,3,5]")


def test_one_training_serves_all_prefixes_of_nested_channels():
    plans = {used: plan_of(*NESTED, f"ae.channels_used={used}") for used in (2, 3, 5)}
    trained = {plan.stages["nested"].identity for plan in plans.values()}
    assert len(trained) == 1
    assert plans[2].stages["nested"].settings["channels"] == 5
    for used, plan in plans.items():
        assert (
            plan.config["ae"]["channels"]
            == plan.axes["channels"]
            == plan.stages["first_stage"].settings["channels"]
            == used
        )
        assert plan.axes["nested"] == "2,3,5"
        assert plan.stages["first_stage"].parents == {"nested": plan.stages["nested"].identity}
        assert "channels_used" not in plan.config["ae"]
    for name in ("first_stage", "latents", "diffusion", "evaluation"):
        assert len({plan.stages[name].identity for plan in plans.values()}) == 3
    assert not changed(plans[5], plan_of(*NESTED))
    alone = plan_of("ae.f=4", "ae.channels=2")
    assert "nested" not in alone.stages
    assert not changed(alone, plan_of("ae.f=4", "ae.channels_used=2")), "without nesting it is the number of channels"


@pytest.mark.long
def test_a_first_stage_is_cut_from_the_nested_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(*NESTED, "ae.channels_used=2")
    whole = build.first_stage(plan.stages["nested"].settings, 32).eval()
    for name in ("nested", "first_stage"):
        (tmp_path / name).mkdir()
    save_weights(tmp_path / "nested" / "weights.safetensors", whole.state_dict())
    images = SimpleNamespace(resolution=32)
    outcome = first_stage.run(job_for(plan, "first_stage", images, {"images_seen": 64}))
    assert (outcome.facts["channels"], outcome.facts["images_seen"], outcome.cost.flops) == (2, 64, 0)
    used = artifacts.first_stage_of(job_for(plan, "latents", images, {}))
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(used.encode(image).mean, whole.encode(image).mean[:, :2])
    assert count_first_stage(plan.config["ae"], 32).latent_shape == (2, 8, 8)


@pytest.mark.long
def test_alignment_is_an_axis_and_its_teacher_must_not_measure():
    plain, aligned = plan_of(), plan_of("ae.alignment.teacher=efficientnet_lite0")
    assert (plain.axes["alignment"], aligned.axes["alignment"]) == (None, "efficientnet_lite0")
    assert "first_stage" in changed(plain, aligned)
    assert not changed(plain, plan_of("ae.alignment.loss_weight=0.3"))
    with pytest.raises(UserError, match="dinov2, the teacher that its latents are aligned with, would also be an ext"):
        plan_of("ae.alignment.teacher=dinov2", "ae.alignment.weights=/w", "metrics.also.dinov2=/w")
    quick = plan_of("ae.f=4", *QUICK, "ae.loss.discriminator.start=1", "ae.alignment.teacher=efficientnet_lite0")
    training = training_of(quick.stages["first_stage"].settings, _made_up_images(32), "cpu")
    assert count_first_stage(quick.config["ae"], 32).step.work * 2 == count_flops(training.advance)
