"""Alignment of hidden features in a plan: off by default, an axis, counted in equal FLOPs, refused in a sentence."""

import pytest
from program import SHORT, run
from tiny_plans import changed, plan_of

from experiments import build
from experiments.budget import flops_per_training_image
from experiments.conditions import Vocabulary
from experiments.counts import count_denoiser
from ldm.errors import UserError

LITE = "trainer.representation.teacher=efficientnet_lite0"
TRAINED = {"diffusion", "progress", "samples", "evaluation"}


def test_it_is_the_model_s_and_its_options_are_inactive_where_it_is_off():
    assert changed(plan_of(), plan_of(LITE)) == TRAINED
    assert not changed(plan_of(), plan_of("trainer.representation.loss_weight=1", "trainer.representation.projector=8"))
    assert changed(plan_of(LITE), plan_of(LITE, "trainer.representation.loss_weight=1")) == TRAINED
    assert (plan_of().axes["representation"], plan_of(LITE).axes["representation"]) == (None, "efficientnet_lite0")
    assert "representation" not in plan_of().stages["diffusion"].settings["training"]


def test_a_rate_that_is_found_is_found_with_it():
    asked = ("trainer.learning_rate=auto",)
    assert changed(plan_of(*asked), plan_of(*asked, LITE)) == TRAINED | {"learning_rate"}


@pytest.mark.long
@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_equal_flops_count_teacher_and_projector(denoiser):
    asked = (f"denoiser={denoiser}", "ae.f=8", "trainer.budget=flops", "trainer.images=1000")
    plain, aligned = plan_of(*asked), plan_of(*asked, LITE)
    known = Vocabulary(3)
    steps = [count_denoiser(plan.config, (4, 4, 4), known).step.work for plan in (plain, aligned)]
    images = [plan.config["trainer"]["images"] for plan in (plain, aligned)]
    assert steps[1] > steps[0]
    assert images[1] * steps[1] == pytest.approx(images[0] * steps[0], rel=2 / images[1])
    assert flops_per_training_image(aligned.config, 8, known) == steps[1]


def test_a_teacher_must_not_measure_and_needs_its_weights():
    with pytest.raises(UserError, match="the teacher that the denoiser's features are aligned with, would also"):
        plan_of("trainer.representation.teacher=dinov2", "trainer.representation.weights=/w", "metrics.also.dinov2=/w")
    with pytest.raises(UserError, match=r"representation\.teacher=dinov2 has no weights: give a folder"):
        build.check_teacher_weights(plan_of("trainer.representation.teacher=dinov2").config)
    with pytest.raises(UserError, match=r"representation\.teacher=resnet is none of"):
        plan_of("trainer.representation.teacher=resnet")


def test_a_network_whose_features_are_aligned_is_not_compiled():
    assert not changed(plan_of(), plan_of("compile=never"))
    assert not changed(plan_of(LITE), plan_of(LITE, "compile=never"))
    with pytest.raises(UserError, match=r"compile=always: trainer\.representation\.teacher=efficientnet_lite0 aligns"):
        plan_of(LITE, "compile=always")


@pytest.mark.slow
@pytest.mark.program
@pytest.mark.parametrize("denoiser", ["unet", "dit"])
def test_a_cell_is_trained_with_it(tmp_path, denoiser):
    ended = run(tmp_path / "store", "ae.f=8", f"denoiser={denoiser}", LITE, *SHORT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
