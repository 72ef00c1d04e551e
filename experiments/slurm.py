"""Slurm by its own commands: what a job asks for, how it is submitted, where it is, how it is taken back.

Accounting (`sacct`) is never asked: the queue tells what waits and runs, the store what was made.
"""

import contextlib
import os
import shlex
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from experiments.workers import THREAD_VARIABLES
from ldm.errors import UserError
from ldm.parts import option

SLACK_SECONDS: Final = 60
"""By so much Slurm may send the signal before a job's end earlier than it was asked to."""

REQUEUE_SECONDS: Final = 20
"""Before a job's end, in which it is put back into the queue whether it has saved or not."""

MOST_IDS: Final = 500
"""Jobs that one command is asked about."""

LONGEST_ARRAY: Final = 1000
"""Tasks of an array, as clusters allow it unless they say otherwise (MaxArraySize 1001)."""

WAITING: Final = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
AT_WORK: Final = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)

REMEDIES: Final[Mapping[str, str]] = {
    "generic resource": "there are no such GPUs; hydra.launcher.gpus_per_node=0 asks for none",
    "partition": "sinfo lists the partitions; hydra.launcher.partition=NAME chooses one",
    "account": "give one that you may use with hydra.launcher.account=NAME",
    "qos": "give one that you may use with hydra.launcher.qos=NAME",
    "memory": "ask for less with hydra.launcher.mem_gb=",
    "node configuration": "no node has as much; ask for less with hydra.launcher.cpus_per_task= or mem_gb=",
    "time limit": "ask for less with hydra.launcher.timeout_min=",
}
"""What to do about a refusal, by a word in it."""


class SlurmError(UserError):
    """Slurm is not here, does not answer, or refuses what it was asked."""


@dataclass(frozen=True)
class Resources:
    """What each job asks for, and how many of them: the settings of `hydra/launcher=slurm`.

    Of those that are null the cluster decides; `gpus_per_node` of a job that computes on a GPU is then 1.
    """

    title = "hydra/launcher=slurm"

    partition: str | None = option(None, help="where the jobs queue")
    account: str | None = option(None, help="who pays for them")
    qos: str | None = option(None, help="their quality of service")
    constraint: str | None = option(None, help="features that a node must have")
    timeout_min: int = option(1440, low=1, unit="minutes", help="after which a job is requeued, and goes on")
    cpus_per_task: int = option(8, low=1, help="cores, and threads, of a job")
    gpus_per_node: int | None = option(None, low=0, help="of a job; null: 1 where it computes on a GPU")
    mem_gb: float | None = option(None, above=0, unit="GB", help="of a job")
    at_once: int | None = option(32, low=1, help="jobs of a submission that run at any time; null: no limit")
    signal_delay_s: int = option(90, low=30, high=60_000, unit="seconds", help="before its end in which a job saves")
    max_num_timeout: int = option(20, low=0, help="times that a job is requeued")
    setup: tuple[str, ...] = option((), help="lines of shell before each job")
    sbatch: tuple[str, ...] = option((), help="further options of sbatch, such as [--exclude=n1]")

    def __post_init__(self) -> None:
        """Raises: UserError for jobs that would be asked to save as soon as they begin."""
        if 60 * self.timeout_min <= self.signal_delay_s + SLACK_SECONDS:
            raise UserError(
                f"hydra.launcher.timeout_min={self.timeout_min} leaves no time to work in, since a job saves "
                f"{self.signal_delay_s} to {self.signal_delay_s + SLACK_SECONDS} s before its end: give more minutes, "
                "or less hydra.launcher.signal_delay_s"
            )

    def gpus(self, with_gpu: bool) -> int:
        """How many a job has that computes on a GPU, or does not."""
        return int(with_gpu) if self.gpus_per_node is None else self.gpus_per_node

    def options(self, with_gpu: bool) -> list[str]:
        """What a job asks for, as options of sbatch."""
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.timeout_min,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus(with_gpu) or None,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
        }
        return [*(f"--{name}={value}" for name, value in named.items() if value is not None), *self.sbatch]


@dataclass(frozen=True)
class JobState:
    """Where a job is, in Slurm's words; `since`: its start, `name`: what it was submitted as."""

    job: str
    state: str
    reason: str
    node: str
    since: str
    name: str

    @property
    def start(self) -> str:
        """When it began, in UTC as far as Slurm says it in the local time of this machine."""
        with contextlib.suppress(ValueError):
            return f"{datetime.fromisoformat(self.since).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return self.since

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue and has not begun."""
        return self.state in WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it has a node."""
        return self.state in AT_WORK


@dataclass(frozen=True)
class Order:
    """What a job, or an array of jobs alike, waits for: `after_success` of these, and the end of those.

    `one_by_one`: of an array only one job runs at a time.
    """

    after_success: Sequence[str] = ()
    after_end: Sequence[str] = ()
    one_by_one: bool = False

    def options(self) -> list[str]:
        """As options of sbatch."""
        asked = {"afterok": self.after_success, "afterany": self.after_end}
        kinds = ",".join(":".join((kind, *jobs)) for kind, jobs in asked.items() if jobs)
        return [f"--dependency={kinds}", "--kill-on-invalid-dep=yes"] if kinds else []


def submit(
    commands: Sequence[Sequence[str]],
    name: str,
    log_folder: Path,
    resources: Resources,
    with_gpu: bool,
    order: Order,
    folder: str | None = None,
) -> list[str]:
    """Submits a job for each command, several as one array, and returns their names, ID or ID_INDEX.

    They run in `folder`, that of this process where it is None.

    Raises: SlurmError where Slurm refuses them.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    is_array, last = len(commands) > 1, len(commands) - 1
    log = str(log_folder.absolute()).replace("%", "%%") + ("/%A_%a.log" if is_array else "/%j.log")
    said = _run(
        [
            "sbatch",
            "--parsable",
            "--requeue",
            "--nodes=1",
            "--ntasks=1",
            f"--job-name={name}",
            f"--signal=B:USR2@{resources.signal_delay_s}",
            f"--output={log}",
            "--open-mode=append",
            *([f"--chdir={folder}"] if folder else []),
            *order.options(),
            *([f"--array=0-{last}{'%1' * order.one_by_one}"] if is_array else []),
            *resources.options(with_gpu),
        ],
        script(commands, resources),
    )
    number = said.strip().partition(";")[0]
    if not number.isdigit():
        raise SlurmError(f"sbatch answered '{said.strip()}', which names no job; look at the queue with squeue")
    return [f"{number}_{index}" for index in range(len(commands))] if is_array else [number]


def script(commands: Sequence[Sequence[str]], resources: Resources) -> str:
    """What a job does: of the commands that of its index, told to save before its time is over, and requeued then.

    SIGTERM, which Slurm sends before it takes a job's node away, reaches the command itself.
    """
    cases = "\n".join(f"{index}) set -- {shlex.join(command)} ;;" for index, command in enumerate(commands))
    threads = " ".join(f"{variable}={resources.cpus_per_task}" for variable in THREAD_VARIABLES)
    return _SCRIPT.format(
        setup="\n".join(resources.setup),
        threads=threads,
        cases=cases,
        patience=max(1, resources.signal_delay_s - REQUEUE_SECONDS),
        most=resources.max_num_timeout,
    )


_SCRIPT: Final = """#!/bin/bash
{setup}
export {threads}
case "${{SLURM_ARRAY_TASK_ID:-0}}" in
{cases}
esac
work=

at_the_end() {{
    trap '' USR2
    kill -USR2 "$work" 2>/dev/null
    for second in $(seq {patience}); do
        kill -0 "$work" 2>/dev/null || break
        sleep 1
    done
    if ! kill -0 "$work" 2>/dev/null; then
        wait "$work" && exit 0
    fi
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then
        echo "requeued {most} times, and not done: give it more time with hydra.launcher.timeout_min"
        exit 1
    fi
    scontrol requeue "$SLURM_JOB_ID" && sleep 120 # within which Slurm ends this script
    exit 1
}}
trap at_the_end USR2
trap : TERM
"$@" &
work=$!
wait "$work"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$work" 2>/dev/null; do
    wait "$work"
    code=$?
done
exit "$code"
"""


def states(jobs: Collection[str]) -> dict[str, JobState]:
    """Where these jobs are, as far as Slurm still knows them. Raises: SlurmError where it does not answer."""
    found: dict[str, JobState] = {}
    numbers = sorted({job.partition("_")[0] for job in jobs}, key=int)
    for start in range(0, len(numbers), MOST_IDS):
        asked = ",".join(numbers[start : start + MOST_IDS])
        try:
            said = _run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={asked}", f"--format={_FORMAT}"])
        except SlurmError as error:
            if "invalid job id" in str(error).lower():  # of jobs that it has forgotten
                continue
            raise
        for line in said.splitlines():
            state = JobState(*(part.strip() for part in line.split("|")))
            if state.job in jobs:
                found[state.job] = state
    return found


_FORMAT: Final = "%i|%T|%r|%N|%S|%j"
"""The fields of JobState, in their order."""


def cancel(jobs: Sequence[str]) -> None:
    """Takes jobs out of the queue; those that run save, and end. Raises: SlurmError where Slurm refuses."""
    for start in range(0, len(jobs), MOST_IDS):
        _run(["scancel", "--quiet", *jobs[start : start + MOST_IDS]])


def _run(command: Sequence[str], text: str | None = None) -> str:
    """What a command of Slurm says. Raises: SlurmError where it fails."""
    # Of an allocation that this process may run in nothing is handed on but where Slurm is.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=kept)
    except FileNotFoundError as error:
        raise SlurmError(
            f"{command[0]} is not on this machine: go to a login node of the cluster, or run here with python run.py"
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(lines) or f"exit code {done.returncode}"
        remedy = next((remedy for word, remedy in REMEDIES.items() if word in said.lower()), "")
        raise SlurmError(f"{command[0]} refuses: {said}{f' ({remedy})' if remedy else ''}")
    return done.stdout
