"""guidance.scale=auto: found on other samples, with the same budget for each cell, and said what was tried."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from program import SHORT, copy_of, latest_stages, run
from tiny_plans import FACTS, ON_REQUEST, changed, identities, plan_of, stage_named

from experiments.conditions import DataFacts
from experiments.resolve import FEWEST_TO_TUNE
from experiments.saved_samples import pixels_hash
from experiments.stages.tuning import may_lie_beyond
from ldm.errors import UserError
from ldm.metrics.distribution import KINDS, kernel_distance
from ldm.metrics.features import Features

AUTO = "guidance.scale=auto"


def test_a_cell_that_is_given_its_guidance_has_no_tuning() -> None:
    """And the identities that it had before there was any."""
    plan, other = plan_of("guidance.scale=2"), plan_of("guidance.scale=2", "guidance.candidates=[1,5]")
    assert not set(plan.stages) & ON_REQUEST
    assert identities(plan) == identities(other)
    assert not changed(plan_of(), plan_of("guidance.tuning_samples=64"))


def test_tuning_stands_between_the_model_and_its_samples() -> None:
    """One for each sampler, its candidates and budget part of it."""
    plan = plan_of(AUTO)
    assert changed(plan_of(), plan) == {"tuning", "samples", "evaluation"}
    assert set(plan.stages["samples"].parents) == {"diffusion", "probe", "tuning"}
    needed = [stage.name for stage in plan.needed(("samples",))]
    assert needed == ["reference", "first_stage", "latents", "diffusion", "probe", "tuning", "samples"]
    behind = {"tuning", "samples", "evaluation"}
    filling = (AUTO, "conditioning=inpaint", "conditioning.dropout=0.1")
    filled = [plan_of(*filling, f"samples.paste_known={pasted}") for pasted in (False, True)]
    assert changed(*filled) == behind
    for setting in ("sampler.steps=3", "guidance.candidates=[1,2]", "guidance.tuning_samples=64", "sampler.seed=1"):
        assert changed(plan, plan_of(AUTO, setting)) == behind, setting


def test_kept_samples_are_not_those_of_another_judge_s_tuning() -> None:
    """Which may have found another scale; samples of a scale that was given are anybody's."""

    def pixels(*overrides: str) -> str:
        stage = plan_of("samples.keep=images", *overrides).stages["samples"]
        return pixels_hash(stage_named("samples"), stage.settings, stage.parents)

    other = "metrics.seed=1"
    assert pixels("guidance.scale=2") == pixels("guidance.scale=2", other)
    assert pixels(AUTO) != pixels(AUTO, other)


def test_every_cell_of_a_scale_has_the_same_budget() -> None:
    """Whatever its first stage, sampler or number of steps."""
    cells = [(), ("ae.f=8",), ("ae=vq",), ("sampler=heun",), ("sampler.steps=9",)]
    found = [plan_of(AUTO, *cell).stages["tuning"].settings["guidance"] for cell in cells]
    assert all(settings == found[0] for settings in found)
    assert found[0]["tuning_samples"] == 32


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["guidance.scale=best"], ["guidance.scale=best", "auto"]),
        ([AUTO, "guidance.candidates=[2]"], ["guidance.candidates=[2]", "two or more"]),
        ([AUTO, "guidance.candidates=[2,2]"], ["guidance.candidates=[2, 2]", "different"]),
        ([AUTO, "guidance.candidates=null"], ["guidance.candidates=null", "list of numbers"]),
        ([AUTO, "guidance.candidates=[1,-2]"], ["guidance.candidates=[1, -2]", "from 0 on"]),
        (["guidance.scale=-1"], ["guidance.scale=-1", "from 0 on"]),
        (["guidance.scale=nan"], ["guidance.scale=nan", "from 0 on"]),
        ([AUTO, "guidance.tuning_samples=8"], ["guidance.tuning_samples=8", "16 or more"]),
        ([AUTO, "conditioning=none"], ["guidance.scale=auto", "needs a condition"]),
        ([AUTO, "samples.height=64", "samples.width=64"], ["guidance.scale=auto", "64x64"]),
        (["trainer.learning_rate_factor=0"], ["trainer.learning_rate_factor=0", "above 0"]),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(overrides: list[str], words: list[str]) -> None:
    """Before any training."""
    with pytest.raises(UserError) as caught:
        plan_of(*overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "few", "enough", "word"),
    [
        ("heldout", replace(FACTS, heldout_images=15), replace(FACTS, train_images=3), "held-out"),
        ("train", replace(FACTS, train_images=15), replace(FACTS, heldout_images=3), "training"),
    ],
)
def test_too_few_reference_images_are_said_before_any_training(
    reference: str, few: DataFacts, enough: DataFacts, word: str
) -> None:
    """Of the split that samples are compared with; what needs no tuning is planned all the same."""
    settings = f"metrics.reference={reference}"
    with pytest.raises(UserError, match=f"at least 16 {word} images .* has 15;"):
        plan_of(AUTO, settings, facts=few)
    assert "tuning" not in plan_of(settings, facts=few).stages
    assert "tuning" in plan_of(AUTO, settings, facts=enough).stages
    assert KINDS["kd"].images == FEWEST_TO_TUNE


@pytest.mark.parametrize(
    ("best", "candidates", "beyond"),
    [
        (2, [2, 4, 8], True),
        (4, [2, 4, 8], False),
        (8, [2, 4, 8], True),
        (1, [1, 2, 4], False),
        (0.5, [0.5, 1, 2], True),
        (1, [0.5, 1], True),
    ],
)
def test_an_optimum_at_either_end_may_lie_beyond_it(best: float, candidates: list[float], beyond: bool) -> None:
    """But for no guidance at all, from which there is nowhere lower to go."""
    assert may_lie_beyond(best, candidates) is beyond


def test_a_factor_of_the_learning_rate_is_nothing_but_the_rate() -> None:
    """Twice 1e-3 is 2e-3, to the identity too; the axis tells the cells of a check apart."""
    twice = plan_of("trainer.learning_rate_factor=2")
    assert twice.stages["diffusion"].settings["training"]["learning_rate"] == 2e-3
    assert not changed(twice, plan_of("trainer.learning_rate=2e-3"))
    assert changed(twice, plan_of()) == {"diffusion", "progress", "samples", "evaluation"}
    assert (twice.axes["learning_rate_factor"], plan_of().axes["learning_rate_factor"]) == (2, 1)


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell that was tuned and looked at for training images."""
    found = copy_of(swept_store, tmp_path_factory.mktemp("tuned"))
    done = run(found, AUTO, *SHORT, "guidance.candidates=[1,2,6]", "metrics.memorisation=true")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def _record(store: Path, stage: str) -> dict:
    """Of the cell that was tuned."""
    [tuning] = store.glob("tuning/*")
    found = [json.loads(path.read_text()) for path in store.glob(f"{stage}/*/record.json")]
    [record] = [record for record in found if tuning.name in (record["identity"], record["parents"].get("tuning"))]
    return record


@pytest.mark.long
def test_the_least_distance_wins_and_the_samples_are_made_with_it(store: Path) -> None:
    """All that was tried stands in the record."""
    tuned, samples = _record(store, "tuning")["facts"], _record(store, "samples")["facts"]
    assert [item["scale"] for item in tuned["tried"]] == [1, 2, 6]
    assert tuned["scale"] == min(tuned["tried"], key=lambda item: item["value"])["scale"] == samples["guidance_scale"]
    assert (tuned["images"], tuned["n"]) == (96, 32)
    assert samples["nfe"] == (2 if samples["guidance_scale"] == 1 else 4)
    assert len({item["value"] for item in tuned["tried"]}) == 3
    # Blocks of the same samples and of the same reference images: what one owes to them the other scales owe too.
    blocks = [[np.array(part) for part in item["deviations"]] for item in tuned["tried"][:2]]
    assert [len(part) for part in blocks[0]] == [len(part) for part in blocks[1]]
    assert all(np.corrcoef(one, other)[0, 1] > 0.95 for one, other in zip(*blocks, strict=True))


@pytest.mark.long
def test_the_samples_that_are_reported_are_those_of_the_same_scale_given(store: Path) -> None:
    """To the last bit; and none of those that the scale was found with."""
    scale = _record(store, "tuning")["facts"]["scale"]
    done = run(store, f"guidance.scale={scale}", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    identities = _record(store, "samples")["identity"], latest_stages(store)["samples"]
    assert len(set(identities)) == 2
    one, other = (np.load(store / "samples" / identity / "features.npz")["features"] for identity in identities)
    np.testing.assert_array_equal(one, other)
    [reference] = store.glob("reference/*/reference.npz")
    reported = kernel_distance(one, Features.load(reference).features)[0]
    tried = {item["scale"]: item["value"] for item in _record(store, "tuning")["facts"]["tried"]}
    assert abs(reported / tried[scale] - 1) > 1e-4
