"""From a composed config to a plan: which stages a cell needs, with their settings, parents and identities."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.axes import cell_axes
from experiments.conditions import DataFacts
from experiments.identity import identity
from experiments.resolve import resolve
from experiments.stage import Plan, PlannedStage, Stage

CELL_DIGITS = 10


def make_plan(config: Mapping[str, Any], facts: DataFacts, stages: Sequence[Stage]) -> Plan:
    """The plan of a composed config (plain values) over these stages, parents first.

    Facts of its images come from `experiments.images.data_facts`. The cell's name is the same for all training seeds.
    Raises: UserError for settings that cannot work.
    """
    resolved, notes = resolve(config, facts)
    planned = _planned(resolved, facts, stages)
    unseeded = _planned({**resolved, "seed": 0}, facts, stages) if resolved["seed"] else planned
    [naming] = [stage.name for stage in stages if stage.names_cell]
    return Plan(unseeded[naming].identity[:CELL_DIGITS], cell_axes(resolved), planned, resolved, (*facts.notes, *notes))


def _planned(config: Mapping[str, Any], facts: DataFacts, stages: Sequence[Stage]) -> dict[str, PlannedStage]:
    found: dict[str, PlannedStage] = {}
    for stage in stages:
        settings = stage.settings(config, facts)
        if settings is None:
            continue
        read = stage.parents if stage.needs is None else stage.needs(config)
        parents = {name: found[name].identity for name in read if name in found}
        found[stage.name] = PlannedStage(stage.name, identity(stage, settings, parents), settings, parents)
    return found
