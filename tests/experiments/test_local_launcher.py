"""hydra/launcher=local, end to end."""

from pathlib import Path

import pytest
from program import records, rows, run

pytestmark = pytest.mark.program

LOCAL = ("-m", "hydra/launcher=local", "ae.f=32", "until=first_stage")


@pytest.mark.slow
def test_a_job_that_fails_is_said_and_the_next_call_makes_what_is_missing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    failed = run(store, *LOCAL, "ae.training.learning_rate=1e-3,1e30")
    assert failed.returncode == 1
    assert "DivergedError" in failed.stdout
    assert "repeat it with: python run.py" in failed.stdout
    made = [stage for stage, _ in records(store)]
    assert sorted(made) == ["first_stage", "rate_curve", "reconstruction", "reference"]
    again = run(store, *LOCAL, "ae.training.learning_rate=1e-3,1e-4")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 cells: 7 stages complete, 3 computed now" in again.stdout


@pytest.mark.slow
def test_numbers_are_those_of_the_launcher_in_process(tmp_path: Path) -> None:
    cells = ("-m", "ae.f=1,4")
    here = run(tmp_path / "basic", *cells)
    there = run(tmp_path / "local", *cells, "hydra/launcher=local", "hydra.launcher.threads=1")
    assert here.returncode == there.returncode == 0, there.stdout + there.stderr
    assert len(rows(tmp_path / "local")) > 50
    assert rows(tmp_path / "local") == rows(tmp_path / "basic")


@pytest.mark.long
def test_a_number_of_workers_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path / "store", *LOCAL, "hydra.launcher.workers=0")
    assert done.returncode == 2
    assert "error: hydra.launcher.workers=0: give at least 1." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
