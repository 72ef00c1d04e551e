"""Writes the records of stores without their files: python -m experiments.publish STORE ... --into FOLDER.

Whoever has the folder draws every figure and table from it and asks it what to take; weights, latents and pictures stay
behind. What the machine was called is left out, and commands name the store `store`.
"""

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from experiments.cli import exit_code
from experiments.commands import timing
from experiments.commands.ledger import chosen_sweeps, existing_store
from experiments.console import say
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import SHORTLISTS, STORE_MARK, Shortlist, StageRecord, Sweep, is_store, sealed, write_json

STORE: Final = "store"
"""What a store is called in what is published."""


def publish(roots: Sequence[Path], into: Path, which: str | None) -> int:
    """Writes the sweeps and the records of their cells; what the folder holds of them already is written anew.

    Raises: UserError where one of them is no store, or the folder holds anything else than records.
    """
    stores = [existing_store(each, is_read_only=True) for each in roots]
    if into.is_dir() and any(into.iterdir()) and (not is_store(into) or (into / "claims").exists()):
        raise UserError(f"--into {into} is a folder of other things; give one that is new, or published before")
    chosen = [chosen_sweeps(store, which) for store in stores]
    into.mkdir(parents=True, exist_ok=True)
    (into / STORE_MARK).touch()
    for store, sweeps in zip(stores, chosen, strict=True):
        records = records_of(store, sweeps)
        names = {str(record.environment.get("config", {}).get("store", STORE)) for record in records}
        # Sweeps come last: without them what a stopped call left is no store that anything reads.
        written: dict[Path, StageRecord | Shortlist | Sweep] = {
            **{Path(one.stage, one.identity, "record.json"): one for one in records},
            **{Path(SHORTLISTS, f"{one.name}.json"): one for one in shortlists_of(store)},
            **{Path("sweeps", f"{one.sweep}.json"): one for one in sweeps},
        }
        for path, one in written.items():
            write_json(into / path, sealed(without_names(one.to_json(), names)))
        say(f"{store.root}: {len(sweeps)} sweeps, {len(records)} records written to {into}")
    return 0


def records_of(store: Store, sweeps: Sequence[Sweep]) -> list[StageRecord]:
    """The finished artifacts of the cells of sweeps, each once, and how fast their samples were measured to be."""
    asked = dict.fromkeys(stage for sweep in sweeps for cell in sweep.cells for stage in cell.stages.items())
    timings = [(timing.STAGE, path.parent.name) for path in store.records(timing.STAGE)]
    found = [record for stage in (*asked, *timings) if (record := store.record(*stage)) is not None]
    return [one for one in found if one.stage != timing.STAGE or ("samples", one.parents["samples"]) in asked]


def shortlists_of(store: Store) -> list[Shortlist]:
    """What shortlists chose; readers take those whose candidates are there."""
    found = (store.shortlist(path.stem) for path in sorted((store.root / SHORTLISTS).glob("*.json")))
    return [choice for choice in found if choice is not None]


def without_names(value: Any, stores: Collection[str]) -> Any:
    """The same without the machine's name, and with these stores called `store`."""
    if isinstance(value, Mapping):
        kept = {key: without_names(each, stores) for key, each in value.items() if key != "host"}
        return {**kept, "store": STORE} if kept.get("store") in stores else kept
    if isinstance(value, list | tuple):
        return [without_names(each, stores) for each in value]
    if isinstance(value, str):
        for name in sorted(stores, key=len, reverse=True):
            value = re.sub(rf"\bstore={re.escape(name)}(?![\w./-])", f"store={STORE}", value)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 after one sentence about what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__)
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="folders of results to publish")
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where records are written")
    parser.add_argument("--sweep", metavar="ID|all", default="all", help="sweep to publish (default: all)")
    options = parser.parse_args(arguments)
    return exit_code(lambda: publish(options.stores, options.into, options.sweep))
