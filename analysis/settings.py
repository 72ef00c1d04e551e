"""What cells differ in that has no axis of its own: any key may be swept, and no two candidates may pass for one."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from ldm.records import Cell, Sweep

OF_FIRST_STAGE, OF_MODEL = AXES = "ae_settings", "settings"
"""Axes that hold, as text, the settings that only a command line names: of the first stage, and all others."""


def with_settings(sweeps: Sequence[Sweep], axes: Sequence[str]) -> list[Sweep]:
    """The sweeps, whose cells have the two axes where `axes`, seeds apart, would not tell them apart."""
    keys = {key for group in _alike(sweeps, axes) for key in _differing(group)}
    named = [_renewed(sweep, {cell.cell: _named(cell, keys) for cell in sweep.cells}) for sweep in sweeps]
    # What is left differs in no key that was given (another version of the program, say): its name must do.
    unnamed = {cell.cell for group in _alike(named, [*axes, *AXES]) for cell in group}
    return [_renewed(sweep, {cell: {OF_MODEL: cell} for cell in unnamed}) for sweep in named]


def _alike(sweeps: Sequence[Sweep], axes: Sequence[str]) -> Iterable[list[Cell]]:
    """Cells with the same values of all axes, seeds of first stage and sampler included, that are not the same."""
    groups: dict[tuple[str, ...], dict[str, Cell]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:  # a cell's name holds no training seed
            place = tuple(str(cell.axes.get(axis)) for axis in axes if axis != "seed")
            groups.setdefault(place, {})[cell.cell] = cell
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _differing(cells: Sequence[Cell]) -> set[str]:
    return {key for one in cells for key in one.settings if len({cell.settings.get(key) for cell in cells}) > 1}


def _named(cell: Cell, keys: set[str]) -> dict[str, str]:
    """The values of the two axes; none where the cell was told nothing of them, as where it compresses nothing."""
    own = {key: value for key, value in cell.settings.items() if key in keys}
    parts = {
        OF_FIRST_STAGE: {key: value for key, value in own.items() if key.startswith("ae.")},
        OF_MODEL: {key: value for key, value in own.items() if not key.startswith("ae.")},
    }
    if cell.axes.get("f") == 1:
        del parts[OF_FIRST_STAGE]
    return {axis: " ".join(f"{key}={value}" for key, value in part.items()) for axis, part in parts.items() if part}


def _renewed(sweep: Sweep, found: Mapping[str, Mapping[str, str]]) -> Sweep:
    cells = (dataclasses.replace(cell, axes={**cell.axes, **found.get(cell.cell, {})}) for cell in sweep.cells)
    return dataclasses.replace(sweep, cells=tuple(cells))
