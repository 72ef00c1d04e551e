"""Reads the records of a store into one tidy table: a row is one value with its axes, protocol and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import older_metrics, settings
from analysis.axes import AUTO, TUNED, Axes, axes_of, choices_of, needed_by, stages_of
from analysis.columns import MEANING, frame_of
from analysis.costs import costs, share
from analysis.labels import CellLabels
from analysis.literature import Published
from analysis.missing import Missing, gaps
from analysis.store import Records, Stores, as_stores, chosen_sweeps, named
from analysis.timings import timings
from ldm.errors import UserError
from ldm.records import Cell, LeftOut, ResultRow, StageRecord, StageShape, Sweep


@dataclass(frozen=True)
class Finished:
    """A finished stage: its record, its folder, the first cell that it is of, what it measures of that in words."""

    label: str
    cell: Cell
    record: StageRecord
    folder: Path = Path()


@dataclass(frozen=True, eq=False)  # a frame has no truth value; so studies are keys of caches
class Study:
    """All that the tables and figures are made of: `frame` is `results.csv`, `published` is drawn behind it.

    `stages`: what the sweeps' programs know of their stages. `finished`: the records, for what is no row. `metric`: the
    one that the figures of sample quality are to draw, None for the headline. `stores`: where all of it was read.
    `differing`: a sentence for each artifact that another of them holds with other results.
    """

    sweep: str
    commands: tuple[str, ...]
    frame: pd.DataFrame
    cells: int
    axes: Axes
    stages: Mapping[str, StageShape]
    finished: tuple[Finished, ...] = ()
    missing: tuple[Missing, ...] = ()
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[tuple[str, LeftOut], ...] = ()
    published: tuple[Published, ...] = ()
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    metric: str | None = None
    stores: tuple[Path, ...] = ()
    differing: tuple[str, ...] = ()


def collect(stores: Stores, sweep: str | None = None) -> pd.DataFrame:
    """The tidy table of a sweep (None: the latest, "all": every sweep); stage and identity name a row's record."""
    return read_study(stores, sweep).frame


def read_study(stores: Stores, sweep: str | None = None) -> Study:
    """The rows, protocols, records and missing results of one sweep (None: the latest, "all": every sweep).

    Of several stores it is what one would hold that the others were merged into the first of.

    Raises: UserError where a store or sweep cannot be read, does not exist, or holds no finished row.
    """
    try:
        return _study(Records(stores), chosen_sweeps(stores, sweep), sweep)
    except OSError as error:
        raise UserError(f"The {named(as_stores(stores))} cannot be read ({error}): check its permissions.") from error


@dataclass(frozen=True)
class Grid:
    """Sweeps whose cells no two of which pass for one, with their stages and axes, and how cells are called."""

    sweeps: Sequence[Sweep]
    stages: Mapping[str, StageShape]
    axes: Axes
    labels: CellLabels


def grid_of(sweeps: Sequence[Sweep]) -> Grid:
    """The sweeps as a study reads them."""
    stages = stages_of(sweeps)
    axes = axes_of(stages, choices_of(sweeps))
    told_apart = settings.with_settings(sweeps, axes.all)
    return Grid(
        told_apart, stages, axes, CellLabels([cell for sweep in told_apart for cell in sweep.cells], axes, stages)
    )


def _study(records: Records, sweeps: Sequence[Sweep], asked: str | None) -> Study:
    grid = grid_of(sweeps)
    sweeps, stages, axes, labels = grid.sweeps, grid.stages, grid.axes, grid.labels
    needed = {name: needed_by(name, stages) if shape.is_result else [name] for name, shape in stages.items()}
    rows: list[dict[str, Any]] = []
    missing: dict[tuple[str, str], Missing] = {}
    finished: dict[tuple[str, str], Finished] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            for gap in gaps(records, cell, stages, labels):
                missing.setdefault((gap.goal, cell.stages[gap.goal]), gap)
            spent = costs(records, cell)
            for stage, shape in stages.items():
                record = records.get(stage, cell.stages.get(stage))
                if record is None or (stage, record.identity) in finished:
                    continue
                finished[stage, record.identity] = Finished(
                    labels.label(cell, stage), cell, record, records.folder(record)
                )
                common = _common(sweep, cell, record, shape, spent) | share(spent, shape.axes, needed[stage])
                rows += [common | _measured(record, older_metrics.filled(item)) for item in record.rows]
    if not rows:
        failures = sum(gap.failed for gap in missing.values())
        raise UserError(
            f"Sweep '{sweeps[-1].sweep}' of the {named(records.stores)} holds no finished result "
            f"({len(missing)} missing, {failures} of them failed): see `python -m experiments.ledger`."
        )
    every = [cell for sweep in sweeps for cell in sweep.cells]
    left_out = ((one.label, item) for one in finished.values() for item in one.record.left_out)
    return Study(
        sweep="all" if asked == "all" else sweeps[0].sweep,
        commands=tuple(dict.fromkeys(sweep.command for sweep in sweeps)),
        frame=frame_of(rows, axes.all, list(stages)),
        cells=len({tuple(sorted(cell.stages.items())) for cell in every}),
        axes=axes,
        stages=stages,
        finished=tuple(finished.values()),
        missing=tuple(missing.values()),
        protocols={name: fields for one in finished.values() for name, fields in one.record.protocols.items()},
        left_out=tuple(dict.fromkeys(left_out)),
        timings=timings(records, {cell.stages["samples"] for cell in every if "samples" in cell.stages}),
        stores=records.stores,
        differing=tuple(records.differing),
    )


def _common(
    sweep: Sweep, cell: Cell, record: StageRecord, shape: StageShape, spent: Mapping[str, Any]
) -> dict[str, Any]:
    """What all rows of a record say: whose they are, and the axes they depend on.

    Other axes are empty, so that a row that cells share claims none of them.
    """
    axes = shape.axes
    row: dict[str, Any] = {axis: cell.axes.get(axis) for axis in axes}
    if row.get("guidance_scale") == AUTO:
        row |= {"guidance_scale": spent.get("tuned_scale"), "guidance_rule": TUNED}
    return row | {
        "stage": record.stage,
        "samples": cell.stages.get("samples", "") if "steps" in axes else "",
        "cell": cell.cell if "steps" in axes else "",
        "first_stage": cell.stages.get("first_stage", "") if "f" in axes else "",
        "model": cell.stages.get("diffusion", "") if "conditioning" in axes else "",
        "identity": record.identity,
        "sweep": sweep.sweep,
    }


def _measured(record: StageRecord, item: ResultRow) -> dict[str, Any]:
    row = {
        "metric": item.metric,
        "value": item.value,
        "ci_low": item.ci_low,
        "ci_high": item.ci_high,
        "estimand": item.estimand,
        "deviations": item.deviations,
        "alone": item.alone,
        "n": item.n,
        "protocol": item.protocol,
        "images_seen": item.images_seen,
        **{name: getattr(item, name) for name in MEANING},
        "network": record.protocols.get(item.protocol, {}).get("extractor", ""),
    }
    return row if item.seed is None else {**row, "seed": item.seed}
