"""A real Slurm of one node: submit and leave, failures, preemption, time-out, kill, and the launcher that waits."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from one_node_slurm import one_node_slurm, said, wait_until, why_not
from program import ROOT, command, environment, records, rows, run

from experiments.store import Store
from experiments.submissions import look, submitted

pytestmark = [pytest.mark.program, pytest.mark.slow]

PATIENCE = 1200.0
"""Seconds: a machine that does much else takes minutes for what else takes seconds."""

JOBS = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.at_once=3", "hydra.launcher.signal_delay_s=300")
CELL = ("ae=vq", "ae.f=32", "until=first_stage", "precision=fp32")
TRAINED = (*CELL, "ae.training.images=8000", "trainer.checkpoint_seconds=0")
"""Long enough to be interrupted in three times."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with one_node_slurm(folder):
        yield folder
        assert not (folder / "sacct.asked").exists(), "accounting was asked, which not every cluster has"


def called(module: str, *arguments: str, store: Path) -> "subprocess.CompletedProcess[str]":
    """A command-line tool, in the folder of the store."""
    whole = [sys.executable, "-m", f"experiments.{module}", *arguments]
    where = {**environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(whole, capture_output=True, text=True, check=False, cwd=store.parent, env=where)


def submit(store: Path, *overrides: str) -> str:
    settings = ("scale=tiny", f"store={store}", "tracker.mode=disabled", *JOBS)
    done = called("submit", "-m", *overrides, *settings, store=store)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs(store: Path) -> dict[str, str]:
    """The one job of each stage."""
    return {stage: job.job or "" for (stage, _), job in submitted(Store(store)).items()}


def is_over(store: Path) -> bool:
    found = Store(store)
    return not look(found, submitted(found)).alive


def state(job: str) -> str:
    return said("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


def restarts(job: str) -> int:
    return int(said("scontrol", "show", "job", job).partition("Restarts=")[2].split()[0])


def assert_same(store: Path, other: Path) -> None:
    assert len(rows(store)) > 10
    assert rows(store) == rows(other)


def test_submitted_jobs_run_alone_and_what_hangs_on_a_failed_one_does_not(slurm, tmp_path):
    store = tmp_path / "store"
    said_then = submit(store, *CELL, "ae.training.learning_rate=1e-3,1e30")
    assert "submitted 5 jobs" in said_then
    assert not is_over(store)  # the command has ended, and did not wait
    at_once = called("ledger", "--store", str(store), store=store).stdout
    assert "queued" in at_once or "running" in at_once  # what begins in the seconds that the ledger takes, runs
    wait_until(lambda: is_over(store), PATIENCE)
    assert sorted(stage for stage, _ in records(store)) == ["first_stage", "reconstruction", "reference"]
    [failed] = store.glob("first_stage/*/failure.json")
    report = called("ledger", "--store", str(store), store=store).stdout
    assert f"failed: first_stage {failed.parent.name}" in report
    assert "DivergedError" in report
    logs = {path.stem for path in store.glob("slurm/*/*.log")}
    [hanging] = {key for key in submitted(Store(store)) if key[0] == "reconstruction" and key not in records(store)}
    assert submitted(Store(store))[hanging].job not in logs
    assert len(logs) == 4
    again = called("submit", "--retry", "--store", str(store), store=store)
    assert "submitted 2 jobs" in again.stdout, again.stdout + again.stderr
    taken = called("submit", "--cancel", "--store", str(store), store=store)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert run(tmp_path / "here", *CELL, "ae.training.learning_rate=1e-3").returncode == 0
    assert_same(store, tmp_path / "here")


def test_a_job_that_is_preempted_runs_out_of_time_and_is_killed_ends_with_the_same_numbers(slurm, tmp_path):
    store = tmp_path / "store"
    submit(store, *TRAINED)
    job = jobs(store)["first_stage"]

    def has_saved(since: int) -> bool:
        """Whether it runs, and has saved since it was begun that many times."""
        is_new = state(job) == "RUNNING" and restarts(job) == since
        return is_new and bool(list(store.glob(f"first_stage/*.{since + 1}/checkpoint.pt")))

    wait_until(lambda: has_saved(0), PATIENCE)
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait_until(lambda: has_saved(1), PATIENCE)

    # Its end is so near now that Slurm sends the signal at its next look.
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={2 + minutes(job)}"], check=True)
    wait_until(lambda: restarts(job) == 2, PATIENCE)
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=600"], check=True)
    wait_until(lambda: has_saved(2), PATIENCE)

    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    wait_until(lambda: is_over(store), PATIENCE)
    report = called("ledger", "--store", str(store), store=store).stdout
    assert f"its job {job} ended without a word" in report
    assert not list(store.glob("first_stage/*/record.json"))
    again = called("submit", "--retry", "--store", str(store), store=store)
    assert "submitted 2 jobs" in again.stdout, again.stdout + again.stderr
    wait_until(lambda: is_over(store), PATIENCE)
    assert {stage for stage, _ in records(store)} == {"reference", "first_stage", "reconstruction"}
    quiet = tmp_path / "quiet"
    assert run(quiet, *TRAINED[:-1]).returncode == 0
    assert_same(store, quiet)


def minutes(job: str) -> int:
    """For how long a job has run, in whole minutes."""
    parts = said("squeue", "--noheader", f"--jobs={job}", "--format=%M").strip().split(":")
    return int(parts[-2]) + (60 * int(parts[-3]) if len(parts) > 2 else 0)


def waiting(store: Path, *arguments: str) -> "subprocess.Popen[str]":
    """run.py with the launcher that waits, begun."""
    whole = command(store, "-m", "hydra/launcher=slurm", *JOBS, *arguments)
    return subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, env=environment(), cwd=store.parent)


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    texts = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def test_who_waits_waits_for_no_killed_job_and_a_second_call_submits_no_duplicate(slurm, tmp_path):
    store = tmp_path / "store"
    first = waiting(store, *TRAINED)
    wait_until(lambda: any(store.glob("first_stage/*/checkpoint.pt")), PATIENCE)
    job = jobs(store)["first_stage"]
    second = waiting(store, *TRAINED)
    wait_until(lambda: len(list(store.glob("sweeps/*.json"))) == 2, PATIENCE)
    assert said("squeue", "--noheader", "--states=RUNNING").count("\n") <= 2
    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    (code, text), (other_code, other_text) = ended([first, second])
    assert (code, other_code) == (0, 0), text + other_text
    assert "ended without a word" in text + other_text  # said by the one that looks first, and submits it again
    assert "wait or run already" in other_text
    assert len(list(store.glob("first_stage/*/record.json"))) == 1


def test_what_slurm_refuses_is_said_and_not_called_killed(slurm, tmp_path):
    [(code, text)] = ended([waiting(tmp_path / "store", *CELL, "hydra.launcher.gpus_per_node=1")])
    assert code == 2
    assert "hydra.launcher.gpus_per_node=0 asks for none" in text
    assert "killed" not in text
