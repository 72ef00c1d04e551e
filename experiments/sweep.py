"""A sweep as waves of jobs: every stage once, in any launcher, a failure stopping only what hangs on it."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.axes import choices, other_settings
from experiments.console import complete, say
from experiments.stage import Plan, PlannedStage, Stage, targets
from experiments.store import Store
from ldm.records import Cell, Sweep

Launch = Callable[[Sequence[Sequence[str]]], None]
"""Runs one job for each list of overrides and returns when all have ended, whatever became of them."""


NOTHING_TIMED: Mapping[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Point:
    """One cell of the grid: the overrides that compose it, and its plan."""

    overrides: tuple[str, ...]
    plan: Plan


@dataclass(frozen=True)
class Lost:
    """A stage that is missing after its wave, and why."""

    stage: PlannedStage
    point: Point
    reason: str
    command: str


def distinct(points: Sequence[Point]) -> list[Point]:
    """The points that differ in any stage: f = 1 is one cell under every regulariser."""
    found: dict[frozenset[str], Point] = {}
    for point in points:
        found.setdefault(frozenset(stage.identity for stage in point.plan.stages.values()), point)
    return list(found.values())


def as_sweep(
    name: str, created: str, command: str, points: Sequence[Point], until: str, stages: Sequence[Stage]
) -> Sweep:
    """What the store keeps of a call, and analysis reads."""
    cells = tuple(
        Cell(
            point.plan.cell,
            point.plan.axes,
            point.overrides,
            {planned.name: planned.identity for planned in point.plan.needed(targets(stages, until))},
            other_settings(point.overrides),
        )
        for point in points
    )
    shapes = {stage.name: stage.shape for stage in stages}
    return Sweep(name, created, command, cells, stages=shapes, choices=choices())


def missing(points: Sequence[Point], asked: Sequence[str], store: Store) -> list[tuple[PlannedStage, Point]]:
    """The stages that are not complete, each once, with the first point that needs it."""
    found: dict[tuple[str, str], tuple[PlannedStage, Point]] = {}
    for point in points:
        for planned in point.plan.needed(asked):
            if not store.is_complete(planned.name, planned.identity):
                found.setdefault((planned.name, planned.identity), (planned, point))
    return list(found.values())


def depth(plan: Plan, name: str) -> int:
    """How many of a plan's stages, one behind another, come before the stage of that name."""
    return max((depth(plan, parent) + 1 for parent in plan.stages[name].parents), default=0)


def in_waves(jobs: Sequence[tuple[PlannedStage, Point]]) -> list[list[tuple[PlannedStage, Point]]]:
    """Stages with the points that need them, together where nothing waits for another of them."""
    levels = [depth(point.plan, planned.name) for planned, point in jobs]
    return [[job for job, at in zip(jobs, levels, strict=True) if at == level] for level in sorted(set(levels))]


def run_waves(
    points: Sequence[Point],
    asked: Sequence[str],
    store: Store,
    launch: Launch,
    seconds: Mapping[tuple[str, str], float] = NOTHING_TIMED,
) -> list[Lost]:
    """Launches what is missing, parents first, and returns what could not be made and has itself to blame.

    What hangs on a failed stage is not tried; it is made by the next call, when the cause is gone. `seconds`: how long
    stages will take, as far as it is known. The longest of a wave begin first, so that none is left over at its end.
    """
    lost: list[Lost] = []
    for wave in in_waves(missing(points, asked, store)):
        ready = [
            (planned, point)
            for planned, point in wave
            if all(store.is_complete(*parent) for parent in planned.parents.items())
        ]
        if not ready:
            continue
        ready.sort(key=lambda job: -seconds.get((job[0].name, job[0].identity), 0.0))
        launch([[*point.overrides, *handed(planned)] for planned, point in ready])
        killed = [
            (planned, point)
            for planned, point in ready
            if not store.is_complete(planned.name, planned.identity)
            and store.failure(planned.name, planned.identity) is None
        ]
        if killed:
            say(f"jobs that ended without a word (killed?) are tried once more: {len(killed)}", style="yellow")
            launch([[*point.overrides, *handed(planned)] for planned, point in killed])
        for planned, point in ready:
            if store.is_complete(planned.name, planned.identity):
                complete(planned.name, planned.identity)  # said by the job itself where it runs below this process
                continue
            failure = store.failure(planned.name, planned.identity)
            reason = failure.error if failure else "its job ended without a word (killed?)"
            command = "python run.py " + " ".join(shell_word(override) for override in point.overrides)
            lost.append(Lost(planned, point, reason, command))
    return lost


def handed(planned: PlannedStage) -> list[str]:
    """The overrides that tell a job which stage it is to make, and of which identity."""
    return [f"sweep.target={planned.name}", f"sweep.identity='{planned.identity}'"]


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
