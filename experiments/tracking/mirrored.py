"""A store in a W&B project and back: all its runs anew from its records, and the records of a project as a store."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.console import say
from experiments.stage import PlannedStage
from experiments.store import Store
from experiments.tracking.runs import About, made, tell_history
from experiments.tracking.tracker import about_cell, about_stage, finished, show
from experiments.tracking.wandb_runs import (
    MADE,
    RECORD,
    WandbMirror,
    WandbRun,
    as_sentence,
    check_login,
    silent_wandb,
)
from ldm.errors import UserError
from ldm.records import (
    SHORTLISTS,
    STORE_MARK,
    Cell,
    StageRecord,
    Sweep,
    content_hash,
    is_store,
    read_sealed,
    sealed,
    write_json,
)

SWEEP, SHORTLIST = "sweep.json", "shortlist.json"
"""The files of runs that hold a sweep, and a shortlist."""

NO_PROJECT = "Could not find project"
"""How W&B says that there is none."""

SECONDS = 60
"""How long one answer of W&B may take."""


def push(store: Store, sweeps: list[Sweep], project: str, entity: str | None) -> int:
    """Rebuilds the runs of sweeps in a project from the store alone, parents first; how many were written.

    A run that the project holds of the same records is left as it is.

    Raises: UserError where nobody has logged in, or the server does not take them.
    """
    check_login("push uploads")
    held = _held(project, entity)
    lacking = [(about, shown) for about, shown in _runs(store, sweeps) if held.get(about.identity) != made(shown)]
    mirror = WandbMirror(store.root, "online", project, entity)
    for done, (about, records) in enumerate(lacking, start=1):
        say(f"  {done} of {len(lacking)}  {about.name}")
        with _pushed(mirror, about) as run:
            if not about.is_cell:
                tell_history(run, *records)  # of one stage
            show(run, store, records)
    for about, file, content in _calls(store, sweeps):
        if held.get(about.identity) != (shown := content_hash(content)):  # a shortlist writes a sweep anew under its id
            with _pushed(mirror, about) as run:
                run.file(file, sealed(content))
                run.mark(shown)
    return len(lacking)


def _calls(store: Store, sweeps: list[Sweep]) -> Iterator[tuple[About, str, dict[str, Any]]]:
    """The runs of what calls of run.py keep beside records, sweeps and shortlists: the name of its file, and it."""
    for sweep in sweeps:
        yield About(f"sweep-{sweep.sweep}", sweep.command, "sweep", sweep.sweep, {}), SWEEP, sweep.to_json()
    for path in sorted((store.root / SHORTLISTS).glob("*.json")):
        if (choice := store.shortlist(path.stem)) is not None:
            name = f"first stages chosen by {choice.predictor}"
            yield About(f"shortlist-{path.stem}", name, "shortlist", path.stem, {}), SHORTLIST, choice.to_json()


def _held(project: str, entity: str | None) -> dict[str, Any]:
    """By the ids of the runs that a project has, which records they show; none where there is no such project."""
    try:
        with _reading(project):
            return {run.id: run.summary.get(MADE) for run in _runs_of(project, entity)}
    except UserError as error:
        if NO_PROJECT in str(error):
            return {}
        raise


def _reading(project: str) -> AbstractContextManager[None]:
    return as_sentence(f"the W&B project {project} cannot be read")


def _runs_of(project: str, entity: str | None) -> Iterable[Any]:
    """The runs of a project, as W&B's interface gives them."""
    runs: Iterable[Any] = (
        silent_wandb().Api(timeout=SECONDS).runs(f"{entity}/{project}" if entity else project, lazy=False)
    )
    return runs


@contextlib.contextmanager
def _pushed(mirror: WandbMirror, about: About) -> Iterator[WandbRun]:
    """A run that is on the server when this ends. Raises: UserError where the server does not take it."""
    with mirror.run(about) as run:
        _check_online(mirror)
        yield run
    mirror.settle()
    _check_online(mirror)


def _check_online(mirror: WandbMirror) -> None:
    if mirror.mode != "online":
        raise UserError("W&B took not all runs: push again when it can be reached, which leaves out what it has")


def _runs(store: Store, sweeps: list[Sweep]) -> Iterator[tuple[About, list[StageRecord]]]:
    """What is to be shown of sweeps, each once: finished stages behind those that they hang on, then finished cells.

    A later sweep may measure more of a cell, or less: its run has the stages of all of them, and the latest one's name.
    """
    seen, cells = set[str](), dict[str, tuple[Sweep, Cell]]()
    for sweep in sweeps:
        for cell in sweep.cells:
            runs = [(_about(sweep, cell, record), record) for record in finished(store, cell.stages)]
            yield from ((about, [record]) for about, record in runs if about.identity not in seen)
            seen |= {about.identity for about, _ in runs}
            if (evaluation := cell.stages.get("evaluation")) is not None:
                earlier = cells[evaluation][1].stages if evaluation in cells else {}
                cells[evaluation] = sweep, replace(cell, stages={**earlier, **cell.stages})
    for sweep, cell in cells.values():
        records = finished(store, cell.stages)
        if "evaluation" in {record.stage for record in records}:
            yield about_cell(cell.cell, cell.axes, cell.stages, sweep.sweep), records


def _about(sweep: Sweep, cell: Cell, record: StageRecord) -> About:
    depends_on = sweep.stages[record.stage].axes if record.stage in sweep.stages else tuple(cell.axes)
    planned = PlannedStage(record.stage, record.identity, record.config, record.parents)
    return about_stage(planned, cell.axes, record.environment.get("config", {}), depends_on, sweep.sweep)


def pull(project: str, entity: str | None, into: Path) -> tuple[int, int]:
    """Writes what a project's runs hold as a store without files; how many records and sweeps there are.

    Raises: UserError where the folder is a store already, or the project cannot be read, or holds none.
    """
    if is_store(into):
        raise UserError(f"{into} is a store already: give --into a folder that is none")
    check_login("pull downloads")
    with _reading(project):
        found = [_read(run, into) for run in _runs_of(project, entity)]
    records, sweeps = found.count(RECORD), found.count(SWEEP)
    if not records or not sweeps:
        raise UserError(
            f"the W&B project {project} holds {records} records and {sweeps} sweeps, which make no store: "
            "`python -m experiments.tracking push` writes all of one there"
        )
    (into / STORE_MARK).touch()
    return records, sweeps


def _read(run: Any, into: Path) -> str:
    """Writes what a run holds to its place in the store; the name of its file, "" where it holds none.

    Raises: ValueError for a file of that name that is none of ours.
    """
    name = {"sweep": SWEEP, "shortlist": SHORTLIST}.get(run.job_type, RECORD)
    if not any(file.size for file in run.files([name])):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        value = read_sealed(Path(run.file(name).download(root=folder).name))
    try:
        if name == SWEEP:
            target = into / "sweeps" / f"{_word(value['sweep'])}.json"
        elif name == SHORTLIST:
            target = into / SHORTLISTS / f"{_word(value['name'])}.json"
        else:
            target = into / _word(value["stage"]) / _word(value["identity"]) / RECORD
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} of its run {run.id} is none of this program's") from error
    write_json(target, sealed(value))
    return name


def _word(value: Any) -> str:
    """A name that may be one of a folder. Raises: ValueError for one that leads elsewhere."""
    if not re.fullmatch(r"\w[\w-]*", str(value)):
        raise ValueError(f"{json.dumps(value)} is no name of a stage, an artifact or a sweep")
    return str(value)
