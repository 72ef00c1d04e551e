"""trainer.learning_rate=auto: found by short trials of equal cost, recorded with all that was tried, trained with."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program import SHORT, copy_of, run, with_images_of
from safetensors.torch import load_file
from scipy import stats
from tiny_plans import FACTS, ON_REQUEST, changed, identities, plan_of

from experiments import runner
from experiments.compose import composed
from experiments.counts import Counts, DenoiserCounts, Step
from experiments.main import plan_of as plan_of_run
from experiments.stage import Machine, Plan
from experiments.stages import STAGES, learning_rate
from experiments.stages.learning_rate import Trial, choice, compare, images_aside, rates_at
from experiments.stages.training import DivergedError
from experiments.store import Store
from experiments.tracking import Tracker
from ldm.errors import UserError
from ldm.randomness import Noise
from ldm.training.diffusion import DiffusionTraining

AUTO = "trainer.learning_rate=auto"
BEHIND = {"diffusion", "progress", "samples", "evaluation"}


def test_a_cell_that_is_given_its_rate_has_no_trials() -> None:
    """And the identities that it had before there were any."""
    rule = ("trainer.learning_rate_candidates=[0.5,2]", "trainer.learning_rate_share=0.5")
    plan = plan_of("trainer.learning_rate=2e-3")
    assert not set(plan.stages) & ON_REQUEST
    assert identities(plan) == identities(plan_of("trainer.learning_rate=2e-3", *rule))
    assert not changed(plan_of(), plan_of(*rule))
    assert plan_of().stages["diffusion"].parents.keys() == {"latents"}


def test_trials_stand_between_the_latents_and_the_model() -> None:
    """The model's identity holds how its rate is found, not what is found."""
    plan = plan_of(AUTO)
    assert changed(plan_of(), plan) == {"learning_rate", *BEHIND}
    assert plan.stages["learning_rate"].parents.keys() == {"latents"}
    assert plan.stages["diffusion"].parents.keys() == {"latents", "learning_rate"}
    needed = [stage.name for stage in plan.needed(("diffusion",))]
    assert needed == ["first_stage", "latents", "learning_rate", "diffusion"]
    rule = ("trainer.learning_rate_candidates=[0.5,1]", "trainer.learning_rate_share=0.5")
    for setting in (*rule, "seed=1", "trainer.batch=8", "diffusion.target=v", "denoiser.num_res_blocks=2"):
        assert changed(plan, plan_of(AUTO, setting)) == {"learning_rate", *BEHIND}, setting
    assert changed(plan, plan_of(AUTO, "trainer.milestones=[1.0]")) == BEHIND
    assert plan.axes["learning_rate_rule"] == "tuned"
    assert plan.axes["learning_rate_factor"] is None
    assert plan_of().axes["learning_rate_rule"] is None


@pytest.mark.long
@pytest.mark.parametrize("f", [8, 32])
def test_every_trial_is_the_same_share_of_its_own_training(f: int) -> None:
    plan = plan_of(AUTO, f"ae.f={f}", scale="cpu")
    whole, trial = (plan.stages[name].settings["training"] for name in ("diffusion", "learning_rate"))
    assert trial["images"] == round(whole["images"] / 8)
    assert trial["warm_up"] == round(whole["warm_up"] / 8) == 250
    assert trial["learning_rate_candidates"] == [0.3, 1, 3]
    assert (trial["learning_rate"], trial["batch"]) == (3e-3, whole["batch"])


def test_the_small_denoiser_of_predictors_is_trained_at_the_scale_s_rate() -> None:
    predictors = "metrics.predictors=true"
    assert "predictors" not in changed(plan_of(predictors), plan_of(predictors, AUTO))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.learning_rate=best"], ["trainer.learning_rate=best", "auto"]),
        ([AUTO, "trainer.learning_rate_candidates=[1]"], ["learning_rate_candidates=[1]", "two or more"]),
        ([AUTO, "trainer.learning_rate_candidates=[2,2]"], ["learning_rate_candidates=[2, 2]", "different"]),
        ([AUTO, "trainer.learning_rate_candidates=[0,1]"], ["learning_rate_candidates=[0, 1]", "above 0"]),
        ([AUTO, "trainer.learning_rate_share=2"], ["trainer.learning_rate_share=2", "to 1"]),
        ([AUTO, "trainer.learning_rate_factor=2"], [AUTO, "trainer.learning_rate_factor=2", "leave out"]),
    ],
)
def test_what_cannot_be_tried_is_one_sentence(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        plan_of(*overrides)
    assert all(word in str(raised.value) for word in words), raised.value
    assert "\n" not in str(raised.value)


def test_a_model_that_is_given_has_no_rate_to_find() -> None:
    with pytest.raises(UserError, match=r"trainer.learning_rate=auto: the denoiser is given and not trained"):
        plan_of(AUTO, "denoiser=pretrained", "denoiser.path=/nowhere")


def test_too_few_images_to_set_some_aside_are_refused_where_they_are_known() -> None:
    with pytest.raises(UserError, match="at least 16, and data=emoji has 15"):
        plan_of(AUTO, facts=replace(FACTS, train_images=15))
    assert "learning_rate" in plan_of(AUTO, facts=replace(FACTS, train_images=16)).stages
    assert "learning_rate" in plan_of(AUTO, facts=replace(FACTS, train_images=0)).stages  # they could not be opened


@pytest.mark.parametrize(
    ("images", "total", "expected"), [(400, 4000, 32), (1500, 4000, 93), (250_000, 10**6, 256), (16, 64, 16)]
)
def test_what_is_set_aside_costs_a_part_of_a_trial(images: int, total: int, expected: int) -> None:
    assert images_aside(images, total) == expected


def test_candidates_are_multiples_of_both_rates_as_they_would_be_typed() -> None:
    assert rates_at(0.3, {"learning_rate": 1.5e-3, "matrix_learning_rate": 0}) == {"learning_rate": 4.5e-4}
    both = {"learning_rate": 1e-3, "matrix_learning_rate": 0.02}
    assert rates_at(3.0, both) == {"learning_rate": 3e-3, "matrix_learning_rate": 0.06}
    assert rates_at(1.0, both) == both


SHARED = np.random.default_rng(0).normal(1, 0.3, 100)
"""What the images owe to themselves, whatever the rate."""


def tried(losses: Mapping[float, float | None]) -> list[Trial]:
    """Trials whose mean losses are these above what the images owe to themselves, and which deviate by 0.01."""
    draw = np.random.default_rng(1)
    own = [0.01 * stats.zscore(draw.normal(size=100)) for _ in losses]
    return [
        Trial(factor, None if mean is None else SHARED + mean + noise)
        for (factor, mean), noise in zip(losses.items(), own, strict=True)
    ]


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ({0.3: 0.0, 1: 0.1, 3: 0.2}, 0.3),  # the lowest, though all intervals overlap
        ({0.3: 0.2, 1: 0.1, 3: 0.0}, 3),
        ({0.3: 0.2, 1: 0.0005, 3: 0.0}, 1),  # not told apart from the lowest, and nearer to 1
        ({0.3: 0.0005, 1: 0.1, 3: 0.0}, 3),  # 3 is nearer to 1 than 0.3, as a ratio
        ({0.25: 0.0, 0.5: 0.0005, 3: 0.1}, 0.5),
        ({0.3: 0.1, 1: 0.0, 3: None}, 1),
        ({0.3: 0.1, 1: None, 3: None}, 0.3),
        ({0.3: None, 1: None, 3: None}, None),
    ],
)
def test_the_lowest_loss_wins_and_among_those_not_told_apart_the_nearest_to_the_default(losses, taken) -> None:
    assert choice(tried(losses)) == taken
    assert choice(tried(losses)[::-1]) == taken


def test_of_two_that_are_as_near_the_lower_loss_wins() -> None:
    assert choice(tried({0.5: 0.0005, 1: 0.1, 2: 0.0})) == 2
    assert choice(tried({0.5: 0.0, 1: 0.1, 2: 0.0005})) == 0.5


def test_intervals_are_student_s_and_those_of_differences_hold_together() -> None:
    """Against scipy, with the level of each of two differences at 97.5 %."""
    trials = tried({0.3: 0.02, 1: 0.0, 3: 0.01})
    first, lowest, last = compare(trials)
    for trial, told in zip(trials, (first, lowest, last), strict=True):
        assert (told["ci_low"], told["ci_high"]) == pytest.approx(_interval(trial.losses, 0.95))
    for trial, told in ((trials[0], first), (trials[2], last)):
        difference = trial.losses - trials[1].losses
        assert (told["above_ci_low"], told["above_ci_high"]) == pytest.approx(_interval(difference, 0.975))
        assert told["above"] == pytest.approx(difference.mean())
        assert told["is_apart"] is (told["above_ci_low"] > 0)
    assert "above" not in lowest


def _interval(values, level) -> tuple[float, float]:
    low, high = stats.t.interval(level, len(values) - 1, values.mean(), stats.sem(values))
    return float(low), float(high)


def test_describe_counts_all_trials_and_what_compares_them() -> None:
    plan = plan_of(AUTO, "ae.f=1")
    settings = plan.stages["learning_rate"].settings
    counts = Counts(None, DenoiserCounts(0, 0, 1.0, Step(3.0, 0)), 1, 0.0, 64, Machine("cpu", None, 1, None, 1.0))  # type: ignore[arg-type]
    found = learning_rate.estimate(settings, counts)
    assert found is not None
    assert (found.images, found.work) == (3 * 16, 3 * (16 * 3 + 16 * 8))


NOTHING_TRACKED = {"name": "none", "mode": "disabled", "project": "p", "entity": None}
CELL = ("ae=identity", "ae.f=1", "denoiser=dit", *SHORT)  # of pixels the quicker denoiser
MUON = "trainer.matrix_learning_rate=0.002"


@pytest.fixture(scope="module")
def latents(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the latents of pixels alone."""
    store = with_images_of(swept_store, tmp_path_factory.mktemp("latents"))
    done = run(store, *CELL, "until=latents")
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def record_of(store: Path, stage: str) -> dict[str, Any]:
    [path] = store.glob(f"{stage}/*/record.json")
    return dict(json.loads(path.read_text()))


@pytest.mark.long
@pytest.mark.program
def test_a_run_trains_with_the_rate_that_it_finds_bit_for_bit_as_if_it_were_given(
    latents: Path, tmp_path: Path
) -> None:
    """Of both optimisers. All that was tried and what it cost stands in the record."""
    store = copy_of(latents, tmp_path)
    done = run(store, *CELL, MUON, AUTO, "until=diffusion")
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_of(store, "learning_rate")
    facts = record["facts"]
    assert [(item["factor"], item["learning_rate"]) for item in facts["tried"]] == [(0.3, 3e-4), (1, 1e-3), (3, 3e-3)]
    assert len({item["loss"] for item in facts["tried"]}) == 3
    assert facts["learning_rate"] == pytest.approx(facts["factor"] * 1e-3)
    assert facts["matrix_learning_rate"] == pytest.approx(facts["factor"] * 2e-3)
    assert facts["is_at_the_end"] is (facts["factor"] != 1)
    assert (facts["n"], facts["images"], record["cost"]["images"]) == (16, 16, 48)
    trained = record_of(store, "diffusion")
    assert trained["facts"]["learning_rate"] == facts["learning_rate"]
    # Three trials of a quarter of the training's steps, and 128 calls of the network each of at least a quarter step.
    assert 0.75 * trained["cost"]["flops"] < record["cost"]["flops"] < 10 * trained["cost"]["flops"]
    assert not list(store.glob("learning_rate/*/parts"))
    [found] = store.glob("diffusion/*/weights.safetensors")
    given = (f"trainer.learning_rate={facts['learning_rate']}",)
    given += (f"trainer.matrix_learning_rate={facts['matrix_learning_rate']}",)
    done = run(store, *CELL, *given, "until=diffusion")
    assert done.returncode == 0, done.stdout + done.stderr
    [other] = set(store.glob("diffusion/*/weights.safetensors")) - {found}
    one, same = load_file(found), load_file(other)
    assert all(torch.equal(one[name], same[name]) for name in one.keys() | same.keys())


def stage_run(store: Path, *overrides: str) -> Mapping[str, Any]:
    """Runs the stage in this process, and returns its facts."""
    plan, opened = _plan(store, *overrides)
    planned = plan.stages["learning_rate"]
    runner.run_stages(STAGES, plan, [planned], opened, Tracker(store, NOTHING_TRACKED, ""))
    record = opened.record("learning_rate", planned.identity)
    assert record is not None
    return record.facts


def _plan(store: Path, *overrides: str) -> tuple[Plan, Store]:
    opened = Store(store)
    values = composed([*CELL, AUTO, *overrides, "scale=tiny", "device=cpu", f"store={store}"])
    return plan_of_run(values, opened), opened


FOUR_STEPS = ("trainer.learning_rate_share=1", "trainer.checkpoint_seconds=0", "trainer.learning_rate_candidates=[1,3]")


@pytest.mark.long
@pytest.mark.program
def test_a_trial_that_was_killed_goes_on_to_the_same_numbers(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second trial, behind its third step: the first is not trained again."""
    whole, killed = (copy_of(latents, tmp_path / name) for name in ("whole", "killed"))
    facts = stage_run(whole, *FOUR_STEPS)
    _counted(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        stage_run(killed, *FOUR_STEPS)
    assert next(killed.glob("learning_rate/*/parts/training 3.0/checkpoint.pt")).exists()
    assert not list(killed.glob("learning_rate/*/parts/training 1.0"))
    monkeypatch.undo()
    rates = _counted(monkeypatch, math.inf)
    assert stage_run(killed, *FOUR_STEPS) == facts
    assert list(rates) == [3e-3]


def _counted(monkeypatch: pytest.MonkeyPatch, most: float) -> list[float]:
    """The rates of the steps from here on, which end with Ctrl-C before one more than `most` is made."""
    rates: list[float] = []
    advance = DiffusionTraining.advance

    def counted(training: DiffusionTraining) -> Any:
        if len(rates) >= most:
            raise KeyboardInterrupt
        rates.append(training.settings.learning_rate)
        return advance(training)

    monkeypatch.setattr(DiffusionTraining, "advance", counted)
    return rates


@pytest.mark.long
@pytest.mark.program
def test_trials_begin_alike_and_see_the_same_images_but_none_of_those_set_aside(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[float, list[torch.Tensor]] = {}
    begun: dict[float, torch.Tensor] = {}
    aside: set[int] = set()
    advance, judged = DiffusionTraining.advance, learning_rate.loss_over_levels

    def watched(training: DiffusionTraining) -> Any:
        rate, drawn = training.settings.learning_rate, training.data.latents
        begun.setdefault(rate, torch.cat([p.detach().flatten() for p in training.trained.parameters()]))
        places = training.data.places  # type: ignore[attr-defined]

        def latents_of(indices: torch.Tensor, noise: Noise) -> torch.Tensor:
            seen.setdefault(rate, []).append(places[indices])
            return drawn(indices, noise)

        with monkeypatch.context() as patch:
            patch.setattr(training.data, "latents", latents_of)
            return advance(training)

    def remembered(model: Any, latents: Any, indices: list[int], *rest: Any) -> Any:
        aside.update(indices)
        return judged(model, latents, indices, *rest)

    monkeypatch.setattr(DiffusionTraining, "advance", watched)
    monkeypatch.setattr(learning_rate, "loss_over_levels", remembered)
    stage_run(copy_of(latents, tmp_path), *FOUR_STEPS)
    one, other = (torch.cat(seen[rate]) for rate in (1e-3, 3e-3))
    assert torch.equal(one, other)
    assert torch.equal(*begun.values())
    assert len(aside) == 16
    assert not aside & set(one.tolist())
    assert len(set(one.tolist())) > 30


@pytest.mark.long
@pytest.mark.program
@pytest.mark.parametrize("share", [0.125, pytest.param(1, marks=pytest.mark.slow)])
def test_a_candidate_that_diverges_loses_and_the_run_goes_on(latents: Path, tmp_path: Path, share: float) -> None:
    """Whether it shows in the last of its steps, or only in the loss of its weights (one step)."""
    store = copy_of(latents, tmp_path)
    facts = stage_run(store, "trainer.learning_rate_candidates=[1,1e33]", f"trainer.learning_rate_share={share}")
    assert [item["diverged"] for item in facts["tried"]] == [False, True]
    assert facts["tried"][1]["loss"] is None
    assert (facts["factor"], facts["learning_rate"]) == (1, 1e-3)


@pytest.mark.long
@pytest.mark.program
def test_where_all_diverge_the_run_fails_in_one_sentence(latents: Path, tmp_path: Path) -> None:
    store = copy_of(latents, tmp_path)
    with pytest.raises(DivergedError) as raised:
        stage_run(store, "trainer.learning_rate_candidates=[1e32,1e33]")
    assert "no candidate of trainer.learning_rate=auto trains (1e+29, 1e+30)" in str(raised.value)
    assert "trainer.learning_rate_candidates" in str(raised.value)
    assert not list(store.glob("learning_rate/*/record.json"))
