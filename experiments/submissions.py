"""Stages as jobs of Slurm: each depends on its parents' jobs, and what was submitted is kept in the store.

`<store>/slurm/<sweep>/tasks.json` holds the stages that a call asked for, `jobs.jsonl` which job makes which of them,
the logs lie beside them. No stage that waits or runs is submitted again, whoever asks.
"""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from experiments import slurm
from experiments.console import say
from experiments.slurm import JobState, Order, Resources, SlurmError
from experiments.store import Failure, Store, now
from experiments.sweep import Due, Point, can_be_made, handed, missing, stage_handed, values_handed
from ldm.errors import UserError
from ldm.parts import checked
from ldm.records import read_sealed, sealed, write_json

RUN_PY: Final = Path(__file__).resolve().parents[1] / "run.py"
FOLDER: Final = "slurm"
"""Below a store."""

PAUSES: Final = (1.0, 15.0)
"""Seconds between two looks at the queue, the first and the longest."""

DEVICES: Final = "trainer.devices"
"""The setting over how many GPUs a training is divided."""

Key = tuple[str, str]
"""Stage and identity."""


@dataclass(frozen=True)
class Task:
    """A stage that a job is to make: what it hangs on, and the overrides that tell run.py."""

    stage: str
    identity: str
    parents: Mapping[str, str]
    overrides: tuple[str, ...]

    @property
    def key(self) -> Key:
        """What names it."""
        return self.stage, self.identity

    @property
    def with_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return "device=cuda" in self.overrides

    def command(self) -> list[str]:
        """What its job runs."""
        return [sys.executable, str(RUN_PY), *self.overrides]


@dataclass(frozen=True)
class Submission:
    """What a call of `experiments.submit` asked for, in which folder; `launcher`: its overrides of hydra.launcher."""

    sweep: str
    launcher: tuple[str, ...]
    tasks: tuple[Task, ...]
    folder: str | None = None


@dataclass(frozen=True)
class Submitted:
    """The last job that was to make a stage, None where it was taken back; `at`: when that was."""

    sweep: str
    job: str | None
    at: str


@dataclass
class Tally:
    """What became of tasks.

    `busy`: a process outside of Slurm works on them; `held`: they hang on such ones, or on what neither the store nor
    the sweep has (`lacking`).
    """

    submitted: list[Task] = field(default_factory=list)
    queued: list[Task] = field(default_factory=list)
    busy: list[Task] = field(default_factory=list)
    held: list[Task] = field(default_factory=list)
    lacking: list[Key] = field(default_factory=list)


def resources_of(launcher: Any) -> Resources:
    """What jobs ask for, of the composed settings under hydra.launcher. Raises: UserError for one that cannot be."""
    return checked(Resources, {key: value for key, value in launcher.items() if key != "_target_"}, "hydra.launcher")


def tasks_of(points: Sequence[Point], asked: Sequence[str], store: Store, sweep: str) -> tuple[Task, ...]:
    """The stages that the store lacks as tasks, parents first."""
    return tuple(
        Task(
            planned.name,
            planned.identity,
            dict(planned.parents),
            (*point.overrides, *handed(planned), f"sweep.id={sweep}"),
        )
        for planned, point in missing(points, asked, store)
    )


def tasks_due(jobs: Sequence[Due]) -> tuple[Task, ...]:
    """Jobs of a sweep that wait for one another as tasks; they come parents first."""
    keys = [stage_handed(job.overrides) for job in jobs]
    return tuple(
        Task(*key, dict(keys[number] for number in job.after), tuple(job.overrides))
        for key, job in zip(keys, jobs, strict=True)
    )


def write(store: Store, submission: Submission) -> None:
    """Keeps what was asked for."""
    write_json(_folder(store, submission.sweep) / "tasks.json", sealed(dataclasses.asdict(submission)))


def read(store: Store, sweep: str) -> Submission:
    """What was asked for under a sweep's name. Raises: UserError where it was not submitted, or is damaged."""
    path = _folder(store, sweep) / "tasks.json"
    if not is_submitted(store, sweep):
        raise UserError(
            f"sweep {sweep} was not submitted from here (there is no {path}); give the id of one that was with --sweep"
        )
    try:
        value = read_sealed(path)
        tasks = tuple(Task(**{**task, "overrides": tuple(task["overrides"])}) for task in value["tasks"])
        return Submission(value["sweep"], tuple(value["launcher"]), tasks, value.get("folder"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it, and submit the sweep again") from error


def names(store: Store) -> list[str]:
    """The sweeps that were submitted, the oldest first."""
    return sorted(path.parent.name for path in (store.root / FOLDER).glob("*/tasks.json"))


def is_submitted(store: Store, sweep: str) -> bool:
    """Whether a sweep was submitted with `experiments.submit`."""
    return (_folder(store, sweep) / "tasks.json").exists()


def submitted(store: Store) -> dict[Key, Submitted]:
    """The last job of each stage that ever had one."""
    found: dict[Key, Submitted] = {}
    for path in (store.root / FOLDER).glob("*/jobs.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # the last line of a call that was killed
                said = json.loads(line)
                key, job = (said["stage"], said["identity"]), Submitted(path.parent.name, said["job"], said["at"])
                if key not in found or found[key].at < job.at:
                    found[key] = job
    return found


@dataclass(frozen=True)
class Jobs:
    """The last job of each stage that had one, and where those are that Slurm knows; `is_sure`: it was asked."""

    last: Mapping[Key, Submitted] = field(default_factory=dict)
    states: Mapping[Key, JobState] = field(default_factory=dict)
    is_sure: bool = True

    @property
    def alive(self) -> dict[Key, str]:
        """The jobs that wait or run."""
        return {key: state.job for key, state in self.states.items() if state.is_waiting or state.is_at_work}

    def failure(self, store: Store, key: Key) -> Failure | None:
        """Why there is nothing of a stage whose job has begun and ended; None where that did not happen."""
        job = self.last.get(key)
        if job is None or job.job is None or key in self.alive or not self.is_sure:
            return None
        log = _folder(store, job.sweep) / f"{job.job}.log"
        if not log.exists():  # it never began: a parent of it failed
            return None
        how = f" ({self.states[key].state})" if key in self.states else ""
        error = f"its job {job.job} ended without a word{how}; what it said: {log}"
        return Failure(error, "", f"python -m experiments.submit --retry --sweep {job.sweep}")


def look(store: Store, keys: Collection[Key]) -> Jobs:
    """The jobs of these stages. Raises: SlurmError where Slurm does not answer."""
    last = {key: job for key, job in submitted(store).items() if key in keys}
    numbers = {job.job for job in last.values() if job.job is not None}
    known = slurm.states(numbers) if numbers else {}
    # Numbers of jobs come again, on another cluster or after years.
    found = {key: known[job.job] for key, job in last.items() if job.job in known}
    return Jobs(last, {key: state for key, state in found.items() if state.name == _name(last[key].sweep)})


def submit(store: Store, sweep: str, tasks: Sequence[Task], resources: Resources, folder: str | None = None) -> Tally:
    """Submits the tasks, which come parents first, but for those that are complete, wait or run.

    Each depends on exactly the jobs of its parents, by success. `resources.at_once` jobs run at any time, in `folder`,
    this process's own where it is None.
    Raises: UserError before any is submitted where a training has fewer GPUs than it is to be divided over; SlurmError
    where Slurm refuses one; those before it stay submitted.
    """
    tally = Tally()
    check_devices(tasks, resources.gpus(with_gpu=True), "job", "hydra.launcher.gpus_per_node")
    with store.claim(FOLDER, lambda: say("waits: another process submits to Slurm")):
        tasks = [task for task in tasks if not store.is_complete(*task.key)]
        own = {task.key for task in tasks}
        jobs = look(store, own).alive
        tally.queued = [task for task in tasks if task.key in jobs]
        lanes = Lanes(resources.at_once, sorted(jobs.values()))
        for group in alike([task for task in tasks if task.key not in jobs], store):
            for task in [task for task in group if store.is_claimed("/".join(task.key))]:
                tally.busy.append(task)
                group.remove(task)
            parents = _unfinished(group[0], store) if group else []
            if not group or any(key not in jobs for key in parents):
                tally.held += group
                tally.lacking += [key for key in parents if key not in jobs and key not in own]
                continue
            after = sorted({jobs[key] for key in parents})
            for lane, chunk in lanes.spread(group, after):
                order = Order(after, lane.last if lane else (), one_by_one=lane is not None)
                commands = [task.command() for task in chunk]
                place = _folder(store, sweep)
                made = slurm.submit(commands, _name(sweep), place, resources, chunk[0].with_gpu, order, folder)
                _note(store, sweep, {task.key: job for task, job in zip(chunk, made, strict=True)})
                jobs |= {task.key: job for task, job in zip(chunk, made, strict=True)}
                tally.submitted += chunk
                if lane:
                    lane.append(made)
    return tally


def say_tally(tally: Tally, sweep: str) -> None:
    """What was submitted, and what was not and why."""
    said = f"submitted {len(tally.submitted)} jobs to Slurm as {_name(sweep)}"
    said += f"; {len(tally.queued)} wait or run already" if tally.queued else ""
    say(said, style="bold")
    if tally.busy:
        what = ", ".join(" ".join(task.key) for task in tally.busy)
        say(
            f"not submitted, since a process works on it now: {what}"
            + (f", and {len(tally.held)} that hang on it" if tally.held else ""),
            style="yellow",
        )
    if tally.lacking:
        say(
            f"not submitted, since neither the store nor this sweep has what they hang on: {len(tally.held)}, for want "
            f"of {' '.join(tally.lacking[0])}; submit the sweep again by its own command, which plans it anew",
            style="yellow",
        )


def check_devices(tasks: Collection[Task], has: float, whose: str, setting: str) -> None:
    """Raises: UserError where a training is to be divided over more GPUs than what it runs in has by `setting`."""
    for task in tasks:
        asked = values_handed(task.overrides).get(DEVICES, "1")
        if task.with_gpu and asked.isdigit() and int(asked) > max(1, has):
            raise UserError(
                f"{DEVICES}={asked} and a {whose} has {has:g} GPUs: give {setting}={asked}, or fewer devices"
            )


def run_all(
    store: Store, sweep: str, tasks: Sequence[Task], resources: Resources, ended: Sequence[Callable[[], None]]
) -> None:
    """Submits the tasks, calls of each what `ended` has for it when its job has ended, and returns after the last.

    What a process outside of Slurm works on is waited for; where it leaves it undone, that and what hangs on it are
    submitted then. Raises: UserError where Slurm refuses one.
    """
    calls, left = dict(zip((task.key for task in tasks), ended, strict=True)), list(tasks)
    while left:
        tally = submit(store, sweep, left, resources)
        say_tally(tally, sweep)
        wait_for(store, {task.key: calls[task.key] for task in left}, [task.key for task in tally.busy])
        if not tally.busy:
            return
        able = can_be_made(store, {task.key: task.parents for task in left})
        left = [task for task in left if task.key in able]


def wait_for(store: Store, stages: Mapping[Key, Callable[[], None]], theirs: Collection[Key] = ()) -> None:
    """Returns when no job of these stages waits or runs, each of which was called when its had ended.

    Nor does any process then work on `theirs`. What Slurm does not answer is asked again.
    """
    keys, pause, has_failed, left = set(stages), PAUSES[0], False, dict(stages)
    while True:
        try:
            jobs, has_failed = look(store, keys), False
            if not jobs.alive and not any(store.is_claimed("/".join(key)) for key in theirs):
                break
        except SlurmError as error:
            if not has_failed:
                say(f"{error}; asked again until it answers", style="yellow")
            has_failed = True
        for key in [key for key in left if store.is_complete(*key)]:
            left.pop(key)()
        time.sleep(pause)
        pause = min(1.5 * pause, PAUSES[1])
    for ended in left.values():
        ended()
    for key in keys:
        failure = None if store.is_complete(*key) or store.failure(*key) else jobs.failure(store, key)
        if failure:
            say(f"  {' '.join(key)}: {failure.error}", style="yellow")


def take_back(store: Store, sweep: str) -> int:
    """Takes the jobs of a sweep that wait or run out of Slurm's hands, and says how many they were.

    Raises: SlurmError where it does not answer.
    """
    with store.claim(FOLDER, lambda: say("waits: another process submits to Slurm")):
        own = {key for key, job in submitted(store).items() if job.sweep == sweep}
        jobs = look(store, own).alive
        slurm.cancel(sorted(jobs.values()))
        _note(store, sweep, dict.fromkeys(jobs))
        return len(jobs)


def alike(tasks: Sequence[Task], store: Store) -> Iterator[list[Task]]:
    """The tasks together that wait for the same parents and want the same machine, in their order."""
    groups: dict[tuple[frozenset[Key], bool], list[Task]] = {}
    for task in tasks:
        groups.setdefault((frozenset(_unfinished(task, store)), task.with_gpu), []).append(task)
    yield from groups.values()


def _unfinished(task: Task, store: Store) -> list[Key]:
    return [parent for parent in task.parents.items() if not store.is_complete(*parent)]


@dataclass
class Lane:
    """Jobs that run one behind another, whatever becomes of each; `last`: those that the next one waits for."""

    last: list[str]
    length: int

    def append(self, jobs: Sequence[str]) -> None:
        """These are the last now: one job, or all of an array."""
        self.last = sorted({job.partition("_")[0] for job in jobs}) if len(jobs) > 1 else list(jobs)
        self.length += len(jobs)


class Lanes:
    """As many lanes as jobs may run at any time, those that do already being in them; none where there is no limit."""

    def __init__(self, count: int | None, running: Sequence[str]) -> None:
        self.lanes = [Lane(list(running[i::count]), len(running[i::count])) for i in range(count)] if count else []

    def spread(self, tasks: Sequence[Task], parents: Sequence[str]) -> Iterator[tuple[Lane | None, Sequence[Task]]]:
        """The tasks in arrays, each behind what stands in its lane: best behind a parent, else in a short lane."""
        if not self.lanes:
            for start in range(0, len(tasks), slurm.LONGEST_ARRAY):
                yield None, tasks[start : start + slurm.LONGEST_ARRAY]
            return
        before = {*parents, *(parent.partition("_")[0] for parent in parents)}
        lanes = sorted(self.lanes, key=lambda lane: (not before.intersection(lane.last), lane.length))[: len(tasks)]
        for position, lane in enumerate(lanes):
            chunk = tasks[position :: len(lanes)]
            for start in range(0, len(chunk), slurm.LONGEST_ARRAY):
                yield lane, chunk[start : start + slurm.LONGEST_ARRAY]


def _folder(store: Store, sweep: str) -> Path:
    return store.root / FOLDER / sweep


def _name(sweep: str) -> str:
    return f"ldm-{sweep}"


def _note(store: Store, sweep: str, jobs: Mapping[Key, str | None]) -> None:
    """Keeps which job makes which stage; None: it was taken back."""
    lines = [
        json.dumps({"stage": stage, "identity": identity, "job": job, "at": now()})
        for (stage, identity), job in jobs.items()
    ]
    with open(_folder(store, sweep) / "jobs.jsonl", "a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
