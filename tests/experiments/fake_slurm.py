"""Commands of Slurm that only keep books: one script under the names sbatch, squeue, scancel and scontrol.

The folder of `FAKE_SLURM` holds what they were told (`jobs.json`, `asked`) and what sbatch is to refuse (`refuse`).
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = ("sbatch", "squeue", "scancel", "scontrol")


class FakeSlurm:
    """The books of a fake Slurm, whose commands `install` puts on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"

    def install(self) -> None:
        """Makes the commands."""
        self.bin.mkdir(parents=True)
        for name in NAMES:
            path = self.bin / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} {name} "$@"\n')
            path.chmod(0o755)

    def run(
        self, command: Sequence[str], *, input: str | None = None, env: Mapping[str, str], **others: bool
    ) -> "subprocess.CompletedProcess[str]":
        """As `subprocess.run` of one of its commands, without a process, which would take longer than all else."""
        said, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code = keep_books(self, command[0], list(command[1:]), input or "")
        return subprocess.CompletedProcess(command, code, said.getvalue(), errors.getvalue())

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """What was submitted: `id`, `options` by name, `script`, `size` of the array (0: none), `states` by task."""
        path = self.folder / "jobs.json"
        return json.loads(path.read_text()) if path.exists() else []

    def save(self, jobs: list[dict[str, Any]]) -> None:
        """Keeps the books."""
        (self.folder / "jobs.json").write_text(json.dumps(jobs))

    def set_state(self, task: str, state: str) -> None:
        """From now on that job is in that state; "" where Slurm has forgotten it."""
        jobs = self.jobs
        [job] = [job for job in jobs if job["id"] == task.partition("_")[0]]
        job["states"][task] = state
        self.save(jobs)

    def refuse(self, sentence: str, after: int = 0) -> None:
        """From now on sbatch refuses, after so many more jobs; "" that it does not."""
        (self.folder / "refuse").write_text(json.dumps([sentence, len(self.jobs) + after]))

    def asked(self) -> list[str]:
        """What scontrol and scancel were asked."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


def tasks(job: dict[str, Any]) -> list[str]:
    """The names of a job's tasks."""
    return [f"{job['id']}_{index}" for index in range(job["size"])] if job["size"] else [job["id"]]


def _sbatch(books: FakeSlurm, arguments: list[str], text: str) -> int:
    options = {name: value for name, _, value in (each[2:].partition("=") for each in arguments)}
    jobs, refuse = books.jobs, books.folder / "refuse"
    if refuse.exists():
        sentence, after = json.loads(refuse.read_text())
        if sentence and len(jobs) >= after:
            print(f"sbatch: error: {sentence}", file=sys.stderr)
            return 1
    size = int(options["array"].partition("%")[0].partition("-")[2]) + 1 if "array" in options else 0
    job = {"id": str(len(jobs) + 1), "options": options, "script": text, "size": size}
    books.save([*jobs, {**job, "states": dict.fromkeys(tasks(job), "PENDING")}])
    print(f"{job['id']};cluster")
    return 0


def _squeue(books: FakeSlurm, arguments: list[str]) -> int:
    [asked] = [each.partition("=")[2].split(",") for each in arguments if each.startswith("--jobs=")]
    found = [job for job in books.jobs if job["id"] in asked]
    lines = [
        f"{task}|{state}|None|node7|2026-01-02T03:04:05|{job['options']['job-name']}"
        for job in found
        for task, state in job["states"].items()
        if state
    ]
    if not lines and len(asked) == 1:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def keep_books(books: FakeSlurm, name: str, arguments: list[str], text: str) -> int:
    """What one command does; its exit code."""
    if name == "sbatch":
        return _sbatch(books, arguments, text)
    if name == "squeue":
        return _squeue(books, arguments)
    with open(books.folder / "asked", "a") as file:
        file.write(" ".join((name, *arguments)) + "\n")
    if name == "scancel":
        for task in arguments[1:]:
            books.set_state(task, "CANCELLED")
    return 0


if __name__ == "__main__":
    called, *given = sys.argv[1:]
    told = sys.stdin.read() if called == "sbatch" else ""
    raise SystemExit(keep_books(FakeSlurm(Path(os.environ["FAKE_SLURM"])), called, given, told))
