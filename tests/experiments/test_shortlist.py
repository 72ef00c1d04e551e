"""Predict, prune, prove: which first stages of a sweep diffusion is trained on, and that the choice is kept."""

import json

import numpy as np
import pytest
from program import SHORT, records, run
from tiny_plans import plan_of

from experiments import shortlist
from experiments.shortlist import AUTO, Rule, Study, as_cut, check, chosen, of_trained, rule_of, settled, studies
from experiments.stages import STAGES
from experiments.store import Store
from experiments.sweep import Point, as_sweep, distinct
from ldm.errors import UserError
from ldm.records import Protocol, ResultRow, StageRecord

ASKED = {"keep": 2, "controls": 3, "predictor": AUTO, "seed": 0}
PREDICTED = {f"stage{i:02d}": float((7 * i) % 12) for i in range(12)}
"""A predictor of twelve first stages, 0 to 11 in another order than their names'."""


def study(n=16, flip=False, seed=0):
    """First stages of two f, whose distance follows `right` within f, and `by_f` over f alone."""
    random = np.random.default_rng(seed)
    factors, right = np.repeat([4, 8], n // 2), random.normal(size=n)
    outcomes = right + 0.1 * random.normal(size=n) + 5 * factors
    predicted = {"right": -right if flip else right, "by_f": factors + 0.01 * random.normal(size=n)}
    return Study(factors, {**predicted, "noise": random.normal(size=n)}, outcomes)


NAMES = {"right": None, "by_f": None, "noise": None, "error": False, "accuracy": True}


def test_the_best_by_the_predictor_are_kept_and_controls_are_others():
    choice = chosen("x", Rule("error", lower_is_better=True), PREDICTED, ASKED)
    assert [PREDICTED[first] for first in choice.kept] == [0, 1]
    assert len(set(choice.controls)) == 3
    assert not set(choice.controls) & set(choice.kept)
    assert set(choice.pruned) == set(PREDICTED) - set(choice.trained)
    highest = chosen("x", Rule("accuracy", lower_is_better=False), PREDICTED, ASKED)
    assert [PREDICTED[first] for first in highest.kept] == [11, 10]


def test_controls_are_a_function_of_the_seed_and_every_other_may_be_one():
    drawn = [chosen("x", Rule("error", True), PREDICTED, {**ASKED, "seed": seed}).controls for seed in range(200)]
    assert drawn[7] == chosen("x", Rule("error", True), PREDICTED, {**ASKED, "seed": 7}).controls
    counts = {first: sum(first in own for own in drawn) for first, value in PREDICTED.items() if value > 1}
    assert min(counts.values()) > 30  # of 60 to be expected
    assert sum(counts.values()) == 600


def test_the_predictor_is_the_one_that_studies_support_best():
    assert rule_of([study()], AUTO, NAMES, within_f=True).predictor == "right"
    over_all = rule_of([study()], AUTO, NAMES)
    assert over_all.predictor == "by_f"
    assert over_all.lower_is_better
    assert not rule_of([study(flip=True)], AUTO, NAMES, within_f=True).lower_is_better


def test_a_predictor_that_is_named_needs_support_or_a_better_end_of_its_own():
    assert rule_of([study()], "right", NAMES, within_f=True).ranking.n == 16
    for name, lower in (("error", True), ("accuracy", False)):
        assert rule_of([study()], name, NAMES) == Rule(name, lower)
    with pytest.raises(UserError, match="no study in this store says which end of noise is better"):
        rule_of([study()], "noise", NAMES)
    with pytest.raises(UserError, match=r"shortlist.predictor=eror is none .* did you mean 'error'"):
        rule_of([], "eror", NAMES)


def test_without_support_nothing_is_chosen_by_itself():
    with pytest.raises(UserError, match="no study in this store supports a predictor: run"):
        rule_of([], AUTO, NAMES)
    few = Study(np.array([4, 4, 4]), {"right": np.arange(3.0)}, np.arange(3.0))
    with pytest.raises(UserError, match="no study in this store supports a predictor"):
        rule_of([few], AUTO, NAMES)


def test_luck_is_rare_however_many_predictors_are_looked_at():
    """Of twenty that say nothing, Bonferroni lets one through in 5 % of stores."""
    random, lucky = np.random.default_rng(1), 0
    for _ in range(60):
        noise = {f"noise{i}": random.normal(size=18) for i in range(20)}
        lucky += bool(shortlist._rules([Study(np.full(18, 4), noise, random.normal(size=18))], noise, False))
    assert lucky / 60 < 0.15


GRID = [
    (f"ae.f={f}", f"ae.seed={seed}", f"sampler.steps={steps}") for f in (4, 8) for seed in (0, 1, 2) for steps in (2, 3)
]


def points_of(*asked, grid=GRID):
    cells = [(*cell, "metrics.predictors=true", "shortlist.keep=2", "shortlist.controls=1", *asked) for cell in grid]
    return distinct([Point(cell, plan_of(*cell)) for cell in cells])


PROTOCOL = Protocol("generation", 32, "heldout", "h", 32, 32, "r", "efficientnet_lite2_colour", 32, "w", "p", "b", 0)


def finish(store, points, stage, value):
    """Writes a made-up record of a stage for every point, `value(axes)` its row."""
    for point in points:
        planned = point.plan.stages[stage]
        if not store.is_complete(stage, planned.identity):
            name = "small_denoiser_error" if stage == "predictors" else "kd_efficientnet_lite2_colour"
            row = ResultRow(name, value(point.plan.axes), 32, PROTOCOL.id, higher_is_better=False)
            store.finish(StageRecord(stage, planned.identity, planned.settings, planned.parents, rows=(row,)))


def predicted(axes):
    return axes["f"] + axes["ae_seed"] / 10


@pytest.fixture(scope="module")
def points():
    return points_of("shortlist.predictor=small_denoiser_error")


def test_a_choice_is_kept_and_repeated_whatever_the_store_learns_since(tmp_path, points):
    store = Store(tmp_path)
    finish(store, points, "predictors", predicted)
    choice = settled(points, store)
    assert [choice.predicted[first] for first in choice.kept] == [4.0, 4.1]
    assert (len(choice.predicted), len(choice.controls), choice.correlation) == (6, 1, None)
    assert settled(points, Store(tmp_path)) == choice
    finish(store, points, "evaluation", lambda axes: -predicted(axes))
    store.write_sweep(as_sweep("a", "now", "run", points, "evaluation", STAGES))
    assert [len(known.outcomes) for known in studies(store)] == [6]
    assert settled(points, store) == choice
    [path] = (tmp_path / "shortlists").glob("*.json")
    path.write_text(path.read_text().replace("small", "smell"))
    with pytest.raises(UserError, match=r"cannot be read .* remove it to choose anew"):
        settled(points, store)


def test_studies_are_what_finished_cells_tell(tmp_path, points):
    """At the most steps that all have, one value a first stage; cells without samples are none."""
    store = Store(tmp_path)
    finish(store, points, "predictors", predicted)
    finish(store, points[:-1], "evaluation", lambda axes: axes["steps"] + predicted(axes))
    store.write_sweep(as_sweep("a", "now", "run", points, "evaluation", STAGES))
    [found] = studies(store)
    assert sorted(found.outcomes) == pytest.approx([6.0, 6.1, 6.2, 10.0, 10.1, 10.2])
    assert found.factors.tolist() == [4, 4, 4, 8, 8, 8]
    assert found.predicted["small_denoiser_error"] == pytest.approx(found.outcomes - 2)
    assert rule_of([found], AUTO, {"small_denoiser_error": None}).lower_is_better


def test_the_sweep_asks_for_no_samples_of_what_was_pruned(tmp_path, points):
    store = Store(tmp_path)
    finish(store, points, "predictors", predicted)
    choice = settled(points, store)
    trained = of_trained(points, choice)
    assert len(trained) == 3 * 2
    whole = as_sweep("a", "now", "run", points, "first_stage", STAGES)
    cut = as_cut(whole, as_sweep("a", "now", "run", trained, "evaluation", STAGES))
    assert [cell.cell for cell in cut.cells] == [point.plan.cell for point in points]
    measured = {cell.stages["first_stage"] for cell in cut.cells if "evaluation" in cell.stages}
    assert measured == set(choice.trained)
    assert all("predictors" in cell.stages for cell in cut.cells)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("metrics.predictors=false",), "add metrics.predictors=true"),
        (("shortlist.keep=5",), "leave none of this sweep's 6 first stages out"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path, asked, said):
    with pytest.raises(UserError, match=said):
        check(points_of(*asked), Store(tmp_path))


def test_it_cannot_be_swept(tmp_path, points):
    with pytest.raises(UserError, match="shortlist cannot be swept"):
        check([*points, *points_of("shortlist.seed=1", grid=GRID[:1])], Store(tmp_path))


def test_a_store_without_a_study_is_refused_before_anything_runs_but_where_the_choice_stands(tmp_path, points):
    store, asked = Store(tmp_path), points_of()
    check(points, store)  # which trust a predictor
    with pytest.raises(UserError, match="no study in this store supports a predictor: run"):
        check(asked, store)
    store.write_shortlist(chosen(shortlist._name(asked), Rule("error", lower_is_better=True), PREDICTED, ASKED))
    check(asked, store)


def test_it_changes_no_identity(points):
    plain = plan_of(*GRID[0], "metrics.predictors=true")
    assert {name: stage.identity for name, stage in points[0].plan.stages.items()} == {
        name: stage.identity for name, stage in plain.stages.items()
    }


CALL = (
    *("-m", "ae.f=4,8", "ae.seed=0,1", *SHORT, "metrics.predictors=true", "shortlist.keep=1", "shortlist.controls=1"),
    "shortlist.predictor=small_denoiser_error",
)


@pytest.mark.slow
@pytest.mark.program
def test_a_call_trains_on_what_it_chose_and_a_second_one_on_nothing_more(tmp_path):
    store = tmp_path / "store"
    done = run(store, *CALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 first stages ranked by small_denoiser_error, the lowest first (taken on trust" in done.stdout
    made = records(store)
    assert {stage: sum(name == stage for name, _ in made) for stage in ("first_stage", "predictors", "diffusion")} == {
        "first_stage": 4, "predictors": 4, "diffusion": 2,
    }  # fmt: skip
    [path] = (store / "shortlists").glob("*.json")
    choice = json.loads(path.read_text())
    least = min(choice["predicted"], key=choice["predicted"].get)
    assert choice["kept"] == [least]
    again = run(store, *CALL)
    assert again.returncode == 0
    assert ", 0 computed now" in again.stdout
    assert records(store) == made
    whole = run(store, *CALL[:6])
    assert whole.returncode == 0
    assert len(list(store.glob("diffusion/*/record.json"))) == 4


def test_a_first_stage_alone_may_be_repeated_without_a_choice(points):
    """As the command does that is said of a stage that failed."""
    assert shortlist.chooses(points)
    assert not shortlist.chooses(points[:2])
    assert len({point.plan.stages["first_stage"].identity for point in points[:2]}) == 1
    assert not shortlist.chooses(distinct([Point(cell, plan_of(*cell)) for cell in GRID[:1]]))
