"""What shapes latents in training, as plans, costs and sentences know it."""

import pytest
from tiny_plans import changed, plan_of

from experiments.counts import count_first_stage
from experiments.forecast import _made_up_images
from experiments.stages.first_stage import flops_of_training, training_of
from ldm.errors import UserError
from ldm.training.flops import count_flops

BOTH = ("ae.equivariance.rotation=true", "ae.equivariance.scaling=true")
BESIDE = ("ae.downsampling.loss_weight=0.25",)
QUICK = ("ae.loss.perceptual=none", "ae.loss.discriminator.start=0.5", "ae.training.images=96")


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
        (("ae.equivariance.probability=0",), "ae.equivariance.probability=0 is no number above 0 and up to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(overrides, words):
    with pytest.raises(UserError) as refusal:
        plan_of(*overrides)
    assert words in str(refusal.value)


@pytest.mark.parametrize("overrides", [(), (*BOTH, *BESIDE), ("ae=vq", *BOTH)], ids=["plain", "kl", "vq"])
def test_the_cost_of_a_training_is_the_sum_of_its_steps(overrides):
    plan = plan_of("ae.f=4", *QUICK, *overrides)
    settings = plan.stages["first_stage"].settings
    trained = training_of(settings, _made_up_images(32), "cpu")
    kinds = [trained.kind(step) for step in range(12)]
    assert len(set(kinds)) > (2 if overrides else 1)
    steps = [count_flops(trained.advance) for _ in range(12)]
    if "ae=vq" not in overrides:  # whose first step looks for codes to start from
        assert flops_of_training(training_of(settings, _made_up_images(32), "cpu")) == sum(steps)
    rehearsed = flops_of_training(training_of(settings, _made_up_images(32), "cpu"))
    assert rehearsed == pytest.approx(sum(steps), rel=0.02)
    forecast = count_first_stage(plan.config["ae"], 32).step
    assert forecast is not None
    assert forecast.work * 96 == pytest.approx(sum(steps), rel=0.15)  # the discriminator's share as if at any side
