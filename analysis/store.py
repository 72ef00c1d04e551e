"""The sweeps and records of a store, as its stages wrote them, and of several stores as if they were one."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis import older_stores
from ldm.errors import UserError, nearest
from ldm.joined import disagreement, name_apart
from ldm.records import SCHEMA, StageRecord, Sweep, read_record, read_sealed

Stores = Path | Sequence[Path]
"""A store, or several: what the first has counts, as in a store that the others were merged into."""


def as_stores(stores: Stores) -> tuple[Path, ...]:
    """Several stores, each once."""
    return (stores,) if isinstance(stores, Path) else tuple(dict.fromkeys(stores))


def named(stores: Sequence[Path]) -> str:
    """Stores as a sentence names them: "store 'a'" or "stores 'a', 'b'"."""
    return f"store{'s' * (len(stores) > 1)} {', '.join(repr(str(store)) for store in stores)}"


class Records:
    """The records of one store or several, each file read once.

    `differing`: what artifacts of one identity that were read so far differ in, a sentence each.
    """

    def __init__(self, stores: Stores) -> None:
        self.stores = as_stores(stores)
        self.differing: list[str] = []
        self._read: dict[tuple[str, str], StageRecord | None] = {}
        self._folders: dict[tuple[str, str], Path] = {}

    def get(self, stage: str, identity: str | None) -> StageRecord | None:
        """The record of a finished stage, or None.

        Raises: UserError for a file that is no record, or one of a newer program.
        """
        if identity is None:
            return None
        key = (stage, identity)
        if key not in self._read:
            found = {store: record for store in self.stores if (record := _record(store / stage / identity))}
            self._read[key] = next(iter(found.values()), None)
            if found:
                first, *others = found
                self._folders[key] = first / stage / identity
                told = (disagreement(found[first], found[other], (first, other)) for other in others)
                self.differing += [f"{sentence}; that of {first} is shown" for sentence in told if sentence]
        return self._read[key]

    def folder(self, record: StageRecord) -> Path:
        """Where the files of an artifact lie that was read."""
        return self._folders[record.stage, record.identity]

    def all_of(self, stage: str) -> Iterator[StageRecord]:
        """The records of a stage, in the order of their identities."""
        paths = (path for store in self.stores for path in (store / stage).glob("*/record.json"))
        identities = {path.parent.name for path in paths if "." not in path.parent.name}  # tries that were stopped have
        found = (self.get(stage, identity) for identity in sorted(identities))
        return (record for record in found if record is not None)

    def failure(self, stage: str, identity: str) -> str | None:
        """The error of a failed stage in one line, or None where it did not fail."""
        paths = (store / stage / identity / "failure.json" for store in self.stores)
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            return None
        try:
            return " ".join(str(json.loads(path.read_text(encoding="utf-8"))["error"]).split())
        except (ValueError, KeyError, TypeError):
            return f"its failure file {path} cannot be read"


def _record(folder: Path) -> StageRecord | None:
    try:
        record = read_record(folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{folder / 'record.json'}' is not a record of this program ({error}): "
            "remove the folder and run the sweep again."
        ) from error
    if record is not None and record.schema > SCHEMA:
        raise UserError(
            f"'{folder / 'record.json'}' was written by a newer version of this program: read it with that one."
        )
    return record


def chosen_sweeps(stores: Stores, sweep: str | None) -> list[Sweep]:
    """One sweep (None: the latest that has results), or for "all" every sweep, the earliest first.

    Raises: UserError where a store or the sweep is not there, or cannot be read.
    """
    stores = as_stores(stores)
    for store in stores:
        if not store.is_dir():
            raise UserError(f"There is no store at '{store}': name the folder that run.py wrote with --store.")
    found = _by_name(stores)
    holds = f"The {named(stores)} {'holds' if len(stores) == 1 else 'hold'} no"
    if not found:
        raise UserError(f"{holds} sweeps: run `python run.py -m ...` with store={stores[0]} first.")
    if sweep is not None and sweep != "all" and sweep not in found:
        offered = nearest(sweep, found) or f"; {'it holds' if len(stores) == 1 else 'they hold'} {', '.join(found)}"
        raise UserError(f"{holds} sweep '{sweep}'{offered}.")
    if sweep is not None and sweep != "all":
        return [_read_sweep(found[sweep], sweep)]
    sweeps = sorted(
        (_read_sweep(path, name) for name, path in found.items()), key=lambda item: (item.created, item.sweep)
    )
    if sweep == "all":
        return sweeps
    # One that was refused or stopped before its first result is not what is meant.
    with_results = [item for item in sweeps if _has_results(stores, item)]
    return (with_results or sweeps)[-1:]


def _by_name(stores: Sequence[Path]) -> dict[str, Path]:
    """The files of sweeps by what they are called, those apart that share the name of another one."""
    found: dict[str, Path] = {}
    for store in stores:
        for path in sorted((store / "sweeps").glob("*.json")):
            if path.stem in found and (sweep := _read_sweep(path)) != _read_sweep(found[path.stem]):
                found.setdefault(name_apart(sweep), path)
            else:
                found.setdefault(path.stem, path)
    return found


def _has_results(stores: Sequence[Path], sweep: Sweep) -> bool:
    """Whether a stage of the sweep that holds results is finished."""
    return any(
        (store / stage / identity / "record.json").exists()
        for cell in sweep.cells
        for stage, identity in cell.stages.items()
        for store in stores
        if stage not in sweep.stages or sweep.stages[stage].is_result
    )


def _read_sweep(path: Path, name: str | None = None) -> Sweep:
    """The sweep in a file; with a name, as it is called and with all that later ones say."""
    try:
        read = Sweep.from_json(read_sealed(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a sweep of this program ({error}): remove it or choose another --sweep."
        ) from error
    if read.schema > SCHEMA:
        raise UserError(f"'{path}' was written by a newer version of this program: read it with that version.")
    if name is None:
        return read
    return older_stores.completed(read if name == path.stem else dataclasses.replace(read, sweep=name))
