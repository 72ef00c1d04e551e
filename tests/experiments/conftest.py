"""One store for all tests of whole runs that need no other."""

import fcntl
import os
from pathlib import Path

import pytest
from parsed_once import parse_once
from program import SWEEP, run_afresh, with_images_of

parse_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what reads a run of the program."""
    for item in items:
        if "swept_store" in getattr(item, "fixturenames", ()):
            item.add_marker("program")


@pytest.fixture(scope="session")
def swept_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after a sweep over both regularisers, f = 1 and 4, to be read or copied (`program.copy_of`).

    Made by the test process that asks first; the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole = shared / "swept", shared / "swept" / "said.txt"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            done = run_afresh(folder / "store", *SWEEP)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "3 cells (4 points" in done.stdout
            whole.write_text(done.stdout)
    return folder / "store"


@pytest.fixture
def begun_store(swept_store: Path, tmp_path: Path) -> Path:
    """A store of one's own in which the images are decoded and the reference is seen, and nothing else is done."""
    return with_images_of(swept_store, tmp_path)
