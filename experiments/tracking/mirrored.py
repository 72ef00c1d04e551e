"""A store in a W&B project and back: all its runs anew from its records, and the records of a project as a store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.console import reporting, say
from experiments.stage import PlannedStage
from experiments.store import Store
from experiments.tracking.runs import About, history_of
from experiments.tracking.tracker import about_cell, about_stage
from experiments.tracking.wandb_runs import RECORD, WandbMirror, WandbRun, check_login, without_key
from ldm.errors import UserError
from ldm.records import STORE_MARK, Cell, StageRecord, Sweep, read_sealed, sealed, write_json

SWEEP = "sweep.json"
"""The file of a run that holds a sweep."""

LAST = "samples"
"""The stage whose costs a cell's run shows."""


def push(store: Store, sweeps: list[Sweep], project: str, entity: str | None, mode: str = "online") -> int:
    """Rebuilds the runs of sweeps in a project from the store alone, parents first; how many were written.

    A run that the project holds of the same record is left as it is.

    Raises: UserError where nobody has logged in, or the server does not take them.
    """
    if mode == "online":
        check_login("push uploads")
    mirror, written = WandbMirror(store.root, mode, project, entity), 0
    finished = list(_stages(store, sweeps))
    with reporting(f"push           {project}", len(finished)) as reporter:
        for done, (sweep, cell, record) in enumerate(finished, start=1):
            with mirror.run(_about(sweep, cell, record)) as run:
                written += _mirrored(run, store, record)
            _settle(mirror, mode)
            reporter.advance_to(done)
    for sweep in sweeps:
        for cell in sweep.cells:
            records = _results(store, sweep, cell)
            if "evaluation" in cell.stages and store.is_complete("evaluation", cell.stages["evaluation"]):
                with mirror.run(
                    about_cell(cell.stages["evaluation"], cell.cell, cell.axes, cell.stages, sweep.sweep)
                ) as run:
                    for record in records:
                        run.finish(record)
                _settle(mirror, mode)
        with mirror.run(About(f"sweep-{sweep.sweep}", sweep.command, "sweep", sweep.sweep, {}, ("sweep",))) as run:
            run.file(SWEEP, sealed(sweep.to_json()))
        _settle(mirror, mode)
    return written


def _settle(mirror: WandbMirror, mode: str) -> None:
    mirror.settle()
    if mirror.mode != mode:
        raise UserError("W&B took not all runs: push again when it can be reached, which leaves out what it has")


def _stages(store: Store, sweeps: list[Sweep]) -> Iterator[tuple[Sweep, Cell, StageRecord]]:
    """The finished stages of sweeps, each once, behind those that it hangs on."""
    seen: set[tuple[str, str]] = set()
    for sweep in sweeps:
        for cell in sweep.cells:
            for stage, identity in cell.stages.items():
                record = None if (stage, identity) in seen else store.record(stage, identity)
                if record is not None:
                    seen.add((stage, identity))
                    yield sweep, cell, record


def _about(sweep: Sweep, cell: Cell, record: StageRecord) -> About:
    depends_on = sweep.stages[record.stage].axes if record.stage in sweep.stages else tuple(cell.axes)
    planned = PlannedStage(record.stage, record.identity, record.config, record.parents)
    return about_stage(planned, cell.axes, record.environment.get("config", {}), depends_on, sweep.sweep)


def _mirrored(run: WandbRun, store: Store, record: StageRecord) -> bool:
    """Whether the record was written into the run, which did not hold it."""
    if run.holds(record):
        return False
    for images_seen, values in history_of(record).items():
        run.log(images_seen, values)
    for path in sorted(store.folder(record.stage, record.identity).glob("*.png")):
        run.image(path.stem, path)
    run.finish(record)
    return True


def _results(store: Store, sweep: Sweep, cell: Cell) -> list[StageRecord]:
    shown = [stage for stage, shape in sweep.stages.items() if shape.is_result and stage in cell.stages]
    found = (store.record(stage, cell.stages[stage]) for stage in (*shown, LAST) if stage in cell.stages)
    return [record for record in found if record is not None]


def pull(project: str, entity: str | None, into: Path) -> tuple[int, int]:
    """Writes the records and sweeps of a project's runs as a store without files; how many of either.

    Raises: UserError where the project cannot be read, or holds none.
    """
    import wandb

    try:
        api = wandb.Api(timeout=60)
        found = [_read(run, into) for run in api.runs(f"{entity}/{project}" if entity else project)]
    except (wandb.errors.Error, ValueError) as error:
        raise UserError(f"the W&B project {project} cannot be read ({without_key(error)})") from error
    records, sweeps = found.count(RECORD), found.count(SWEEP)
    if not records or not sweeps:
        raise UserError(
            f"the W&B project {project} holds {records} records and {sweeps} sweeps, which make no store: "
            "`python -m experiments.tracking push` writes all of one there"
        )
    (into / STORE_MARK).touch()
    return records, sweeps


def _read(run: Any, into: Path) -> str:
    """Writes what a run holds to its place in the store; the name of its file, "" where it holds none."""
    name = SWEEP if run.job_type == "sweep" else RECORD
    if not [file for file in run.files([name]) if file.size]:
        return ""
    place = into / ".pulled" / run.id
    path = Path(run.file(name).download(root=str(place), replace=True).name)
    value = read_sealed(path)
    if name == SWEEP:
        target = into / "sweeps" / f"{_word(value['sweep'])}.json"
    else:
        target = into / _word(value["stage"]) / _word(value["identity"]) / RECORD
    write_json(target, sealed(value))
    path.unlink()
    place.rmdir()
    return name


def _word(value: Any) -> str:
    """A name that may be one of a folder. Raises: ValueError for one that leads elsewhere."""
    if not re.fullmatch(r"\w[\w-]*", str(value)):
        raise ValueError(f"{json.dumps(value)} is no name of a stage, an artifact or a sweep")
    return str(value)


def say_pushed(written: int, sweeps: int, project: str) -> None:
    """What push did."""
    say(f"{written} runs of {sweeps} sweep{'s' * (sweeps != 1)} written to {project}; those that were there stay")
