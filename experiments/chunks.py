"""Chunks of a stage's work that outlive a kill: each a file in the stage's folder, gone when its record stands."""

import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.console import say
from experiments.store import CHUNKS
from ldm.intact import write_atomically

SECONDS = "seconds_of_the_part"


class Chunks:
    """The chunks of one stage, by name. `seconds_before`: what earlier tries spent on those that they left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CHUNKS
        self.folder.mkdir(exist_ok=True)
        self.seconds_before = 0.0

    def chunk(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays of a chunk: those that an earlier try left, or else those that `make` gives, saved."""
        path = self.folder / f"{name}.npz"
        arrays = saved_arrays(path)
        if arrays is not None:
            self.seconds_before += float(arrays.pop(SECONDS))
            return arrays
        started = time.monotonic()
        made: dict[str, Any] = dict(make())
        seconds = np.array(time.monotonic() - started)
        write_atomically(path, lambda file: np.savez(file, **made, **{SECONDS: seconds}))  # type: ignore[arg-type]
        return made


def saved_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays that an earlier try saved; None where there are none, or where they are damaged and were removed."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        say(f"{path} is damaged ({error}): it is discarded and made anew", style="yellow")
        path.unlink()
        return None
