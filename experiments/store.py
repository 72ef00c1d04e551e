"""The store: one folder an artifact, complete only when its record exists, made by one process at a time."""

import contextlib
import dataclasses
import json
import os
import shutil
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from experiments import claims
from experiments.claims import Claim
from ldm.errors import UserError
from ldm.intact import TEMPORARY, check_file, file_hash, temporary_of
from ldm.records import (
    SHORTLISTS,
    STORE_MARK,
    Shortlist,
    StageRecord,
    Sweep,
    read_record,
    read_sealed,
    sealed,
    write_json,
)


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
        self.root, self.is_read_only = root, is_read_only
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
        """Where the artifact lies when it is complete; else what is known of its last try."""
        return self.root / stage / identity

    def place(self, stage: str, identity: str, claim: Claim | None) -> Path:
        """Where the holder of a claim makes the artifact, a folder of its own; without a claim where it is to lie."""
        folder = self.folder(stage, identity)
        return folder if claim is None else folder.with_name(f"{identity}.{claim.token}")

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

    def records(self, stage: str = "*") -> list[Path]:
        """The files of the records of complete artifacts, of all or of a stage's; those of stopped tries are none."""
        return sorted(path for path in self.root.glob(f"{stage}/*/record.json") if "." not in path.parent.name)

    def is_complete(self, stage: str, identity: str) -> bool:
        """Whether the artifact needs no more work."""
        return (self.folder(stage, identity) / "record.json").exists()

    def finish(self, record: StageRecord, claim: Claim | None = None) -> None:
        """Writes the record, with the hashes of all files, which makes the artifact complete; forgets failures.

        What was made under a claim takes its place by one rename. Raises: LostClaimError where it is not ours any more.
        """
        folder = self.folder(record.stage, record.identity)
        place = self.place(record.stage, record.identity, claim)
        files = {name: file_hash(path) for name, path in lasting_files(place).items()}
        write_json(place / "record.json", sealed(dataclasses.replace(record, files=files).to_json()))
        if claim is not None:
            claim.check()
            self._publish(place, folder)
        # Only now: a kill before the record is in its place must still find what to go on from.
        for name in (*CHECKPOINTS, "failure.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / CHUNKS, ignore_errors=True)
        self.forget_tries(record.stage, record.identity)

    def _publish(self, place: Path, folder: Path) -> None:
        """Renames a whole artifact to where it is to lie; of two that do, one alone succeeds."""
        if folder.exists() and not (folder / "record.json").exists():
            shutil.rmtree(folder)
        os.rename(place, folder)

    def _tries(self, stage: str, identity: str) -> dict[int, Path]:
        """What tries of an artifact left that were stopped, by the token of their claim; 0 where there was none."""
        folder = self.folder(stage, identity)
        numbered = {path.name.rpartition(".")[2]: path for path in folder.parent.glob(f"{identity}.*")}
        found = {int(token): path for token, path in numbered.items() if token.isdigit()}
        return {0: folder, **found} if folder.exists() and not self.is_complete(stage, identity) else found

    def forget_tries(self, stage: str, identity: str) -> None:
        """Removes what tries left of an artifact that is complete, and copies of such that were not finished."""
        unfinished = self.folder(stage, identity).parent.glob(f".{identity}.*")
        for path in (*self._tries(stage, identity).values(), *unfinished):
            shutil.rmtree(path, ignore_errors=True)

    def failure(self, stage: str, identity: str) -> Failure | None:
        """Why the last try failed, None where none did."""
        path = self.folder(stage, identity) / "failure.json"
        if not path.exists():
            return None
        try:
            return Failure(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Failure(f"{path} cannot be read", "", "")

    def begin(self, stage: str, identity: str, claim: Claim | None = None) -> None:
        """Makes the folder to work in, and removes the failure and half-written files of an earlier try from it.

        What the last try left is gone on from. It is taken as it lies where that try has ended; what a process left
        that may wake again is copied, so that no two processes ever write in one folder. A copy takes its place when it
        is whole.
        """
        place = self.place(stage, identity, claim)
        (self.folder(stage, identity) / "failure.json").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder(stage, identity).rmdir()  # where nothing but the failure was kept there
        if claim is not None and (tries := self._tries(stage, identity)):
            last = tries[max(tries)]
            if last != place:
                shutil.rmtree(place, ignore_errors=True)
                has_ended = claim.is_sure or (claim.follows_ended and max(tries) == claim.token - 1)
                last.rename(place) if has_ended else _copy_whole_files(last, place)
            (place / "record.json").unlink(missing_ok=True)
        place.mkdir(parents=True, exist_ok=True)
        for path in place.rglob(".*"):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)

    def fail(self, stage: str, identity: str, error: BaseException, command: str) -> Failure:
        """Keeps the traceback of a failed try beside what it left behind."""
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        failure = Failure(sentence, "".join(traceback.format_exception(error)), command)
        write_json(self.folder(stage, identity) / "failure.json", failure.__dict__)
        return failure

    def claim(self, name: str, waiting: Callable[[], None]) -> AbstractContextManager[Claim]:
        """Holds the right to make `name`; waits where another process has it, after a call of `waiting`.

        A process of this host that is killed holds nothing from that moment on, one of another host until its lease
        has run out.
        """
        return claims.hold(self.root / "claims", name, waiting)

    def is_claimed(self, name: str) -> bool:
        """Whether some process works on `name` now."""
        return claims.at_work(self.root / "claims", name) is not None

    def worker_on(self, name: str) -> str:
        """Which process works on `name` now and since when, in words; "" where none does."""
        root = self.root / "claims"
        held = claims.at_work(root, name)
        if held is None:
            return ""
        who = f"{held.holder.host}, process {held.holder.process}" if held.holder else "a process"
        since = claims.began(root, name, held)
        return who if since is None else f"{who}, since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC"

    def write_sweep(self, sweep: Sweep) -> Path:
        """Keeps which cells a call asked for."""
        path = self.root / "sweeps" / f"{sweep.sweep}.json"
        write_json(path, sealed(sweep.to_json()))
        return path

    def write_shortlist(self, choice: Shortlist) -> Path:
        """Keeps which first stages of a grid were chosen."""
        path = self.root / SHORTLISTS / f"{choice.name}.json"
        write_json(path, sealed(choice.to_json()))
        return path

    def shortlist(self, name: str) -> Shortlist | None:
        """The choice of that name, None where there is none yet. Raises: UserError for a file that cannot be read."""
        path = self.root / SHORTLISTS / f"{name}.json"
        try:
            return Shortlist.from_json(read_sealed(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({error}); remove it to choose anew") from error

    def sweeps(self) -> list[Sweep]:
        """All sweeps, the oldest first."""
        found = [read_sweep(path) for path in (self.root / "sweeps").glob("*.json")]
        return sorted(found, key=lambda sweep: sweep.created)


def lasting_files(folder: Path) -> dict[str, Path]:
    """The files of an artifact that its record holds hashes of, by their path in its folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if name not in UNHASHED and not name.startswith(f"{CHUNKS}/")}


def _copy_whole_files(source: Path, target: Path) -> None:
    """Copies a folder in which another process may be at work, without the files that it has not finished."""

    def copy_if_there(origin: str, copied: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(origin, copied)

    def unfinished(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if TEMPORARY.fullmatch(name)]

    copied = temporary_of(target)
    shutil.copytree(source, copied, ignore=unfinished, copy_function=copy_if_there)
    os.rename(copied, target)


def read_sweep(path: Path) -> Sweep:
    """The sweep in a file. Raises: UserError where it cannot be read, or is damaged."""
    try:
        return Sweep.from_json(read_sealed(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it, the results themselves lie elsewhere") from error


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds (so that it sorts)."""
    return datetime.now(UTC).isoformat()
