"""A sweep as waves of jobs: every stage once, in any launcher, a failure stopping only what hangs on it."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.console import say
from experiments.plan import UNTIL, Plan, Stage
from experiments.store import Store
from ldm.records import STAGES, Cell, Sweep

Launch = Callable[[Sequence[Sequence[str]]], None]
"""Runs one job for each list of overrides and returns when all have ended, whatever became of them."""


@dataclass(frozen=True)
class Point:
    """One cell of the grid: the overrides that compose it, and its plan."""

    overrides: tuple[str, ...]
    plan: Plan


@dataclass(frozen=True)
class Lost:
    """A stage that is missing after its wave, and why."""

    stage: Stage
    point: Point
    reason: str
    command: str


def distinct(points: Sequence[Point]) -> list[Point]:
    """The points that differ in any stage: f = 1 is one cell under every regulariser."""
    found: dict[frozenset[str], Point] = {}
    for point in points:
        found.setdefault(frozenset(stage.identity for stage in point.plan.stages.values()), point)
    return list(found.values())


def as_sweep(name: str, created: str, command: str, points: Sequence[Point], until: str) -> Sweep:
    """What the store keeps of a call, and analysis reads."""
    cells = tuple(
        Cell(
            point.plan.cell,
            point.plan.axes,
            point.overrides,
            {stage.name: stage.identity for stage in point.plan.needed(UNTIL[until])},
        )
        for point in points
    )
    return Sweep(name, created, command, cells)


def missing(points: Sequence[Point], targets: Sequence[str], store: Store) -> dict[str, dict[str, Point]]:
    """By stage name, in order: the identities not yet complete, each with the first point that needs it."""
    waves: dict[str, dict[str, Point]] = {name: {} for name in STAGES}
    for point in points:
        for stage in point.plan.needed(tuple(targets)):
            if not store.is_complete(stage.name, stage.identity):
                waves[stage.name].setdefault(stage.identity, point)
    return {name: wave for name, wave in waves.items() if wave}


def depth(plan: Plan, name: str) -> int:
    """How many of a plan's stages, one behind another, come before the stage of that name."""
    return max((depth(plan, parent) + 1 for parent in plan.stages[name].parents), default=0)


def in_waves(waves: Mapping[str, Mapping[str, Point]]) -> list[list[tuple[str, str, Point]]]:
    """What is missing as (stage name, identity, point), together where nothing waits for another of them."""
    jobs = [(name, identity, point) for name, wave in waves.items() for identity, point in wave.items()]
    levels = [depth(point.plan, name) for name, _, point in jobs]
    return [[job for job, at in zip(jobs, levels, strict=True) if at == level] for level in sorted(set(levels))]


def run_waves(points: Sequence[Point], targets: Sequence[str], store: Store, launch: Launch) -> list[Lost]:
    """Launches what is missing, parents first, and returns what could not be made and has itself to blame.

    What hangs on a failed stage is not tried; it is made by the next call, when the cause is gone.
    """
    lost: list[Lost] = []
    for wave in in_waves(missing(points, targets, store)):
        ready = [
            (name, identity, point)
            for name, identity, point in wave
            if all(store.is_complete(*parent) for parent in point.plan.stages[name].parents.items())
        ]
        if not ready:
            continue
        launch([[*point.overrides, f"sweep.target={name}"] for name, _, point in ready])
        for name, identity, point in ready:
            if store.is_complete(name, identity):
                continue
            failure = store.failure(name, identity)
            reason = failure.error if failure else "its job ended without a word (killed?)"
            command = "python run.py " + " ".join(shell_word(override) for override in point.overrides)
            lost.append(Lost(point.plan.stages[name], point, reason, command))
    return lost


def shell_word(override: str) -> str:
    """An override as it can be pasted into a shell."""
    return shlex.quote(override)


def say_lost(lost: Sequence[Lost], store: Store) -> None:
    """Every failure with its whole traceback and the command that repeats it."""
    for item in lost:
        failure = store.failure(item.stage.name, item.stage.identity)
        say("")
        if failure:
            say(failure.traceback.rstrip(), style="dim")
        say(f"failed: {item.stage.name} {item.stage.identity}: {item.reason}", style="bold red")
        say(f"  repeat it with: {item.command}")
