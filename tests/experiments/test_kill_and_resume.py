"""kill -9 during each kind of stage, then the same command: it finishes with the numbers of an uninterrupted run."""

import time
from pathlib import Path

import pytest
from program import rows, run, start

from experiments.stages import STAGES

pytestmark = pytest.mark.program

CELL = ("ae=vq", "ae.f=4", "trainer.checkpoint_seconds=0", "trainer.milestones=[1.0]", "samples.batch=8")
TRAINED = (*CELL, "ae.training.images=640", "trainer.images=640")
"""Long enough to be killed in."""

PATIENCE = 120.0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody disturbed."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = run(store, *TRAINED)
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_numbers(uninterrupted: Path, tmp_path: Path) -> None:
    """Each try is killed soon after its next stage has begun."""
    store = tmp_path / "store"
    interrupted = []
    for stage in [stage.name for stage in STAGES if begun(uninterrupted, stage.name)]:
        process = start(store, *TRAINED)
        if wait_for(lambda stage=stage: begun(store, stage), process):
            time.sleep(0.4)
            process.kill()
            process.wait()
            if not list(store.glob(f"{stage}/*/record.json")):
                interrupted.append(stage)
    assert {"first_stage", "diffusion"} <= set(interrupted)
    done = run(store, *TRAINED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(store) == rows(uninterrupted)
    assert not list(store.glob("*/*/.*")), "a killed run left temporary files in a finished artifact"


@pytest.mark.slow
def test_predictors_go_on_with_their_small_denoiser(tmp_path: Path) -> None:
    cell = (*CELL, "metrics.predictors=true", "until=first_stage", "trainer.images=60000")
    whole, killed = ((tmp_path / name).mkdir() or tmp_path / name / "store" for name in ("whole", "killed"))
    assert run(whole, *cell).returncode == 0
    process = start(killed, *cell)
    assert wait_for(lambda: any(killed.glob("predictors/*/checkpoint.pt")), process)
    process.kill()
    process.wait()
    assert not list(killed.glob("predictors/*/record.json"))
    done = run(killed, *cell)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(killed) == rows(whole)
    [record] = killed.glob("predictors/*/record.json")
    assert not (record.parent / "checkpoint.pt").exists()


def begun(store: Path, stage: str) -> bool:
    """Whether a folder of that stage exists."""
    return any(store.glob(f"{stage}/*"))


def wait_for(condition, process) -> bool:
    """Whether the condition came true before the process ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    raise TimeoutError("the stage did not begin in time")
