"""Chunks of a stage's work that outlive a kill: each a file in the stage's folder, gone when the stage is done."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SECONDS = "seconds_of_the_part"


class Chunks:
    """The chunks of one stage, by name. `seconds_before`: what earlier tries spent on those that they left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "parts"
        self.folder.mkdir(exist_ok=True)
        self.seconds_before = 0.0

    def chunk(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The arrays of a chunk: those that an earlier try left, or else those that `make` gives, saved."""
        path = self.folder / f"{name}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as saved:
                arrays = dict(saved)
            self.seconds_before += float(arrays.pop(SECONDS))
            return arrays
        started = time.monotonic()
        made: dict[str, Any] = dict(make())
        seconds = np.array(time.monotonic() - started)
        write_atomically(path, lambda file: np.savez(file, **made, **{SECONDS: seconds}))  # type: ignore[arg-type]
        return made

    def remove(self) -> None:
        """Removes the files, once all that was made of the chunks is in hand."""
        shutil.rmtree(self.folder)


def write_atomically(path: Path, save: Callable[[BinaryIO], None]) -> None:
    """Writes a file so that a reader sees the whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
