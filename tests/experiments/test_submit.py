"""Submit and leave: what Slurm is asked, by a fake one on the PATH that keeps books and never runs a job."""

import functools
import itertools
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, tasks
from omegaconf import OmegaConf
from tiny_plans import plan_of

from experiments import submissions
from experiments.commands import ledger
from experiments.commands import submit as command
from experiments.commands.ledger import State, entries
from experiments.slurm import Resources, SlurmError, script
from experiments.stage import targets
from experiments.stages import STAGES
from experiments.store import Store
from experiments.submissions import Submission, Task, submit, submitted, tasks_due, tasks_of
from experiments.sweep import Due, Point, as_sweep, distinct, in_waves
from hydra_plugins.slurm_launcher.launcher import SlurmLauncher
from ldm.errors import UserError
from ldm.parts import checked
from ldm.records import StageRecord

ASKED = targets(STAGES, "evaluation")
SWEEP = "20260101-a"
GRID = [(f"ae={ae}", f"ae.f={f}", f"sampler.steps={steps}") for ae in ("kl", "vq") for f in (1, 4) for steps in (2, 3)]
WITHOUT_LIMIT = Resources(at_once=None)


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return distinct([Point(overrides, plan_of(*overrides)) for overrides in GRID])


@pytest.fixture
def slurm_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    found = FakeSlurm(tmp_path / "slurm")
    found.install()
    monkeypatch.setenv("FAKE_SLURM", str(found.folder))
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    return found


@pytest.fixture
def slurm(slurm_on_path: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """The same without processes."""
    monkeypatch.setattr("experiments.slurm.subprocess.run", slurm_on_path.run)
    return slurm_on_path


@pytest.fixture
def store(tmp_path: Path, points: list[Point]) -> Store:
    """A store with a sweep of these points, that was written down as a submission."""
    found = Store(tmp_path / "store")
    found.write_sweep(as_sweep(SWEEP, "2026-01-01T10:00:00", "the command", points, "evaluation", STAGES))
    submissions.write(found, Submission(SWEEP, (), tasks_of(points, ASKED, found, SWEEP)))
    return found


@pytest.fixture
def asked(store: Store) -> tuple[Task, ...]:
    return submissions.read(store, SWEEP).tasks


def jobs_by_task(slurm: FakeSlurm) -> dict[str, dict[str, Any]]:
    return {task: job for job in slurm.jobs for task in tasks(job)}


def dependencies(job: dict[str, Any]) -> dict[str, list[str]]:
    """What a job waits for, by kind."""
    kinds = filter(None, job["options"].get("dependency", "").split(","))
    return {kind: names for kind, *names in (each.split(":") for each in kinds)}


def finish(store: Store, *done: Task) -> None:
    for task in done:
        store.finish(StageRecord(task.stage, task.identity, {}, {}))


def a_task(asked: Sequence[Task], stage: str, *overrides: str) -> Task:
    return next(task for task in asked if task.stage == stage and set(overrides) <= set(task.overrides))


class Cluster:
    """Plays a cluster of any size: jobs begin as soon as they may and end in a random order, some without success."""

    def __init__(self, jobs: Sequence[dict[str, Any]], fails: Sequence[str] = (), seed: int = 0) -> None:
        self.jobs, self.fails, self.random = jobs, fails, random.Random(seed)
        self.running: list[str] = []
        self.ended: dict[str, str] = {}
        self.most = 0

    def run(self) -> dict[str, str]:
        """How each task ended: done, failed or cancelled."""
        while self._begin() or self.running:
            self.most = max(self.most, len(self.running))
            task = self.running.pop(self.random.randrange(len(self.running)))
            self.ended[task] = "failed" if task in self.fails else "done"
        return self.ended

    def _begin(self) -> bool:
        before = len(self.running) + len(self.ended)
        for job in self.jobs:
            is_single_file = job["options"].get("array", "").endswith("%1")
            for task in tasks(job):
                if task in self.ended or task in self.running:
                    continue
                if is_single_file and any(other in self.running for other in tasks(job)):
                    continue
                wanted = [end for name in dependencies(job).get("afterok", ()) for end in self._ends(name)]
                if any(end in ("failed", "cancelled") for end in wanted):
                    assert job["options"]["kill-on-invalid-dep"] == "yes"
                    self.ended[task] = "cancelled"
                elif all([*wanted, *(e for name in dependencies(job).get("afterany", ()) for e in self._ends(name))]):
                    self.running.append(task)
        return len(self.running) + len(self.ended) > before

    def _ends(self, name: str) -> Iterator[str | None]:
        """The ends of a job, or of all tasks of an array; None where one has not ended."""
        for job in self.jobs:
            for task in tasks(job):
                if task == name or job["id"] == name:
                    yield self.ended.get(task)


def test_each_job_depends_on_exactly_its_parents_and_arrays_only_join_those_with_the_same(slurm, store, asked):
    tally = submit(store, SWEEP, asked, WITHOUT_LIMIT)
    assert [task.key for task in tally.submitted] != []
    last = submitted(store)
    jobs = jobs_by_task(slurm)
    assert {task.key for task in asked} == set(last)
    for task in asked:
        options = jobs[last[task.key].job]["options"]
        parents = sorted(last[parent].job for parent in task.parents.items())
        assert dependencies(jobs[last[task.key].job]) == ({"afterok": parents} if parents else {})
        assert options.get("kill-on-invalid-dep") == ("yes" if parents else None)
        assert options["requeue"] == ""
        assert options["signal"] == "B:USR2@90"
    arrays = [job for job in slurm.jobs if job["size"]]
    assert sorted(job["size"] for job in arrays)[-1] == 5  # they wait for none: reference, probe and three first stages
    assert any(dependencies(job) for job in arrays)  # two sample sets of one model
    assert len(slurm.jobs) < len(asked)


def test_each_job_runs_the_command_of_its_stage(slurm, store, asked):
    submit(store, SWEEP, asked, WITHOUT_LIMIT)
    jobs, last = jobs_by_task(slurm), submitted(store)
    for task in asked:
        number = last[task.key].job
        index = number.partition("_")[2] or "0"
        [line] = [line for line in jobs[number]["script"].splitlines() if line.startswith(f"{index}) set -- ")]
        words = shlex.split(line.removeprefix(f"{index}) set -- ").removesuffix(" ;;"))
        assert words[:2] == [sys.executable, str(submissions.RUN_PY)]
        assert set(words[2:]) >= {
            f"sweep.target={task.stage}",
            f"sweep.identity='{task.identity}'",
            f"sweep.id={SWEEP}",
        }


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_no_more_jobs_run_at_a_time_than_were_allowed_and_all_end(slurm, store, asked, at_once):
    submit(store, SWEEP, asked, Resources(at_once=at_once))
    for seed in range(5):
        cluster = Cluster(slurm.jobs, seed=seed)
        ended = cluster.run()
        assert list(ended.values()) == ["done"] * len(asked)
        assert cluster.most <= at_once
    if at_once == 1:
        assert any(job["options"].get("array", "").endswith("%1") for job in slurm.jobs)


@pytest.mark.parametrize("at_once", [None, 2])
def test_one_failed_cell_blocks_no_other(slurm, store, asked, at_once):
    submit(store, SWEEP, asked, Resources(at_once=at_once))
    last, lost = submitted(store), a_task(asked, "latents", "ae=vq", "ae.f=4")
    ended = Cluster(slurm.jobs, fails=[last[lost.key].job]).run()
    hanging = {lost.key}
    for task in asked:  # parents come first
        if hanging.intersection(task.parents.items()):
            hanging.add(task.key)
    assert {stage for stage, _ in hanging} == {"latents", "gaussian", "diffusion", "progress", "samples", "evaluation"}
    for task in asked:
        expected = "failed" if task is lost else "cancelled" if task.key in hanging else "done"
        assert ended[last[task.key].job] == expected


def test_what_waits_or_runs_is_not_submitted_again_and_new_stages_depend_on_it(slurm, store, asked, points):
    submit(store, SWEEP, asked, WITHOUT_LIMIT)
    before = len(slurm.jobs)
    again = submit(store, SWEEP, asked, WITHOUT_LIMIT)
    assert (again.submitted, len(again.queued), len(slurm.jobs)) == ([], len(asked), before)
    [more] = distinct([Point(overrides, plan_of(*overrides)) for overrides in [("ae=kl", "ae.f=4", "sampler.steps=4")]])
    later = tasks_of([more], ASKED, store, "20260102-b")
    tally = submit(store, "20260102-b", later, WITHOUT_LIMIT)
    assert [task.stage for task in tally.submitted] == ["samples", "evaluation"]
    [samples, evaluation] = slurm.jobs[before:]
    last = submitted(store)
    assert dependencies(samples)["afterok"] == sorted(last[parent].job for parent in tally.submitted[0].parents.items())
    assert samples["id"] in dependencies(evaluation)["afterok"]


def test_jobs_that_are_there_already_count_towards_those_at_once(slurm, store, asked):
    roots = [task for task in asked if not task.parents]
    submit(store, SWEEP, roots[:3], Resources(at_once=3))
    submit(store, SWEEP, roots, Resources(at_once=3))
    cluster = Cluster(slurm.jobs)
    assert len(cluster.run()) == len(roots) > 3
    assert cluster.most == 3


@pytest.mark.long
def test_a_retry_submits_what_is_missing_and_waits_for_what_is_not_done_alone(slurm, store, asked, capsys):
    submit(store, SWEEP, asked, WITHOUT_LIMIT)
    lost = a_task(asked, "samples", "ae=vq", "sampler.steps=3")
    evaluation = next(task for task in asked if lost.key in task.parents.items())
    finish(store, *(task for task in asked if task not in (lost, evaluation)))
    for task in (lost, evaluation):
        slurm.set_state(submitted(store)[task.key].job, "FAILED")
    before = len(slurm.jobs)
    arguments = ["--retry", "--store", str(store.root), "hydra.launcher.timeout_min=5"]
    assert command.main(arguments) == 0
    assert "submitted 2 jobs" in capsys.readouterr().out
    [first, second] = slurm.jobs[before:]
    assert first["options"]["time"] == "5"
    assert dependencies(first) == {}
    assert dependencies(second)["afterok"] == [first["id"]]
    assert command.main([*arguments[:3], "ae.f=8"]) == 2
    assert "cannot be given with --retry" in capsys.readouterr().out


def test_a_submission_is_taken_back_but_for_what_has_ended(slurm, store, asked, capsys):
    submit(store, SWEEP, asked, WITHOUT_LIMIT)
    done = asked[0]
    finish(store, done)
    slurm.set_state(submitted(store)[done.key].job, "COMPLETED")
    assert command.main(["--cancel", "--store", str(store.root), "--sweep", SWEEP]) == 0
    assert f"took back {len(asked) - 1} jobs" in capsys.readouterr().out
    states = {state for job in slurm.jobs for state in job["states"].values()}
    assert states == {"CANCELLED", "COMPLETED"}
    found = entries(store, store.sweeps())
    assert {s.state for entry in found for s in entry.stages.values()} == {State.DONE, State.MISSING}
    assert command.main(["--retry", "--store", str(store.root)]) == 0
    assert f"submitted {len(asked) - 1} jobs" in capsys.readouterr().out


def test_what_a_process_outside_of_slurm_makes_is_left_to_it_and_what_hangs_on_it_is_held(slurm, store, asked, capsys):
    first = a_task(asked, "first_stage", "ae=vq", "ae.f=4")
    with store.claim("/".join(first.key), lambda: None):
        tally = submit(store, SWEEP, asked, Resources())
    assert tally.busy == [first]
    assert {task.stage for task in tally.held} > {"latents", "diffusion", "evaluation"}
    assert len(tally.submitted) + len(tally.held) + 1 == len(asked)
    submissions.say_tally(tally, SWEEP)
    said = capsys.readouterr().out
    assert f"a process works on it now: first_stage {first.identity}, and {len(tally.held)} that hang on it" in said


def test_who_waits_waits_for_a_process_outside_of_slurm_too(slurm, store, asked, monkeypatch):
    """And makes what it leaves undone, once it is gone."""
    first, ended, looks = a_task(asked, "first_stage", "ae=vq", "ae.f=4"), list[str](), 0
    claim = store.claim("/".join(first.key), lambda: None)
    claim.__enter__()

    def pass_time(_: float) -> None:
        nonlocal looks
        looks += 1
        for key, job in submitted(store).items():
            if not store.is_complete(*key):
                finish(store, next(task for task in asked if task.key == key))
                slurm.set_state(job.job, "COMPLETED")
        if looks == 3:
            assert not store.is_complete(*first.key)
            claim.__exit__(None, None, None)  # without having made it

    monkeypatch.setattr("experiments.submissions.time.sleep", pass_time)
    calls = [functools.partial(ended.append, task.identity) for task in asked]
    submissions.run_all(store, SWEEP, asked, WITHOUT_LIMIT, calls)
    assert all(store.is_complete(*task.key) for task in asked)
    assert set(ended) == {task.identity for task in asked}
    assert not store.failure(*first.key)


def test_what_hangs_on_something_that_nobody_is_to_make_is_named(slurm, store, asked, capsys):
    first = a_task(asked, "first_stage", "ae=vq", "ae.f=4")
    tally = submit(store, SWEEP, [task for task in asked if task != first], Resources())
    assert tally.lacking == [first.key] * len(tally.lacking) != []
    submissions.say_tally(tally, SWEEP)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(tally.held)}, for want of first_stage {first.identity}; submit the sweep again" in said


def test_a_job_has_a_gpu_for_each_device_of_a_training(slurm, store):
    task = Task("diffusion", "1", {}, ("device=cuda", "trainer.devices=4"))
    with pytest.raises(UserError, match=r"a job has 1 GPUs: give hydra.launcher.gpus_per_node=4"):
        submit(store, SWEEP, [task], Resources())
    assert slurm.jobs == []
    submit(store, SWEEP, [task], Resources(gpus_per_node=4))
    assert len(slurm.jobs) == 1


def test_what_is_submitted_again_runs_in_the_folder_of_the_first_time(slurm, store, asked, tmp_path, monkeypatch):
    submissions.write(store, Submission(SWEEP, (), asked, str(tmp_path)))
    monkeypatch.chdir("/")
    assert command.main(["--retry", "--store", str(store.root)]) == 0
    assert {job["options"]["chdir"] for job in slurm.jobs} == {str(tmp_path)}


@pytest.mark.long
def test_a_refusal_is_a_sentence_with_a_remedy_and_nothing_is_left_out_afterwards(slurm, store, asked, capsys):
    slurm.refuse("Invalid generic resource (gres) specification")
    with pytest.raises(SlurmError, match=r"sbatch refuses: .*gres.*hydra.launcher.gpus_per_node=0 asks for none"):
        submit(store, SWEEP, asked, Resources(gpus_per_node=1))
    slurm.refuse("Invalid qos specification", after=3)
    assert command.main(["--retry", "--store", str(store.root)]) == 2
    said = capsys.readouterr().out
    assert "hydra.launcher.qos=NAME); 3 of" in said
    assert "submits the others" in said
    slurm.refuse("")
    assert command.main(["--retry", "--store", str(store.root)]) == 0
    assert "3 wait or run already" in capsys.readouterr().out
    assert set(submitted(store)) == {task.key for task in asked}


def test_what_is_asked_stands_in_the_options_of_sbatch(slurm, store, asked, tmp_path):
    odd = Store(tmp_path / "100% mine")
    resources = Resources(
        partition="long", account="lab", qos="low", constraint="a100", mem_gb=1.5, cpus_per_task=3, sbatch=("--nice=7",)
    )
    on_gpu = Task("probe", "1", {}, ("device=cuda",))
    submit(odd, SWEEP, [on_gpu, *[task for task in asked if task.stage == "reference"]], resources)
    first, second = (job["options"] for job in slurm.jobs)
    expected = {"partition": "long", "account": "lab", "qos": "low", "constraint": "a100", "mem": "1536M", "nice": "7"}
    assert expected.items() <= first.items()
    assert (first["cpus-per-task"], first["time"]) == ("3", "1440")
    assert (first["gpus-per-node"], second.get("gpus-per-node")) == ("1", None)
    assert first["output"] == f"{tmp_path}/100%% mine/slurm/{SWEEP}/%j.log"
    assert "OMP_NUM_THREADS=3" in slurm.jobs[0]["script"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"timeout_min": 2}, "leaves no time to work in"),
        ({"timeout_min": 0}, "timeout_min=0 is no whole number of minutes from 1 on"),
        ({"cpus_per_task": "many"}, "cpus_per_task=many"),
        ({"at_once": 0}, "at_once=0"),
        ({"gpu": 1}, "hydra.launcher.gpu=1 is no option"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        checked(Resources, settings, "hydra.launcher")


@pytest.mark.parametrize("override", ["+x._target_=os.system", "hydra.callbacks.mine._target_=os.system"])
def test_what_would_have_hydra_call_something_is_refused_here_too(override):
    with pytest.raises(UserError, match="would have Hydra call what the value names"):
        command.submit([override], is_grid=False)


def test_the_ledger_tells_queued_running_failed_and_missing_apart(slurm, store, asked, capsys):
    submit(store, SWEEP, asked, Resources(at_once=4))
    last = submitted(store)
    done, runs, dies = (
        a_task(asked, "first_stage", *o) for o in (("ae.f=1",), ("ae=kl", "ae.f=4"), ("ae=vq", "ae.f=4"))
    )
    finish(store, done)
    slurm.set_state(last[runs.key].job, "RUNNING")
    slurm.set_state(last[dies.key].job, "OUT_OF_MEMORY")
    (store.root / "slurm" / SWEEP / f"{last[dies.key].job}.log").write_text("a last word")
    below = a_task(asked, "latents", "ae=vq", "ae.f=4")
    slurm.set_state(last[below.key].job, "")  # cancelled by Slurm, and forgotten
    found = {s.identity: s for entry in entries(store, store.sweeps()) for s in entry.stages.values()}
    states = {task.stage: found[task.identity].state for task in (done, below)}
    assert states == {"first_stage": State.DONE, "latents": State.MISSING}
    assert found[runs.identity].state is State.RUNNING
    assert found[dies.identity].state is State.FAILED
    assert found[a_task(asked, "evaluation").identity].state is State.QUEUED
    assert ledger.main(["--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert f"running: first_stage {runs.identity} on node7, since 2026-01-0" in said
    assert f"job {last[runs.key].job}" in said
    assert f"its job {last[dies.key].job} ended without a word (OUT_OF_MEMORY); what it said: " in said
    assert f"python -m experiments.submit --retry --store {store.root} --sweep {SWEEP}" in said
    assert "experiments.ledger" not in said.split("submit what failed")[1]


def test_a_running_job_is_where_its_claim_says(slurm, store, asked):
    submit(store, SWEEP, asked, Resources())
    task = a_task(asked, "reference")
    slurm.set_state(submitted(store)[task.key].job, "RUNNING")
    with store.claim("/".join(task.key), lambda: None):
        jobs = submissions.look(store, {task.key})
        where = ledger.state_of(store, *task.key, jobs).where
    assert where.startswith(f"{os.uname().nodename}, process {os.getpid()}, since 2")
    assert where.endswith(f"UTC, job {submitted(store)[task.key].job}")


def test_without_slurm_the_ledger_says_so_and_calls_nothing_failed(slurm_on_path, store, asked, capsys, monkeypatch):
    submit(store, SWEEP, asked[:1], Resources())
    monkeypatch.setenv("PATH", str(store.root))
    assert ledger.main(["--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "squeue is not on this machine" in said
    assert "failed:" not in said


def test_a_local_retry_leaves_what_queues_alone(slurm, store, asked):
    submit(store, SWEEP, asked, Resources())
    ledger.retry(store, entries(store, store.sweeps()), lambda overrides: pytest.fail("it waits in Slurm's queue"))


def test_a_job_that_another_cluster_called_the_same_is_not_ours(slurm, store, asked):
    submit(store, SWEEP, asked, Resources())
    jobs = slurm.jobs
    for job in jobs:
        job["options"]["job-name"] = "somebody's"
    slurm.save(jobs)
    assert submissions.look(store, {task.key for task in asked}).alive == {}


def test_a_torn_last_line_of_a_killed_call_is_passed_over(slurm, store, asked):
    submit(store, SWEEP, asked[:2], Resources())
    path = store.root / "slurm" / SWEEP / "jobs.jsonl"
    path.write_text(path.read_text() + '{"stage": "evalu')
    assert set(submitted(store)) == {task.key for task in asked[:2]}


def test_the_launcher_waits_until_its_jobs_have_ended_and_says_how_a_killed_one_did(
    slurm, store, asked, capsys, monkeypatch
):
    roots = [task for task in asked if not task.parents][:2]
    launcher = SlurmLauncher()
    config = OmegaConf.create({"hydra": {"launcher": {}}, "store": str(store.root)})
    launcher.setup(hydra_context=None, task_function=None, config=config)
    looks = itertools.count()

    def work(seconds: float) -> None:
        """What becomes of the jobs while the launcher waits."""
        last = submitted(store)
        if next(looks) == 0:
            finish(store, roots[0])
            slurm.set_state(last[roots[0].key].job, "COMPLETED")
            (store.root / "slurm" / SWEEP / f"{last[roots[1].key].job}.log").write_text("")
        else:
            slurm.set_state(last[roots[1].key].job, "")  # killed and forgotten; nobody asks sacct

    monkeypatch.setattr(time, "sleep", work)
    ended: list[str] = []
    dues = [Due(task.overrides, ended=functools.partial(ended.append, task.stage)) for task in roots]
    launcher.launch_in_order(dues)
    assert ended == [task.stage for task in roots]
    assert next(looks) == 2
    assert "ended without a word; what it said:" in capsys.readouterr().out


def test_the_launcher_submits_jobs_behind_those_they_wait_for(slurm, store, asked, monkeypatch):
    numbers = {task.key: number for number, task in enumerate(asked)}
    dues = [Due(task.overrides, tuple(numbers[parent] for parent in task.parents.items())) for task in asked]
    assert tasks_due(dues) == asked
    slurm.refuse("Invalid partition name specified")
    launch = functools.partial(submissions.submit, store, SWEEP, asked, Resources())
    with pytest.raises(UserError, match="sinfo lists the partitions"):
        in_waves(lambda jobs: launch())([Due(())])


@pytest.mark.long
def test_the_command_plans_once_submits_and_ends(slurm, tmp_path, capsys):
    folder = tmp_path / "results"
    arguments = ["-m", "ae=kl,vq", "ae.f=1", "scale=tiny", "device=cpu", "tracker.mode=disabled", f"store={folder}"]
    assert command.main([*arguments, "hydra.launcher.partition=long"]) == 0
    said = capsys.readouterr().out
    assert "1 cell (2 points" in said
    assert "submitted 10 jobs" in said
    assert f"python -m experiments.ledger --store {folder} --sweep 2" in said
    assert {job["options"]["partition"] for job in slurm.jobs} == {"long"}
    store = Store(folder)
    [sweep] = store.sweeps()
    assert sweep.command.startswith("python -m experiments.submit -m ae=kl,vq ae.f=1 scale=tiny")
    assert submissions.read(store, sweep.sweep).launcher == ("hydra.launcher.partition=long",)
    assert command.main(arguments) == 0
    assert "submitted 0 jobs" in (said := capsys.readouterr().out)
    assert "10 wait or run already" in said
    assert command.main([*arguments[1:]]) == 2
    assert "multirun" in capsys.readouterr().out
    assert command.main([*arguments, "hydra/launcher=local"]) == 2
    assert "leave it out" in capsys.readouterr().out


# What a job's script does, by bash itself.


def begin(python: str, restarts: int = 0, **settings: Any) -> "subprocess.Popen[bytes]":
    text = script([["true"], [sys.executable, "-S", "-c", python]], Resources(signal_delay_s=30, **settings))
    process = subprocess.Popen(
        ["bash", "-c", text],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": str(restarts)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process


SAVES = """
import signal, sys, time
signal.signal(signal.SIGUSR2, lambda *_: sys.exit({code}))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("code", [0, 3])
def test_the_job_of_its_index_ends_as_its_command(slurm_on_path, code):
    process = begin(f"raise SystemExit({code})")
    assert process.wait(30) == code
    assert slurm_on_path.asked() == []


@pytest.mark.parametrize(("code", "restarts", "requeues"), [(143, 0, True), (143, 2, False), (0, 0, False)])
def test_a_job_whose_time_is_over_saves_and_is_requeued(slurm_on_path, code, restarts, requeues):
    """Not where it has just done its work, nor too often."""
    process = begin(SAVES.format(code=code), restarts, max_num_timeout=2, setup=("sleep() { command sleep 0.2; }",))
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR2)
    said = process.communicate(timeout=30)[0].decode()
    assert process.returncode == (0 if code == 0 else 1)
    assert slurm_on_path.asked() == (["scontrol requeue 12"] if requeues else [])
    assert ("give it more time" in said) is (restarts == 2)
