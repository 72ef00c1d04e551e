"""The store: one folder an artifact, complete only when its record exists, made by one process at a time."""

import dataclasses
import fcntl
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ldm.errors import UserError
from ldm.intact import TEMPORARY, check_file, file_hash
from ldm.records import STORE_MARK, StageRecord, Sweep, read_record, read_sealed, sealed, write_json


@dataclass(frozen=True)
class Failure:
    """Why an artifact could not be made: one line, the whole traceback, and the command that repeats it."""

    error: str
    traceback: str
    command: str


CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
CHUNKS = "parts"
"""What an unfinished artifact goes on from; gone when its record stands."""

UNHASHED = (*CHECKPOINTS, "record.json", "failure.json")


class Store:
    """Artifacts under one root folder; nothing is written there where `is_read_only`.

    Raises: UserError where that folder cannot be used.
    """

    def __init__(self, root: Path, is_read_only: bool = False) -> None:
        self.root = root
        if is_read_only:
            return
        try:
            (root / "claims").mkdir(parents=True, exist_ok=True)
            if os.access(root, os.W_OK):
                (root / STORE_MARK).touch()
        except OSError as error:
            raise UserError(
                f"store={root} cannot be used as a folder ({error.strerror}); give another with store=DIR"
            ) from error
        if not os.access(root, os.W_OK):
            raise UserError(f"store={root} is not writable; give another folder with store=DIR")

    def folder(self, stage: str, identity: str) -> Path:
        """Where the artifact lies, whether complete or not."""
        return self.root / stage / identity

    def record(self, stage: str, identity: str) -> StageRecord | None:
        """The record of a complete artifact, else None. Raises UserError for one that cannot be read."""
        folder = self.folder(stage, identity)
        try:
            return read_record(folder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{folder / 'record.json'} cannot be read ({error}); remove that folder to compute it anew"
            ) from error

    def file(self, record: StageRecord, name: str) -> Path:
        """The path of a file of an artifact, checked against its record once a process, where this holds its hash.

        Raises: UserError where it is missing or damaged.
        """
        folder = self.folder(record.stage, record.identity)
        if record.files is not None and name in record.files:
            check_file(folder / name, record.files[name], f"remove the folder {folder} to compute it anew")
        return folder / name

    def is_complete(self, stage: str, identity: str) -> bool:
        """Whether the artifact needs no more work."""
        return (self.folder(stage, identity) / "record.json").exists()

    def finish(self, record: StageRecord) -> None:
        """Writes the record, with the hashes of all files, which makes the artifact complete; forgets failures."""
        folder = self.folder(record.stage, record.identity)
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
        named = {path.relative_to(folder).as_posix(): path for path in paths}
        files = {
            name: file_hash(path)
            for name, path in named.items()
            if name not in UNHASHED and not name.startswith(f"{CHUNKS}/")
        }
        write_json(folder / "record.json", sealed(dataclasses.replace(record, files=files).to_json()))
        # Only now: a kill before the record is written must still find what to go on from.
        for name in (*CHECKPOINTS, "failure.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHUNKS, ignore_errors=True)

    def failure(self, stage: str, identity: str) -> Failure | None:
        """Why the last try failed, None where none did."""
        path = self.folder(stage, identity) / "failure.json"
        if not path.exists():
            return None
        try:
            return Failure(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Failure(f"{path} cannot be read", "", "")

    def begin(self, stage: str, identity: str) -> None:
        """Makes the artifact's folder, and removes the failure and half-written files of an earlier try from it."""
        folder = self.folder(stage, identity)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "failure.json").unlink(missing_ok=True)
        for path in folder.rglob(".*"):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)

    def fail(self, stage: str, identity: str, error: BaseException, command: str) -> Failure:
        """Keeps the traceback of a failed try beside what it left behind."""
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        failure = Failure(sentence, "".join(traceback.format_exception(error)), command)
        write_json(self.folder(stage, identity) / "failure.json", failure.__dict__)
        return failure

    @contextmanager
    def claim(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Holds the right to make `name`; waits where another process has it, after a call of `waiting`.

        The lock belongs to the process, so a kill at any moment frees it.
        """
        path = self.root / "claims" / f"{name.replace('/', '-')}.lock"
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_claimed(self, name: str) -> bool:
        """Whether some process works on `name` now."""
        path = self.root / "claims" / f"{name.replace('/', '-')}.lock"
        if not path.exists():
            return False
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def write_sweep(self, sweep: Sweep) -> Path:
        """Keeps which cells a call asked for."""
        path = self.root / "sweeps" / f"{sweep.sweep}.json"
        write_json(path, sealed(sweep.to_json()))
        return path

    def sweeps(self) -> list[Sweep]:
        """All sweeps, the oldest first."""
        found = [read_sweep(path) for path in (self.root / "sweeps").glob("*.json")]
        return sorted(found, key=lambda sweep: sweep.created)


def read_sweep(path: Path) -> Sweep:
    """The sweep in a file. Raises: UserError where it cannot be read, or is damaged."""
    try:
        return Sweep.from_json(read_sealed(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it, the results themselves lie elsewhere") from error


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds (so that it sorts)."""
    return datetime.now(UTC).isoformat()
