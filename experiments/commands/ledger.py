"""Every cell of a sweep and how far it is; --verify looks for damage in a store."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.cli import assigned, exit_code, without
from experiments.console import reporting, say
from experiments.slurm import SlurmError
from experiments.stages import STAGES
from experiments.store import Failure, Store, read_sweep
from experiments.submissions import Jobs, is_submitted, look
from experiments.sweep import repeated, shell_word
from ldm.data.cache import check_cache, has_hashes
from ldm.errors import UserError, nearest
from ldm.records import Cell, Sweep

ROOT = Path(__file__).resolve().parents[2]
ALWAYS_SHOWN = ("f", "regulariser", "steps", "seed")


class State(StrEnum):
    """How far a stage is."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    MISSING = "missing"


STYLES: Mapping[State, str] = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.QUEUED: "blue",
    State.FAILED: "bold red",
    State.MISSING: "yellow",
}


@dataclass(frozen=True)
class StageState:
    """One stage of one cell; `failure` of its last try where the state is FAILED, `where` it runs, and since when."""

    stage: str
    identity: str
    state: State
    failure: Failure | None = None
    where: str = ""


@dataclass(frozen=True)
class Entry:
    """One cell of the ledger, its stages in order."""

    sweep: Sweep
    cell: Cell
    stages: Mapping[str, StageState]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return all(stage.state is State.DONE for stage in self.stages.values())


NO_JOBS = Jobs()

Launch = Callable[[Sequence[str]], int]
"""Runs run.py with these overrides and returns its exit code."""


def existing_store(root: Path, is_read_only: bool = False) -> Store:
    """The store that lies at `root`; nothing is created. Raises UserError where there is none."""
    if not root.exists():
        raise UserError(f"there is no store at {root}; give its folder with --store DIR, or run python run.py first")
    if not root.is_dir() or not (root / "sweeps").is_dir():
        raise UserError(f"{root} holds no sweeps, so it is no store; give another folder with --store DIR")
    return Store(root, is_read_only)


def chosen_sweeps(store: Store, which: str | None) -> list[Sweep]:
    """The latest sweep, all, or the one of that id, the oldest first. Raises UserError where there is none."""
    try:
        sweeps = store.sweeps()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"a file in {store.root / 'sweeps'} cannot be read ({error}); remove it and run its sweep again"
        ) from error
    if not sweeps:
        raise UserError(
            f"{store.root} holds no sweeps; give another folder with --store DIR, or run python run.py first"
        )
    if which is None:
        return sweeps[-1:]
    if which == "all":
        return sweeps
    found = [sweep for sweep in sweeps if sweep.sweep == which]
    if not found:
        names = [sweep.sweep for sweep in sweeps]
        raise UserError(f"--sweep {which} is not in {store.root}{nearest(which, names)}; the latest is {names[-1]}")
    return found


def state_of(store: Store, stage: str, identity: str, jobs: Jobs = NO_JOBS) -> StageState:
    """How far one stage is: complete, at work, in Slurm's queue, failed at its last try, or none of these."""
    if store.is_complete(stage, identity):
        return StageState(stage, identity, State.DONE)
    job = jobs.states.get((stage, identity))
    if worker := store.worker_on(f"{stage}/{identity}"):
        return StageState(stage, identity, State.RUNNING, where=worker if job is None else f"{worker}, job {job.job}")
    if job and job.is_at_work:
        return StageState(stage, identity, State.RUNNING, where=f"{job.node}, since {job.start}, job {job.job}")
    if job and job.is_waiting:
        return StageState(stage, identity, State.QUEUED)
    failure = store.failure(stage, identity) or jobs.failure(store, (stage, identity))
    return StageState(stage, identity, State.FAILED if failure else State.MISSING, failure)


def entries(store: Store, sweeps: Sequence[Sweep]) -> list[Entry]:
    """The cells of the sweeps, each once, as the latest sweep that has it names it."""
    jobs = _jobs(store, {key for sweep in sweeps for cell in sweep.cells for key in cell.stages.items()})
    latest: dict[tuple[str, ...], tuple[Sweep, Cell]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            latest[tuple(cell.stages.values())] = (sweep, cell)
    states = {
        (name, identity): state_of(store, name, identity, jobs)
        for _, cell in latest.values()
        for name, identity in cell.stages.items()
    }
    return [
        Entry(sweep, cell, {name: states[name, identity] for name, identity in cell.stages.items()})
        for sweep, cell in latest.values()
    ]


def _jobs(store: Store, stages: Set[tuple[str, str]]) -> Jobs:
    """The jobs of Slurm that make these stages; where it does not answer, that is said."""
    try:
        return look(store, {stage for stage in stages if not store.is_complete(*stage)})
    except SlurmError as error:
        say(f"note: what waits in the queue reads as missing, and what was killed too: {error}", style="yellow")
        return NO_JOBS


def retry(store: Store, found: Sequence[Entry], launch: Launch) -> None:
    """Runs what the entries lack, each artifact once; what hangs on a stage that fails again is left alone.

    So is what waits in Slurm's queue, and hangs on that.
    """
    states = [state for entry in found for state in entry.stages.values()]
    stopped_at = {(state.stage, state.identity) for state in states if state.state is State.QUEUED}
    for entry in found:
        for target in _leaves(entry):
            lineage = [(name, entry.cell.stages[name]) for name in _ancestry(entry, target)]
            if store.is_complete(target, entry.cell.stages[target]) or stopped_at.intersection(lineage):
                continue
            launch([*in_store(entry.cell, store), f"sweep.target={target}", f"sweep.id={entry.sweep.sweep}"])
            stopped_at.update([item for item in lineage if not store.is_complete(*item)][:1])


def in_store(cell: Cell, store: Store) -> list[str]:
    """The overrides of a cell with the store where it lies now, wherever it lay when they were given."""
    return [*without(cell.overrides, "store"), assigned("store", str(store.root))]


def run_py(overrides: Sequence[str]) -> int:
    """run.py in a process of its own, so that a crash of it stays there."""
    process = subprocess.Popen([sys.executable, str(ROOT / "run.py"), *overrides])
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)  # a second Ctrl-C, where the terminal sent one, would not let it save
        process.wait()
        raise


def repeat_command(cell: Cell, store: Store) -> str:
    """What computes one cell again in the store where it lies now, ready for a shell."""
    return repeated(in_store(cell, store))


def table(found: Sequence[Entry]) -> Table:
    """A line a cell: what sets it apart, and the state of each of its stages."""
    axes = _shown_axes([entry.cell for entry in found])
    order = dict.fromkeys(name for entry in found for name in (*entry.sweep.stages, *entry.stages))
    names = [name for name in order if any(name in entry.stages for entry in found)]
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for axis in axes:
        shown.add_column(axis.replace("_", " "), justify="right" if axis != "regulariser" else "left", no_wrap=True)
    for name in names:
        shown.add_column(name.replace("_", " "), no_wrap=True)
    for entry in found:
        cells = [_text(entry.cell.axes.get(axis)) for axis in axes]
        for name in names:
            state = entry.stages[name].state if name in entry.stages else None
            cells.append(f"[{STYLES[state]}]{state}[/]" if state else "")
        shown.add_row(*cells)
    return shown


def say_summary(found: Sequence[Entry]) -> None:
    """How many cells are done, and how many stages are in each state, counted once an artifact."""
    states = {(s.stage, s.identity): s.state for entry in found for s in entry.stages.values()}
    counts = {state: sum(value is state for value in states.values()) for state in State}
    stages = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{sum(entry.is_done for entry in found)} of {len(found)} cells done; stages: {stages}", style="bold")


def say_running(found: Sequence[Entry]) -> None:
    """Where each artifact is made that is at work, and since when."""
    states = {(s.stage, s.identity): s for entry in found for s in entry.stages.values()}
    for state in states.values():
        if state.state is State.RUNNING:
            say(f"  running: {state.stage} {state.identity} on {state.where}", style="cyan")


def say_failures(store: Store, found: Sequence[Entry]) -> None:
    """Each failed artifact once: why, the command that repeats it, and where its traceback lies."""
    said: set[tuple[str, str]] = set()
    for entry in found:
        for stage in entry.stages.values():
            if stage.failure is None or (stage.stage, stage.identity) in said:
                continue
            said.add((stage.stage, stage.identity))
            place = " ".join(
                f"{axis}={_text(entry.cell.axes[axis])}" for axis in ALWAYS_SHOWN if axis in entry.cell.axes
            )
            say("")
            say(f"failed: {stage.stage} {stage.identity} ({place}): {_first_line(stage.failure.error)}", style="red")
            say(f"  repeat it with: {repeat_command(entry.cell, store)}")
            if stage.failure.traceback:
                say(f"  traceback: {store.folder(stage.stage, stage.identity) / 'failure.json'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, 1 where --retry left something undone, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ledger", description=__doc__)
    parser.add_argument(
        "--store", type=Path, default=Path("store"), metavar="DIR", help="folder of the results (default: store)"
    )
    parser.add_argument("--sweep", metavar="ID", help="a sweep's id, or all (default: the latest)")
    parser.add_argument("--retry", action="store_true", help="run what failed or is missing")
    parser.add_argument("--verify", action="store_true", help="read every file of the store, and say which are damaged")
    options = parser.parse_args(arguments)
    if options.verify:
        return exit_code(lambda: verify(existing_store(options.store, is_read_only=True)))
    return exit_code(lambda: _report(options.store, options.sweep, options.retry))


def verify(store: Store) -> int:
    """Checks every file of the store against what was written; 1 where some are damaged, each of which is said."""
    records = store.records()
    caches = sorted(path.parent for path in store.root.glob("data/*/meta.json"))
    sweeps = sorted(store.root.glob("sweeps/*.json"))
    damaged, without = 0, 0
    with reporting("files checked", len(records) + len(caches) + len(sweeps)) as reporter:
        for done, path in enumerate([*records, *caches, *sweeps], start=1):
            try:
                if path in caches:
                    check_cache(path)
                    without += not has_hashes(path)
                elif path.parent.name == "sweeps":
                    read_sweep(path)
                else:
                    without += not _check_artifact(store, path.parent.parent.name, path.parent.name)
            except UserError as error:
                damaged += 1
                say(f"damaged: {error}", style="red")
            reporter.advance_to(done)
    say(
        f"{len(records)} artifacts, {len(caches)} image caches and {len(sweeps)} sweeps read: "
        + (f"{damaged} damaged" if damaged else "none is damaged"),
        style="bold",
    )
    if without:
        say(f"{without} were written before files had hashes: they cannot be checked", style="yellow")
    return 1 if damaged else 0


def _check_artifact(store: Store, stage: str, identity: str) -> bool:
    """Checks an artifact; whether it has hashes. Raises: UserError that names all damaged files."""
    record = store.record(stage, identity)
    assert record is not None  # its file is there
    wrong = []
    for name in record.files or ():
        try:
            store.file(record, name)
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
    return record.files is not None


def _report(root: Path, which: str | None, is_retry: bool) -> int:
    store = existing_store(root, is_read_only=not is_retry)
    sweeps = chosen_sweeps(store, which)
    found = entries(store, sweeps)
    if is_retry:
        retry(store, found, run_py)
        found = entries(store, sweeps)
    for sweep in sweeps:
        say(f"sweep {sweep.sweep}  {sweep.created[:16].replace('T', ' ')} UTC  {sweep.command}")
    # Wide enough for every column also where the output is a file, for which rich would assume 80 characters.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table(found))
    say_summary(found)
    say_running(found)
    say_failures(store, found)
    if not is_retry:
        _say_how_to_go_on(found, store, which)
        return 0
    _say_unmade(found, store)
    return 0 if all(entry.is_done for entry in found) else 1


def _say_how_to_go_on(found: Sequence[Entry], store: Store, which: str | None) -> None:
    left = [e for e in found if any(s.state in (State.FAILED, State.MISSING) for s in e.stages.values())]
    place = f"--store {shell_word(str(store.root))}"
    if any(not is_submitted(store, entry.sweep.sweep) for entry in left):
        chosen = "" if which is None else f" --sweep {which}"
        say(f"  run what failed or is missing: python -m experiments.ledger {place}{chosen} --retry")
    for sweep in dict.fromkeys(entry.sweep.sweep for entry in left):
        if is_submitted(store, sweep):
            say(f"  submit what failed or is missing: python -m experiments.submit --retry {place} --sweep {sweep}")


def _say_unmade(found: Sequence[Entry], store: Store) -> None:
    """A stage that was run without failing and is still missing now has another identity."""
    for entry in found:
        is_stopped = any(stage.state in (State.FAILED, State.RUNNING, State.QUEUED) for stage in entry.stages.values())
        if entry.is_done or is_stopped:
            continue
        say("")
        say(
            f"not made: cell {entry.cell.cell}: its command ended without it, was stopped, or plans other stages now",
            style="red",
        )
        say(f"  run it anew with: {repeat_command(entry.cell, store)}")


def _parents(entry: Entry, stage: str) -> list[str]:
    """The stages of a cell that a stage hangs on; as in this program where the sweep is too old to tell."""
    shapes = entry.sweep.stages or {known.name: known.shape for known in STAGES}
    names = list(entry.cell.stages)
    if stage not in shapes:
        return names[: names.index(stage)]
    return [name for name in shapes[stage].parents if name in names]


def _leaves(entry: Entry) -> list[str]:
    """The stages of a cell on which none of its others hangs."""
    inner = {parent for name in entry.cell.stages for parent in _parents(entry, name)}
    return [name for name in entry.cell.stages if name not in inner]


def _ancestry(entry: Entry, stage: str) -> list[str]:
    """A stage of a cell and all that it hangs on there, in the order in which they run."""
    wanted = {stage}
    for name in reversed(list(entry.cell.stages)):
        if name in wanted:
            wanted.update(_parents(entry, name))
    return [name for name in entry.cell.stages if name in wanted]


def _shown_axes(cells: Sequence[Cell]) -> list[str]:
    """The axes that always stand in the table, and those in which its cells differ."""
    axes = dict.fromkeys(axis for cell in cells for axis in cell.axes)
    return [a for a in axes if a in ALWAYS_SHOWN or len({str(cell.axes.get(a)) for cell in cells}) > 1]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason was given"
