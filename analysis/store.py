"""The sweeps and records of a store, as its stages wrote them."""

import json
from pathlib import Path

from analysis import older_stores
from ldm.errors import UserError, nearest
from ldm.records import SCHEMA, StageRecord, Sweep, read_record, read_sealed


class Records:
    """The records of a store, each file read once."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._read: dict[tuple[str, str], StageRecord | None] = {}

    def get(self, stage: str, identity: str | None) -> StageRecord | None:
        """The record of a finished stage, or None.

        Raises: UserError for a file that is no record, or one of a newer program.
        """
        if identity is None:
            return None
        key = (stage, identity)
        if key not in self._read:
            folder = self.store / stage / identity
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
            self._read[key] = record
        return self._read[key]

    def failure(self, stage: str, identity: str) -> str | None:
        """The error of a failed stage in one line, or None where it did not fail."""
        path = self.store / stage / identity / "failure.json"
        if not path.exists():
            return None
        try:
            return " ".join(str(json.loads(path.read_text(encoding="utf-8"))["error"]).split())
        except (ValueError, KeyError, TypeError):
            return f"its failure file {path} cannot be read"


def chosen_sweeps(store: Path, sweep: str | None) -> list[Sweep]:
    """One sweep (None: the latest that has results), or for "all" every sweep, the earliest first.

    Raises: UserError where the store or the sweep is not there, or cannot be read.
    """
    if not store.is_dir():
        raise UserError(f"There is no store at '{store}': name the folder that run.py wrote with --store.")
    found = {path.stem: path for path in sorted((store / "sweeps").glob("*.json"))}
    if not found:
        raise UserError(f"The store '{store}' holds no sweeps: run `python run.py -m ...` with store={store} first.")
    if sweep is not None and sweep != "all" and sweep not in found:
        raise UserError(
            f"The store '{store}' holds no sweep '{sweep}'{nearest(sweep, found)}"
            f"{'' if nearest(sweep, found) else '; it holds ' + ', '.join(found)}."
        )
    if sweep is not None and sweep != "all":
        return [_read_sweep(found[sweep])]
    sweeps = sorted((_read_sweep(path) for path in found.values()), key=lambda item: (item.created, item.sweep))
    if sweep == "all":
        return sweeps
    # One that was refused or stopped before its first result is not what is meant.
    with_results = [item for item in sweeps if _has_results(store, item)]
    return (with_results or sweeps)[-1:]


def _has_results(store: Path, sweep: Sweep) -> bool:
    """Whether a stage of the sweep that holds results is finished."""
    return any(
        (store / stage / identity / "record.json").exists()
        for cell in sweep.cells
        for stage, identity in cell.stages.items()
        if stage not in sweep.stages or sweep.stages[stage].is_result
    )


def _read_sweep(path: Path) -> Sweep:
    try:
        read = Sweep.from_json(read_sealed(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a sweep of this program ({error}): remove it or choose another --sweep."
        ) from error
    if read.schema > SCHEMA:
        raise UserError(f"'{path}' was written by a newer version of this program: read it with that version.")
    return older_stores.completed(read)
