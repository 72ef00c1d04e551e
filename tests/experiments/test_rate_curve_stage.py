"""The stage that measures first stages over the widths of their posteriors: in every plan that judges one with any."""

import pytest
from tiny_plans import changed, plan_of

from experiments.stage import targets
from experiments.stages import STAGES


@pytest.mark.parametrize(
    ("overrides", "is_planned"), [(("ae.f=4",), True), (("ae.f=1",), False), (("ae=vq", "ae.f=4"), False)]
)
def test_it_is_planned_where_latents_are_draws(overrides, is_planned):
    assert ("rate_curve" in plan_of(*overrides).stages) == is_planned


def test_it_belongs_to_the_first_stage_and_nothing_hangs_on_it():
    plan = plan_of("ae.f=4")
    assert "rate_curve" in [stage.name for stage in plan.needed(targets(STAGES, "first_stage"))]
    assert not [stage.name for stage in plan.stages.values() if "rate_curve" in stage.parents]
    for setting in ("seed=3", "metrics.extractor=inception", "latents.scale=none"):
        assert "rate_curve" not in changed(plan, plan_of("ae.f=4", setting))
    for setting in ("ae.seed=3", "metrics.n_samples=20", "metrics.seed=1"):
        assert "rate_curve" in changed(plan, plan_of("ae.f=4", setting))
