"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data, named by LDM_TEST_DATA."""
    place = os.environ.get("LDM_TEST_DATA")
    if not place:
        pytest.skip("LDM_TEST_DATA is not set: this test reads the development data")
    return Path(place)
