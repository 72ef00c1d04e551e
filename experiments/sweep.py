"""A sweep as jobs that wait for one another: each stage once, in any launcher; a failure stops what hangs on it."""

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.axes import choices, other_settings
from experiments.console import complete, say
from experiments.stage import Plan, PlannedStage, Stage, targets
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import Cell, Sweep


@dataclass(frozen=True)
class Due:
    """A job that a launcher is to run: the overrides that tell it what to make.

    It waits until the jobs numbered `after` of the same call have ended, and is left out unless `may_begin` then says
    that all it hangs on is there. `ended` is to be called when it has ended.
    """

    overrides: tuple[str, ...]
    after: tuple[int, ...] = ()
    may_begin: Callable[[], bool] = lambda: True
    ended: Callable[[], None] = lambda: None


Launch = Callable[[Sequence[Due]], None]
"""Runs jobs and returns when all have ended, whatever became of them."""

TRIES = 3
"""How often a stage is begun whose process is killed, before it is given up."""

NOTHING_TIMED: Mapping[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Point:
    """One cell of the grid: the overrides that compose it, and its plan."""

    overrides: tuple[str, ...]
    plan: Plan


@dataclass(frozen=True)
class Lost:
    """A stage that could not be made, and why."""

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


def in_waves(launch: Callable[[Sequence[Sequence[str]]], None]) -> Launch:
    """A launch by a launcher that knows of no order: jobs go to it together where none waits for another of them."""

    def launch_waves(jobs: Sequence[Due]) -> None:
        waiting = dict(enumerate(jobs))
        while waiting:
            wave = {number: due for number, due in waiting.items() if not waiting.keys() & set(due.after)}
            begun = [due for due in wave.values() if due.may_begin()]
            if begun:
                _launched(lambda: launch([due.overrides for due in begun]))  # noqa: B023 (called at once)
            for number, due in wave.items():
                del waiting[number]
                due.ended()

    return launch_waves


def _launched(call: Callable[[], None]) -> None:
    """Calls a launcher; what it raises is said and no more, since the store tells which jobs did their work.

    Raises: UserError where the launcher itself is refused what it asks for.
    """
    try:
        call()
    except UserError:
        raise
    except Exception as error:
        say(f"the launcher reports: {type(error).__name__}: {error}", style="yellow")


def run_missing(
    points: Sequence[Point],
    asked: Sequence[str],
    store: Store,
    launch: Launch,
    seconds: Mapping[tuple[str, str], float] = NOTHING_TIMED,
) -> list[Lost]:
    """Launches what is missing and returns what could not be made and has itself to blame.

    What hangs on a failed stage is not tried; it is made by the next call, when the cause is gone. `seconds`: how long
    stages will take, as far as it is known. What has the longest way to its end comes first, so that nothing long is
    left over at the end.
    """
    jobs = _longest_way_first(missing(points, asked, store), seconds)

    def is_complete(planned: PlannedStage) -> bool:
        return store.is_complete(planned.name, planned.identity)

    def may_begin(planned: PlannedStage) -> bool:
        return all(store.is_complete(*parent) for parent in planned.parents.items())

    def ended(planned: PlannedStage) -> None:
        if is_complete(planned):
            complete(planned.name, planned.identity)  # said by the job itself where it runs below this process

    def launch_all(these: Sequence[tuple[PlannedStage, Point]]) -> None:
        numbers = {(planned.name, planned.identity): number for number, (planned, _) in enumerate(these)}
        due = [
            Due(
                (*point.overrides, *handed(planned)),
                tuple(numbers[parent] for parent in planned.parents.items() if parent in numbers),
                functools.partial(may_begin, planned),
                functools.partial(ended, planned),
            )
            for planned, point in these
        ]
        _launched(lambda: launch(due))

    def blamed() -> list[tuple[PlannedStage, Point]]:
        return [(planned, point) for planned, point in jobs if may_begin(planned) and not is_complete(planned)]

    if not jobs:
        return []
    launch_all(jobs)
    for _ in range(TRIES - 1):
        lost = [planned for planned, _ in blamed()]
        failed = [planned.identity for planned in lost if store.failure(planned.name, planned.identity)]
        if len(failed) == len(lost):
            break
        say(f"jobs that ended without a word (killed?) are tried again: {len(lost) - len(failed)}", style="yellow")
        able = can_be_made(store, {(planned.name, planned.identity): planned.parents for planned, _ in jobs})
        launch_all([(planned, point) for planned, point in jobs if (planned.name, planned.identity) in able])
    return [_lost(planned, point, store) for planned, point in blamed()]


def can_be_made(store: Store, stages: Mapping[tuple[str, str], Mapping[str, str]]) -> set[tuple[str, str]]:
    """Of stages with their parents, which stand before them, those that neither failed nor hang on one that has."""
    found = set[tuple[str, str]]()
    for key, parents in stages.items():
        begun = all(store.is_complete(*parent) for parent in parents.items())
        waits = all(parent in found or store.is_complete(*parent) for parent in parents.items())
        if waits and not store.is_complete(*key) and not (begun and store.failure(*key)):
            found.add(key)
    return found


def _longest_way_first(
    jobs: Sequence[tuple[PlannedStage, Point]], seconds: Mapping[tuple[str, str], float]
) -> list[tuple[PlannedStage, Point]]:
    """Jobs by the seconds of the longest chain that begins with each; those of equal ways in their order."""
    ways = dict[tuple[str, str], float]()
    for planned, _ in reversed(jobs):  # what waits comes after what it waits for
        key = planned.name, planned.identity
        ways[key] = ways.get(key, 0.0) + seconds.get(key, 0.0)
        for parent in planned.parents.items():
            ways[parent] = max(ways.get(parent, 0.0), ways[key])
    return sorted(jobs, key=lambda job: -ways[job[0].name, job[0].identity])


def _lost(planned: PlannedStage, point: Point, store: Store) -> Lost:
    """What failed, or is given up as failed since its process was killed in every try."""
    command = repeated(point.overrides)
    failure = store.failure(planned.name, planned.identity)
    if failure is None:
        error = UserError(
            f"its process was killed {TRIES} times in the middle of it, and it is given up; where memory does not "
            "suffice, give it more, run fewer at a time, or with smaller batches"
        )
        failure = store.fail(planned.name, planned.identity, error, command)
    return Lost(planned, point, failure.error, command)


def handed(planned: PlannedStage) -> list[str]:
    """The overrides that tell a job which stage it is to make, and of which identity."""
    return [f"sweep.target={planned.name}", f"sweep.identity='{planned.identity}'"]


def values_handed(overrides: Sequence[str]) -> dict[str, str]:
    """The values among a job's overrides, by key, as they are written."""
    return dict(override.partition("=")[::2] for override in overrides)


def stage_handed(overrides: Sequence[str]) -> tuple[str, str]:
    """The stage, and its identity, that `handed` put among a job's overrides."""
    values = values_handed(overrides)
    return values["sweep.target"], values["sweep.identity"].strip("'")


def sweep_handed(overrides: Sequence[str]) -> str:
    """The sweep that a job is of."""
    return values_handed(overrides)["sweep.id"]


def repeated(overrides: Sequence[str]) -> str:
    """The command that runs these overrides, as it can be pasted into a shell."""
    return "python run.py " + " ".join(shell_word(override) for override in overrides)


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
