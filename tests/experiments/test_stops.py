"""Runs and sweeps that are stopped at random moments, by whatever signal, end with the results of undisturbed ones."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from program import SWEEP, copy_of, records, results, run, run_stopped, start

pytestmark = pytest.mark.program

CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGUSR2: 143, signal.SIGINT: 130}
"""What a run ends with that a signal stopped, unless it had only begun to listen: then with the signal itself."""

SHORT = ("trainer.milestones=[1.0]", "precision=fp32", "samples.batch=8")
ONE_STAGE = (*SHORT, "ae.f=4", "ae.seed=1", "ae.loss.perceptual=none", "until=first_stage")
EVERYTHING = (
    *SHORT,
    "ae=vq",
    "ae.f=4",
    "trainer.learning_rate=auto",
    *(f"metrics.{name}=true" for name in ("predictors", "likelihood", "coding", "memorisation", "sampler_check")),
)
PATIENCE = 3600.0
"""Seconds: a machine that does much else takes many times as long."""


def stop_at_random(store: Path, arguments: Sequence[str], moments: int, longest: float, fresh: Path | None) -> None:
    """Stops a run so many times within its first `longest` seconds, and lets it end; a finished one begins anew.

    It begins as a copy of the store `fresh`, or with nothing. What it ends with is compared before it is left.
    """
    draw, stopped = random.Random(0), 0
    ended: list[dict] = []
    while stopped < moments or not ended:
        if not store.exists() and fresh is not None:
            copy_of(fresh, store.parent)
        number = draw.choice(list(CODES))
        seconds = draw.uniform(0.2, longest) if stopped < moments else PATIENCE
        done = run_stopped(store, number, seconds, *arguments)
        if done.returncode == 0:
            assert not list(store.glob("*/*/.*")), "a stopped run left temporary files in a finished artifact"
            ended.append(results(store))
            shutil.rmtree(store)
        else:
            assert done.returncode in (CODES[number], -number), done.stdout + done.stderr
            assert number == signal.SIGKILL or "Traceback" not in done.stdout + done.stderr
            stopped += 1
    assert all(result == ended[0] for result in ended)
    quiet = store.with_name("quiet") / "store"
    quiet.parent.mkdir()
    if fresh is not None:
        copy_of(fresh, quiet.parent)
    done = run(quiet, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(quiet) == ended[0]


@pytest.mark.long
def test_three_stops_of_a_first_stage_change_nothing(swept_store: Path, tmp_path: Path) -> None:
    arguments = (*ONE_STAGE, "ae.training.images=320", "trainer.checkpoint_seconds=0.2")
    stop_at_random(tmp_path / "run" / "store", arguments, moments=3, longest=3.0, fresh=swept_store)


@pytest.mark.slow
def test_fifty_stops_over_all_stages_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    store = tmp_path / "run" / "store"
    began = time.monotonic()
    assert run(store, *EVERYTHING).returncode == 0
    longest = time.monotonic() - began
    shutil.rmtree(store)
    arguments = (*EVERYTHING, "trainer.checkpoint_seconds=0.5")
    # So that a run is stopped some sixteen times before it ends, and three or four runs end.
    stop_at_random(store, arguments, moments=50, longest=longest / 8, fresh=None)


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_ten_times_ends_with_the_results_of_one_that_is_not(
    swept_store: Path, tmp_path: Path
) -> None:
    store, draw, stopped = tmp_path / "store", random.Random(1), 0
    while stopped < 10:
        done = run_stopped(store, signal.SIGINT, draw.uniform(1, 8), *SWEEP, "trainer.checkpoint_seconds=0.5")
        if done.returncode == 0:
            shutil.rmtree(store)  # it was quicker: another one has to take the rest of the interrupts
        else:
            assert done.returncode == 130, done.stdout + done.stderr
            stopped += 1
    assert run(store, *SWEEP).returncode == 0
    assert results(store) == results(swept_store)


MANY = ("-m", "ae=kl,vq", "ae.f=4,8", "seed=0,1", "sampler.steps=2,3,4", *SHORT)
SIXTEEN = ("hydra/launcher=local", "hydra.launcher.workers=16", "hydra.launcher.threads=1")


@pytest.mark.slow
def test_sixteen_workers_three_of_them_killed_do_what_one_does(tmp_path: Path) -> None:
    """24 cells: each identity once, but for those whose worker was killed, with the results of a quiet serial sweep."""
    quiet, busy = (tmp_path / name / "store" for name in ("quiet", "busy"))
    for store in (quiet, busy):
        store.parent.mkdir()
    done = run(quiet, *MANY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 cells" in done.stdout
    total, draw = len(records(quiet)), random.Random(2)
    process = start(busy, *MANY, *SIXTEEN)
    kills = 0
    for share in sorted(draw.uniform(0.1, 0.9) for _ in range(3)):
        while process.poll() is None and len(records(busy)) < share * total:
            time.sleep(0.1)
        if working := list(busy_workers(process.pid)):
            os.kill(draw.choice(working), signal.SIGKILL)
            kills += 1
    assert process.wait(PATIENCE) == 0
    assert kills == 3
    assert results(busy) == results(quiet)
    tries = {path.parent.name: int(path.stem) for path in busy.glob("claims/*/*.json") if path.stem.isdigit()}
    again = sum(count - 1 for name, count in tries.items() if not name.startswith("data-"))
    assert again <= kills


def busy_workers(parent: int) -> Iterator[int]:
    """The worker processes below a process that use the processor now."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text, stat = (path / "cmdline").read_text(), (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat[1]) == parent and "spawn_main" in text and stat[0] == "R":
            yield int(path.name)
