"""How many examples fuzzing draws: about 25 by default, 10,000 in the slow set, the same ones each time."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

FEW, MANY = 25, 10_000

ANOTHER_DISK = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)


def on_another_disk(archive: bytes) -> bytes:
    """A zip archive that says that its directory lies on another disk, for which zipfile has an error of its own."""
    return archive[:-22] + ANOTHER_DISK + archive[-22:]


def fuzzed(**drawn: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of drawn examples, as two tests: `examples` is how many."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            quiet = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],  # to shrink an example takes longer than to look at it
                suppress_health_check=list(HealthCheck),
            )
            quiet(given(**drawn)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
