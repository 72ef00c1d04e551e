"""A sweep of jobs that wait for one another, with launchers that only keep books."""

import shlex
from collections import Counter

import pytest
from tiny_plans import plan_of

from experiments.stage import targets
from experiments.stages import STAGES
from experiments.store import Store
from experiments.sweep import Point, as_sweep, distinct, in_waves, missing, run_missing, shell_word
from ldm.records import StageRecord

TARGETS = targets(STAGES, "evaluation")
GRID = [(f"ae={ae}", f"ae.f={f}", f"sampler.steps={steps}") for ae in ("kl", "vq") for f in (1, 4) for steps in (2, 3)]


class Bookkeeper:
    """A launcher that completes every stage but those that `fails` or `dies` names by (stage, f, regulariser)."""

    def __init__(self, store, points, fails=(), dies=()):
        self.store, self.points, self.fails, self.dies = store, {p.overrides: p for p in points}, fails, dies
        self.waves = []

    def __call__(self, jobs):
        wave = []
        for *overrides, target, identity in jobs:
            name = target.removeprefix("sweep.target=")
            plan = self.points[tuple(overrides)].plan
            stage, axes = plan.stages[name], plan.axes
            assert identity == f"sweep.identity='{stage.identity}'"
            wave.append((name, stage.identity))
            assert all(self.store.is_complete(parent, identity) for parent, identity in stage.parents.items())
            if (name, axes["f"], axes["regulariser"]) in self.fails:
                self.store.fail(name, stage.identity, ValueError("no luck"), "the sweep's command")
            elif (name, axes["f"], axes["regulariser"]) not in self.dies:
                self.store.finish(StageRecord(name, stage.identity, stage.settings, stage.parents))
        self.waves.append(wave)


@pytest.fixture(scope="module")
def points():
    return distinct([Point(overrides, plan_of(*overrides)) for overrides in GRID])


def test_pixel_space_is_computed_once_for_all_regularisers(points):
    assert len(GRID) == 8
    assert [(p.plan.axes["f"], p.plan.axes["regulariser"], p.plan.axes["steps"]) for p in points] == [
        (1, "identity", 2), (1, "identity", 3), (4, "kl", 2), (4, "kl", 3), (4, "vq", 2), (4, "vq", 3),
    ]  # fmt: skip


def test_points_that_differ_in_what_is_measured_of_the_model_are_kept():
    """Though they share their samples."""
    levels = [("metrics.likelihood=true", f"metrics.likelihood_levels={n}") for n in (50, 100)]
    points = distinct([Point(overrides, plan_of(*overrides)) for overrides in levels])
    assert len({point.plan.stages["likelihood"].identity for point in points}) == len(points) == 2
    assert len({point.plan.stages["evaluation"].identity for point in points}) == 1


def test_every_identity_is_launched_once_and_beside_all_that_does_not_wait_for_it(tmp_path, points):
    store = Store(tmp_path)
    books = Bookkeeper(store, points)
    assert run_missing(points, TARGETS, store, in_waves(books)) == []
    assert [{name for name, _ in wave} for wave in books.waves] == [
        {"reference", "first_stage", "probe"}, {"reconstruction", "rate_curve", "latents"}, {"gaussian", "diffusion"},
        {"progress", "samples"}, {"evaluation"},
    ]  # fmt: skip
    launched = [job for wave in books.waves for job in wave]
    assert len(launched) == len(set(launched))
    assert set(launched) == {(s.name, s.identity) for p in points for s in p.plan.stages.values()}
    assert Counter(name for name, _ in launched) == {
        "reference": 1, "first_stage": 3, "reconstruction": 3, "rate_curve": 1, "latents": 3, "gaussian": 3,
        "diffusion": 3,
        "progress": 3, "probe": 1, "samples": 6, "evaluation": 6,
    }  # fmt: skip
    assert run_missing(points, TARGETS, store, in_waves(lambda jobs: pytest.fail("nothing is missing"))) == []


def test_a_launcher_that_takes_the_order_is_told_what_each_job_waits_for(tmp_path, points):
    store, launched = Store(tmp_path), []
    books = Bookkeeper(store, points)

    def in_order(jobs):
        assert not launched
        launched.extend(jobs)
        for number, job in enumerate(jobs):
            assert all(before < number for before in job.after)
            assert job.may_begin()  # what it waits for has been made by now
            books([job.overrides])

    assert run_missing(points, TARGETS, store, in_order) == []
    made = [wave[0] for wave in books.waves]
    assert Counter(made) == Counter({(s.name, s.identity): 1 for p in points for s in p.plan.stages.values()})
    stages = {stage.identity: stage for point in points for stage in point.plan.stages.values()}
    for (_, identity), job in zip(made, launched, strict=True):
        assert {made[number] for number in job.after} == set(stages[identity].parents.items())
    assert any(job.after for job in launched)


def test_what_has_the_longest_way_to_its_end_begins_first(tmp_path, points):
    """A first stage that takes no time comes first where the longest training waits for it."""
    plain, timed = (Bookkeeper(Store(tmp_path / name), points) for name in ("plain", "timed"))
    run_missing(points, TARGETS, plain.store, in_waves(plain))
    models = [job for job in plain.waves[2] if job[0] == "diffusion"]
    run_missing(points, TARGETS, timed.store, in_waves(timed), {models[1]: 7.0, models[2]: 9.0})
    others = [job for job in plain.waves[2] if job not in models[1:]]
    assert timed.waves[2] == [models[2], models[1], *others]
    first_stages = [job for job in plain.waves[0] if job[0] == "first_stage"]
    assert [job for job in timed.waves[0] if job[0] == "first_stage"] == first_stages[::-1]
    assert [sorted(wave) for wave in timed.waves] == [sorted(wave) for wave in plain.waves]


def test_a_launcher_that_raises_in_one_wave_is_handed_the_next(tmp_path, points, capsys):
    """The store tells that all was made."""
    store = Store(tmp_path)
    books = Bookkeeper(store, points)

    def raises(jobs):
        books(jobs)
        raise OSError("the line was cut")

    assert run_missing(points, TARGETS, store, in_waves(raises)) == []
    assert capsys.readouterr().out.count("the launcher reports: OSError: the line was cut") == len(books.waves) > 3


def test_one_more_number_of_steps_is_one_sample_set_a_model(tmp_path, points):
    store = Store(tmp_path)
    run_missing(points, TARGETS, store, in_waves(Bookkeeper(store, points)))
    grid = [(ae, f, "sampler.steps=4") for ae, f, steps in GRID if steps == "sampler.steps=2"]
    more = distinct([Point(overrides, plan_of(*overrides)) for overrides in grid])
    jobs = missing([*points, *more], TARGETS, store)
    assert Counter(planned.name for planned, _ in jobs) == {"samples": 3, "evaluation": 3}
    books = Bookkeeper(store, [*points, *more])
    assert run_missing([*points, *more], TARGETS, store, in_waves(books)) == []
    assert [{name for name, _ in wave} for wave in books.waves] == [{"samples"}, {"evaluation"}]


@pytest.mark.parametrize("how", ["fails", "dies"])
def test_a_lost_stage_stops_only_what_hangs_on_it(tmp_path, points, how):
    store = Store(tmp_path)
    books = Bookkeeper(store, points, **{how: [("latents", 4, "vq")]})
    [lost] = run_missing(points, TARGETS, store, in_waves(books))
    assert lost.stage.name == "latents"
    assert lost.reason.startswith("ValueError: no luck" if how == "fails" else "its process was killed 3 times")
    assert store.failure("latents", lost.stage.identity).error == lost.reason  # which ledger and table show
    assert lost.command == "python run.py ae=vq ae.f=4 sampler.steps=2"
    hanging = {"latents", "gaussian", "diffusion", "progress", "samples", "evaluation"}
    for point in points:
        for stage in point.plan.stages.values():
            is_lost = point.plan.axes["regulariser"] == "vq" and stage.name in hanging
            assert store.is_complete(stage.name, stage.identity) is not is_lost
    tried = {job for wave in books.waves for job in wave}
    for name in hanging - {"latents"}:
        assert (name, lost.point.plan.stages[name].identity) not in tried

    again = Bookkeeper(store, points)
    assert run_missing(points, TARGETS, store, in_waves(again)) == []
    assert {name for wave in again.waves for name, _ in wave} == hanging


def test_what_hangs_on_a_failed_stage_is_not_handed_over_when_another_was_killed(tmp_path, points):
    """To Slurm, which asks no more whether a job may begin."""
    store, handed_over = Store(tmp_path), []
    books = Bookkeeper(store, points, fails=[("latents", 4, "vq")], dies=[("latents", 4, "kl")])

    def once(jobs):
        handed_over.append({job.overrides[-2:] for job in jobs})
        in_waves(books)(jobs)
        books.dies = []

    [lost] = run_missing(points, TARGETS, store, once)
    assert (lost.stage.name, lost.point.plan.axes["regulariser"]) == ("latents", "vq")
    again = {name.removeprefix("sweep.target=") for name, _ in handed_over[1]}
    assert again == {"latents", "gaussian", "diffusion", "progress", "samples", "evaluation"}
    of_vq = {stage.identity for p in points if p.plan.axes["regulariser"] == "vq" for stage in p.plan.stages.values()}
    shared = {stage.identity for p in points if p.plan.axes["regulariser"] == "kl" for stage in p.plan.stages.values()}
    assert not {f"sweep.identity='{one}'" for one in of_vq - shared} & {one for _, one in handed_over[1]}


def test_until_bounds_what_is_run_and_what_is_written_down(tmp_path, points):
    store = Store(tmp_path)
    books = Bookkeeper(store, points)
    run_missing(points, targets(STAGES, "latents"), store, in_waves(books))
    expected = {"reference", "first_stage", "reconstruction", "latents", "gaussian"}
    assert {name for wave in books.waves for name, _ in wave} == expected | {"rate_curve"}
    sweep = as_sweep("s", "now", "command", points, "latents", STAGES)
    have_posteriors = [point.plan.axes["regulariser"] == "kl" for point in points]
    assert [set(cell.stages) for cell in sweep.cells] == [
        expected | ({"rate_curve"} if has_posterior else set()) for has_posterior in have_posteriors
    ]
    assert all(set(sweep.stages[name].parents) <= expected | {"nested"} for name in expected)


@pytest.mark.parametrize(
    "override",
    [
        "ae.f=4",
        "data.path=/my photos/a b",
        "data.path='/my photos'",
        "trainer.milestones=[0.5,1.0]",
        "x=$HOME;`y`",
        'p="q"',
        "a=b\\c!*?",
    ],
)
def test_an_override_can_be_pasted_into_a_shell(override):
    assert shlex.split(shell_word(override)) == [override]


def test_plain_overrides_are_pasted_as_they_are():
    assert [shell_word(word) for word in ("ae.f=4", "+experiment=x")] == ["ae.f=4", "+experiment=x"]


@pytest.mark.parametrize("kills", [1, 2, 3])
def test_a_job_that_was_killed_is_tried_three_times_and_no_more(points, tmp_path, kills):
    """Whatever kills it is over after so many kills."""
    store = Store(tmp_path)
    launcher = Bookkeeper(store, points, dies=[("latents", 4, "kl")])

    def recovers(jobs):
        if sum(any(name == "latents" for name, _ in wave) for wave in launcher.waves) >= kills:
            launcher.dies = []
        launcher(jobs)

    lost = run_missing(points, TARGETS, store, in_waves(recovers))
    assert [item.stage.name for item in lost] == (["latents"] if kills == 3 else [])
    tried = Counter(stage for wave in launcher.waves for stage in wave)
    assert {name: times for (name, _), times in tried.items() if times > 1} == {"latents": min(kills + 1, 3)}
