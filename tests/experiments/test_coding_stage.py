"""The stage that writes latents with an entropy coder: planned on request, for first stages alone."""

from tiny_plans import changed, plan_of

from experiments.stage import targets
from experiments.stages import STAGES

ASKED = "metrics.coding=true"


def test_it_is_planned_on_request_and_changes_nothing_else():
    assert "coding" not in plan_of("ae.f=4").stages
    assert changed(plan_of("ae.f=4"), plan_of("ae.f=4", ASKED)) == {"coding"}


def test_pixels_are_not_coded():
    assert not changed(plan_of("ae.f=1"), plan_of("ae.f=1", ASKED))


def test_it_belongs_to_the_first_stage():
    plan = plan_of("ae.f=4", ASKED)
    assert "coding" in [stage.name for stage in plan.needed(targets(STAGES, "first_stage"))]
    other = plan_of("ae.f=4", ASKED, "seed=3", "metrics.extractor=inception", "latents.scale=none")
    assert plan.stages["coding"].identity == other.stages["coding"].identity
    assert plan.stages["coding"].identity != plan_of("ae.f=4", ASKED, "ae.seed=3").stages["coding"].identity
