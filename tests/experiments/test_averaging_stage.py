"""trainer.ema_length: averages of any length after one training, given or found on samples that are not reported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from program import SHORT, copy_of, run
from safetensors.torch import load_file, save_file
from tiny_plans import FACTS, changed, job_for, plan_of

from experiments.stage import Parent
from experiments.stages import averaging
from experiments.stages.diffusion import snapshot_file, snapshot_steps
from ldm.errors import UserError
from ldm.training.power_ema import STORED_LENGTHS, Profile, exponent

GIVEN = "trainer.ema_length=0.1"
FOUND = "trainer.ema_length=auto"
BEHIND = {"averaging", "samples", "evaluation"}


def test_no_average_is_made_and_none_is_stored_unless_one_is_asked_for() -> None:
    assert "averaging" not in plan_of().stages
    assert not changed(plan_of(), plan_of("trainer.ema_snapshots=4", "trainer.ema_lengths=[0.1,0.2]"))
    assert snapshot_steps(plan_of().stages["diffusion"].settings["training"]) == []


def test_all_lengths_share_one_training() -> None:
    assert changed(plan_of(GIVEN), plan_of("trainer.ema_length=0.2")) == BEHIND
    assert changed(plan_of(GIVEN), plan_of(FOUND)) == BEHIND
    asked = (GIVEN, "trainer.ema_lengths=[0.1,0.2]")
    assert not changed(plan_of(GIVEN), plan_of(*asked))
    assert changed(plan_of(FOUND), plan_of(FOUND, "trainer.ema_lengths=[0.1,0.2]")) == BEHIND
    assert (plan_of(GIVEN).axes["ema_length"], plan_of().axes["ema_length"]) == (0.1, None)


def test_what_looks_at_the_model_looks_at_the_average() -> None:
    plan = plan_of(GIVEN, "metrics.likelihood=true", "guidance.scale=auto", "metrics.sampler_check=true")
    for name in ("likelihood", "tuning", "samples"):
        assert "averaging" in plan.stages[name].parents, name
    assert "averaging" in {stage.name for stage in plan.needed(("sampler_check",))}
    assert plan.stages["averaging"].parents == {"diffusion": plan.stages["diffusion"].identity}
    assert set(plan_of(FOUND).stages["averaging"].parents) == {"diffusion", "reference"}


def test_trials_of_learning_rates_do_not_depend_on_it() -> None:
    tried = "trainer.learning_rate=auto"
    assert "learning_rate" not in changed(plan_of(tried), plan_of(tried, GIVEN))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("trainer.ema_length=0.3",), "up to 0.28"),
        (("trainer.ema_length=best",), "or auto"),
        ((FOUND, "trainer.ema_lengths=[0.1]"), "two or more different numbers"),
        ((FOUND, "trainer.ema_lengths=[0.1,0.3]"), "up to 0.28"),
        ((GIVEN, "trainer.ema_snapshots=1"), "from 2 to"),
        ((FOUND, "metrics.progress_samples=8"), "compares samples with .* 16 or more"),
    ],
)
def test_what_cannot_be_averaged_is_one_sentence(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_of(*overrides)


def test_too_few_reference_images_are_said_before_any_training() -> None:
    with pytest.raises(UserError, match=r"at least 16 held-out images .* has 15;"):
        plan_of(FOUND, facts=replace(FACTS, heldout_images=15))


def test_the_stage_writes_the_brute_force_average_of_a_training(tmp_path: Path) -> None:
    """Of made-up weights at 200 steps: the average by its own recursion, and the one from the snapshots of others."""
    plan = plan_of("trainer.ema_length=0.15", "trainer.images=3200")
    steps = snapshot_steps(plan.stages["diffusion"].settings["training"])
    assert (len(steps), steps[-1]) == (16, 200)
    path = torch.randn(200, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)

    def average(length: float, step: int) -> torch.Tensor:
        k, g = torch.arange(step + 1, dtype=torch.float64) / step, exponent(length)
        return (k ** (g + 1)).diff() @ path[:step]

    for step in steps:
        for length in STORED_LENGTHS:
            file = tmp_path / "diffusion" / snapshot_file(Profile(length, step))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"w": average(length, step).float(), "still": torch.ones(3), "n": torch.tensor([step])}, file)
    job = job_for(plan, "averaging", None, {})
    parent = job.parents["diffusion"]
    parents = {"diffusion": Parent(parent.record, parent.settings, (tmp_path / "diffusion").joinpath)}
    outcome = averaging.run(replace(job, folder=tmp_path, parents=parents))
    found, wanted = load_file(tmp_path / "weights.safetensors"), average(0.15, 200)
    assert float((found["w"].double() - wanted).norm()) < 0.05 * float((path[-1] - wanted).norm())
    torch.testing.assert_close(found["still"], torch.ones(3), rtol=0, atol=1e-6)
    assert found["n"].tolist() == [200]
    assert outcome.facts["error"] < 0.03
    assert outcome.facts["length"] == 0.15
    assert not outcome.rows


@pytest.mark.slow
def test_a_run_finds_the_length_whose_samples_are_nearest(swept_store: Path, tmp_path: Path) -> None:
    """And samples with the weights of that length given, to the last bit; the training is done once."""
    store = copy_of(swept_store, tmp_path)
    done = run(store, *SHORT, FOUND, "trainer.ema_lengths=[0.05,0.2]")
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = store.glob("averaging/*/record.json")
    record = json.loads(path.read_text())
    length = record["facts"]["length"]
    rows = {row["metric"]: row["value"] for row in record["rows"]}
    near = {key: value for key, value in rows.items() if key != "ema_length"}
    assert len(near) == 2
    assert min(near, key=near.get).startswith(f"ema_{length:g}_")
    assert not list(path.parent.glob("candidate*"))
    before = {p.parent for p in store.glob("samples/*/record.json")}
    tuned = [
        p
        for p in before
        if json.loads((p / "record.json").read_text())["parents"].get("averaging") == record["identity"]
    ]
    done = run(store, *SHORT, f"trainer.ema_length={length}")
    assert done.returncode == 0, done.stdout + done.stderr
    [new] = {p.parent for p in store.glob("samples/*/record.json")} - before
    one, other = (np.load(folder / "features.npz")["features"] for folder in (tuned[0], new))
    np.testing.assert_array_equal(one, other)
    assert len(list(store.glob("diffusion/*/snapshots"))) == 1
