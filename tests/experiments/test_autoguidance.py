"""guidance.guide=milestone: the same training, earlier, as guide; for every model, with and without a condition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from program import copy_of, run
from tiny_plans import changed, plan_of

from experiments.budget import network_calls
from experiments.generate import Generator, Guide
from ldm.conditioning import Unconditional
from ldm.diffusion import DenoisingModel, Guidance, make_schedule
from ldm.errors import UserError
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale

EARLY = ("trainer.milestones=[0.25,1.0]", "precision=fp32")
GUIDED = ("guidance.guide=milestone", "guidance.scale=2")


def test_the_guide_is_of_the_samples_alone_and_an_axis() -> None:
    plan = plan_of(*GUIDED)
    assert changed(plan_of("guidance.scale=2"), plan) == {"samples", "evaluation"}
    assert changed(plan, plan_of(*GUIDED, "guidance.milestone=0.5")) == {"samples", "evaluation"}
    assert not changed(plan, plan_of(*GUIDED, "guidance.milestone=0.25"))  # the nearest to a sixteenth
    assert (plan.axes["guidance_guide"], plan_of().axes["guidance_guide"]) == ("milestone at 0.25", None)
    assert network_calls(plan.config) == network_calls(plan_of("guidance.scale=2").config) == 4


def test_a_guide_of_no_guidance_is_none() -> None:
    """And classifier-free guidance has the identities that it had before there was another."""
    assert not changed(plan_of("guidance.scale=1"), plan_of("guidance.guide=milestone", "guidance.scale=1"))
    assert not changed(plan_of("guidance.scale=2"), plan_of("guidance.scale=2", "guidance.milestone=0.5"))
    assert set(plan_of("guidance.scale=2").config["guidance"]) == {"scale", "interval", "rescale"}


def test_it_needs_neither_a_condition_nor_a_dropped_one() -> None:
    for model in ("conditioning=none", "conditioning.dropout=0"):
        with pytest.raises(UserError):
            plan_of(model, "guidance.scale=2")
        assert plan_of(model, *GUIDED).config["guidance"]["milestone"] == 0.25


def test_its_scale_is_found_as_any_other() -> None:
    plan = plan_of("guidance.guide=milestone", "guidance.scale=auto", "conditioning=none")
    assert plan.stages["tuning"].settings["guidance"]["milestone"] == 0.25


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("guidance.guide=milestone",), "needs guidance.scale"),
        ((*GUIDED, "trainer.milestones=[1]"), "needs a milestone of this training before its end"),
        ((*GUIDED, "guidance.milestone=0.3"), r"guidance.milestone=0.3 is no .* before the end: 0.25, 0.5"),
        ((*GUIDED, "guidance.milestone=1"), r"guidance.milestone=1 is no .* before the end"),
        (("guidance.guide=milestones",), "did you mean 'milestone'"),
    ],
)
def test_what_cannot_guide_is_one_sentence(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(*overrides)


class Constant(torch.nn.Module):
    """Thinks that every image is of one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x, index, context=None, concat=None):
        return torch.full_like(x, self.value)


def test_a_generator_with_a_guide_leads_away_from_it() -> None:
    """1 + (1 - 0.25) of what the model and its guide think; the model alone without guidance."""
    schedule = make_schedule("scaled_linear")
    scale = LatentScale(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    model, guide = (DenoisingModel(Constant(value), schedule, "x0") for value in (1.0, 0.25))
    guided = Guide(guide, Unconditional())
    source = Generator(model, Unconditional(), IdentityFirstStage(), scale, (3, 4, 4), (-9.0, 9.0), "cpu", guide=guided)
    x, t = torch.zeros(2, 3, 4, 4), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(source.denoise({}, 2, Guidance(2.0))(x, t), torch.full_like(x, 1.75))
    assert torch.equal(source.denoise({}, 2, Guidance(1.0))(x, t), torch.full_like(x, 1.0))


@pytest.mark.slow
def test_samples_of_a_run_are_led_away_from_its_milestone(swept_store: Path, tmp_path: Path) -> None:
    """For a model without a condition, too: other samples, twice the calls, the scale that tuning found."""
    store = copy_of(swept_store, tmp_path)
    for overrides in (("guidance.scale=1",), GUIDED, ("guidance.guide=milestone", "guidance.scale=auto")):
        done = run(store, *EARLY, "conditioning=none", "guidance.candidates=[1,2]", *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for path in store.glob("samples/*/record.json"):
        record = json.loads(path.read_text())
        guidance = record["config"]["guidance"]
        found[guidance["scale"], guidance.get("milestone")] = (
            record["facts"],
            np.load(path.parent / "features.npz")["features"],
        )
    (plain, _), (guided, features), (tuned, features_tuned) = found[1, None], found[2, 0.25], found["auto", 0.25]
    assert guided["nfe"] == 2 * plain["nfe"]
    expected = found[(2, 0.25) if tuned["guidance_scale"] == 2 else (1, None)][1]
    np.testing.assert_array_equal(features_tuned, expected)
    assert not np.array_equal(features, found[1, None][1])
