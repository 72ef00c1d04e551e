"""Copies what other stores hold into one: python -m experiments.merge STORE ... --into STORE [--dry-run].

An artifact is copied where the store has none of its identity, after its identity was computed again from its settings
and with its files checked against its record. Sweeps come along; image caches, claims, logs and failures stay behind.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from experiments.claims import Claim
from experiments.cli import exit_code
from experiments.commands import timing
from experiments.commands.ledger import existing_store
from experiments.console import reporting, say
from experiments.identity import follows
from experiments.stages import STAGES
from experiments.store import Store, lasting_files, read_sweep
from ldm.errors import UserError
from ldm.intact import check_file, file_hash
from ldm.joined import disagreement, name_apart
from ldm.records import SCHEMA, SHORTLISTS, Shortlist, StageRecord, Sweep, is_store

MERGING: Final = ".merging"
"""The folder of a store in which artifacts lie while they are copied, `<stage>/<identity>` each."""

BEFORE: Final = ".before"
"""How the folder is called that an artifact is to replace, while it does."""

TARGET, NEWEST = "target", "newest"
"""What `--keep` may be: of two artifacts of one identity that of the store that is written to, or the later one."""

KNOWN = {stage.name: stage for stage in STAGES}
ORDER = [*KNOWN, timing.STAGE]
"""Parents come first, so that a merge that is stopped leaves nothing without what it hangs on."""

Key = tuple[str, str]
"""Stage and identity."""


@dataclass
class Tally:
    """What became of one store's artifacts and sweeps.

    `foreign`: those that stand in the other store with results of its own, and copies that hang on them (`mixed`).
    `unchecked`: of whose settings it could not be told whether the identity follows. `unhashed`: older than hashes.
    `replaced`: those of the other store that a newer version took the place of; `agreed`: that are now as in this one.
    """

    copied: int = 0
    there: int = 0
    refused: int = 0
    differing: int = 0
    mixed: int = 0
    unchecked: int = 0
    unhashed: int = 0
    sweeps: int = 0
    sweeps_there: int = 0
    foreign: set[Key] = field(default_factory=set)
    replaced: set[Key] = field(default_factory=set)
    agreed: set[Key] = field(default_factory=set)


class Into:
    """The store that others are copied into. A dry run writes nothing and remembers what it would have copied."""

    def __init__(self, root: Path, keep: str | None, is_dry: bool) -> None:
        """Raises: UserError for a folder that holds anything else than a store."""
        if root.is_dir() and any(root.iterdir()) and not is_store(root):
            raise UserError(f"--into {root} is a folder of other things; give a store, or a folder that is new")
        self.store, self.keep, self.is_dry = Store(root, is_read_only=is_dry), keep, is_dry
        self.ahead: dict[Key, StageRecord] = {}
        self.sweeps_ahead: dict[str, Sweep] = {}

    def record(self, key: Key) -> StageRecord | None:
        """The artifact that stands here, or would after what came before."""
        return self.ahead.get(key) or self.store.record(*key)

    def take(self, source: Store, record: StageRecord, tally: Tally) -> None:
        """Copies an artifact unless the store has it. Raises: UserError where a file of it is damaged."""
        key = (record.stage, record.identity)
        if self.is_dry:
            self._take(source, record, tally)
            return
        waiting = f"{'  '.join(key)}  waits: another process works on it"
        with self.store.claim("/".join(key), lambda: say(waiting)) as claim:
            recover(self.store, key)
            self._take(source, record, tally, claim)

    def _take(self, source: Store, record: StageRecord, tally: Tally, claim: Claim | None = None) -> None:
        key = (record.stage, record.identity)
        held = self.record(key)
        if held is not None:
            is_newer = self.keep == NEWEST and record.created > held.created
            if not (sentence := disagreement(held, record, (self.store.root, source.root))):
                tally.there += 1
                tally.agreed.add(key)
                return
            tally.differing += 1
            say(f"{sentence}; that of {source.root if is_newer else self.store.root} is kept", style="yellow")
            if not is_newer:
                tally.foreign.add(key)
                return
        if claim is None:
            check_files(source, record)
            self.ahead[key] = record
        else:
            copy(source, record, self.store, claim)
        tally.agreed.add(key)
        if held is None:
            tally.copied += 1
        else:
            tally.replaced.add(key)
        if tally.foreign.intersection(record.parents.items()):
            tally.mixed += 1
            tally.foreign.add(key)

    def take_sweep(self, sweep: Sweep, tally: Tally) -> None:
        """Carries a sweep over; where another one has its name it is called apart."""
        named = dataclasses.replace(sweep, sweep=name_apart(sweep))
        for each in (sweep, named):
            held = self._sweep(each.sweep)
            if held == each:
                tally.sweeps_there += 1
                return
            if held is None:
                if self.is_dry:
                    self.sweeps_ahead[each.sweep] = each
                else:
                    self.store.write_sweep(each)
                tally.sweeps += 1
                return

    def take_shortlist(self, choice: Shortlist) -> None:
        """Carries the choice of a shortlist over; where the same call chose otherwise, the store's own stays."""
        held = self.store.shortlist(choice.name)
        if held is None:
            if not self.is_dry:
                self.store.write_shortlist(choice)
        elif held != choice:
            say(
                f"shortlist {choice.name} chose other first stages; the choice of {self.store.root} is kept",
                style="yellow",
            )

    def _sweep(self, name: str) -> Sweep | None:
        path = self.store.root / "sweeps" / f"{name}.json"
        return self.sweeps_ahead.get(name) or (read_sweep(path) if path.exists() else None)


def names_of(folder: Path, record: StageRecord) -> list[str]:
    """The files of an artifact: those of its record, or all that lie there where it is older than hashes."""
    return list(lasting_files(folder) if record.files is None else record.files)


def check_files(source: Store, record: StageRecord) -> None:
    """Raises: UserError that names the first damaged file of an artifact."""
    for name in record.files or ():
        source.file(record, name)


def copy(source: Store, record: StageRecord, target: Store, claim: Claim) -> None:
    """Puts an artifact in its place by one rename, whatever lies there; its files are checked as they are copied.

    Raises: UserError where a file is damaged; LostClaimError where another process took over.
    """
    origin, folder = source.folder(record.stage, record.identity), target.folder(record.stage, record.identity)
    place = target.root / MERGING / record.stage / record.identity
    shutil.rmtree(place, ignore_errors=True)
    for name in (*names_of(origin, record), "record.json"):
        _copy_file(origin / name, place / name, (record.files or {}).get(name))
    claim.check()
    folder.parent.mkdir(exist_ok=True)
    if folder.exists():  # what a try that was stopped left there, or the artifact that is not kept
        os.rename(folder, _before(place))
    os.rename(place, folder)
    shutil.rmtree(_before(place), ignore_errors=True)
    target.forget_tries(record.stage, record.identity)


def _before(place: Path) -> Path:
    return place.with_name(place.name + BEFORE)


def _copy_file(origin: Path, copied: Path, expected: str | None) -> None:
    copied.parent.mkdir(parents=True, exist_ok=True)
    if expected is not None and not origin.is_file():
        check_file(origin, expected, f"remove the folder {origin.parent} and compute it anew there")
    shutil.copyfile(origin, copied)
    with open(copied, "rb") as file:
        os.fsync(file.fileno())
    if expected is not None and file_hash(copied) != expected:
        check_file(origin, expected, f"remove the folder {origin.parent} and compute it anew there")
        raise UserError(f"{copied} did not come out as it was written; look at the disk it lies on")


def recover(store: Store, key: Key) -> None:
    """Brings back what a merge that was stopped between two renames had moved away, or removes it."""
    before, folder = _before(store.root / MERGING / key[0] / key[1]), store.folder(*key)
    if not before.exists():
        return
    if folder.exists():
        shutil.rmtree(before)
    else:
        os.rename(before, folder)


def recover_all(store: Store) -> None:
    """As `recover`, for all that was left; a merge that is at work keeps what is its own."""
    for before in sorted((store.root / MERGING).glob(f"*/*{BEFORE}")):
        key = (before.parent.name, before.name.removesuffix(BEFORE))
        with store.claim("/".join(key), lambda: None):
            recover(store, key)


def refusal(record: StageRecord, folder: Path) -> str:
    """Why an artifact is not to be copied, in one sentence; "" where nothing is against it."""
    if record.schema > SCHEMA:
        return f"{folder} was written by a newer version of this program: merge with that one"
    if (folder.parent.name, folder.name) != (record.stage, record.identity):
        return f"{folder} holds the record of {record.stage} {record.identity}: it was moved there"
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in record.files or ()):
        return f"{folder} names files outside of itself: its record was changed"
    if record.stage not in ORDER:
        return f"{folder} is of a stage that this program does not have: merge with the one that wrote it"
    if is_named_rightly(record) is False:
        return (
            f"the identity of {folder} does not follow from the settings in its record: they were changed, or it was "
            "written by another program"
        )
    return ""


def is_named_rightly(record: StageRecord) -> bool | None:
    """Whether an identity follows from the settings of its record; None where it cannot be told here."""
    if record.stage == timing.STAGE:
        return timing.follows(record)
    return follows(KNOWN[record.stage], record)


@contextlib.contextmanager
def _refusals(tally: Tally) -> Iterator[None]:
    """Within it what the user can mend is counted and said, and the rest goes on."""
    try:
        yield
    except UserError as error:
        tally.refused += 1
        say(f"refused: {error}", style="red")


def join(source: Store, into: Into) -> Tally:
    """Copies what one store holds into another, saying what is refused and what differs."""
    tally = Tally()
    paths = sorted(source.records(), key=_place_in_order)
    with reporting(f"artifacts of {source.root}", len(paths)) as reporter:
        for done, path in enumerate(paths, start=1):
            with _refusals(tally):
                record = source.record(path.parent.parent.name, path.parent.name)
                assert record is not None  # its file is there
                if sentence := refusal(record, path.parent):
                    raise UserError(sentence)
                into.take(source, record, tally)
                tally.unchecked += is_named_rightly(record) is None
                tally.unhashed += record.files is None
            reporter.advance_to(done)
    for path in sorted((source.root / "sweeps").glob("*.json")):
        with _refusals(tally):
            sweep = read_sweep(path)
            if sweep.schema > SCHEMA:
                raise UserError(f"{path} was written by a newer version of this program: merge with that one")
            into.take_sweep(sweep, tally)
    for path in sorted((source.root / SHORTLISTS).glob("*.json")):
        with _refusals(tally):
            choice = source.shortlist(path.stem)
            assert choice is not None  # its file is there
            into.take_shortlist(choice)
    return tally


def _place_in_order(path: Path) -> tuple[int, Path]:
    stage = path.parent.parent.name
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), path)


def left_behind(store: Store, tally: Tally) -> list[Key]:
    """What stays in a store and was made of an artifact that was replaced, or of such in turn."""
    found = list[Key]()
    for path in sorted(store.records(), key=_place_in_order) if tally.replaced else ():
        key = (path.parent.parent.name, path.parent.name)
        record = store.record(*key)
        parents = set() if record is None else set(record.parents.items())
        if key not in tally.agreed and parents & {*tally.replaced, *found}:
            found.append(key)
    return found


def say_tally(source: Path, tally: Tally, is_dry: bool) -> None:
    """One line about a store, and one for each thing that its reader should know."""
    done = "would be copied" if is_dry else "copied"
    say(
        f"{source}: {tally.copied} artifacts {done}, {tally.there} already there, {tally.differing} with other "
        f"results, {tally.refused} refused; {tally.sweeps} sweeps {done}, {tally.sweeps_there} already there",
        style="bold",
    )
    if tally.mixed:
        say(f"  {tally.mixed} of them were made of artifacts whose other version stands here", style="yellow")
    if tally.unchecked:
        say(
            f"  {tally.unchecked} were made with files of weights that are not here: whether their identities follow "
            "from their settings cannot be told",
            style="yellow",
        )
    if tally.unhashed:
        say(f"  {tally.unhashed} were written before files had hashes: they cannot be checked", style="yellow")


def merge(roots: Sequence[Path], root: Path, keep: str | None, is_dry: bool) -> int:
    """Copies all stores into one; 0, 1 where something was refused, 2 where results differ and nobody said which stay.

    Raises: UserError before anything is copied where one of them is no store, or the one that is written to.
    """
    sources = [existing_store(each, is_read_only=True) for each in roots]
    for each in roots:
        if root.exists() and each.samefile(root):
            raise UserError(f"{each} is the store that is written to: leave it out, what it holds stays")
    into = Into(root, keep, is_dry)
    if not is_dry:
        recover_all(into.store)
    tallies = []
    for source in sources:
        tallies.append(join(source, into))
        say_tally(source.root, tallies[-1], is_dry)
        if behind := left_behind(into.store, tallies[-1]):
            say(
                f"  {len(behind)} artifacts that stay in {root} were made of such as are replaced, and belong "
                f"to them no longer; the first is {' '.join(behind[0])}: remove their folders to compute them anew",
                style="yellow",
            )
    if not is_dry:
        remove_if_empty(into.store.root / MERGING)
    if keep is None and any(tally.differing for tally in tallies):
        say(
            f"results of one identity differ: those of {root} stay, until you say --keep {TARGET} or --keep {NEWEST}",
            style="yellow",
        )
        return 2
    return 1 if any(tally.refused for tally in tallies) else 0


def remove_if_empty(folder: Path) -> None:
    """Removes the folders of copies that are done."""
    for path in (*folder.glob("*"), folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 where something was refused, 2 for what the user can mend or has to decide."""
    parser = argparse.ArgumentParser(prog="python -m experiments.merge", description=__doc__)
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="folders of results to copy from")
    parser.add_argument("--into", type=Path, required=True, metavar="STORE", help="folder of results to copy into")
    parser.add_argument(
        "--keep",
        choices=(TARGET, NEWEST),
        help="which of two artifacts stays that have one identity and other results (default: the target's, with exit "
        "code 2)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and count, and write nothing")
    options = parser.parse_args(arguments)
    return exit_code(lambda: merge(options.stores, options.into, options.keep, options.dry_run))
