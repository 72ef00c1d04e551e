"""Fixtures shared by all tests."""

import gc
import os

# Before torch is imported: one thread a test process, so that processes beside each other do not wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

# No test cuts the power, and waiting for the disk at each of ten thousand small files takes longer than writing them.
os.fsync = lambda descriptor: None

# The imported libraries hold a million objects, which Python would look through again and again.
gc.set_threshold(100_000, 50, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that processes beside each other end at about the same time.

    Of these one makes the store that many read, then come those that do not wait for it.
    """
    readers = sorted({item.path for item in items if "swept_store" in getattr(item, "fixturenames", ())})

    def place(item: pytest.Item) -> int:
        if "experiments" not in item.path.parts:
            return 3
        return 1 if item.path not in readers else 0 if item.path == readers[0] else 2

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data, named by LDM_TEST_DATA."""
    place = os.environ.get("LDM_TEST_DATA")
    if not place:
        pytest.skip("LDM_TEST_DATA is not set: this test reads the development data")
    return Path(place)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of random weights as transformers saves it."""
    from tiny_clip import save_tiny_clip

    place = tmp_path_factory.mktemp("clip")
    save_tiny_clip(place)
    return place
