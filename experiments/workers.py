"""Lasting worker processes: each does one job after another, and a killed one loses only the job it was at."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from experiments.allocator import keep_freed_memory
from experiments.console import Event, Relayed, relay_to
from experiments.stopping import stop_on_signals
from ldm.errors import UserError

Job = Callable[[], None]
"""A picklable piece of work; what comes of it is on disk."""

PATIENCE_SECONDS = 20.0
"""How long a worker that was told to end may take, which saves its training behind the step that it is at."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What the libraries below torch, numpy and scipy read at their start: numpy's linear algebra knows nothing of torch's
number of threads, and workers that each take all cores wait for one another (an evaluation of 1.3 s took 77 s)."""


@dataclass(frozen=True)
class Turn:
    """When a job may begin: when those numbered `after` have ended, if `may_begin` says so then; else it is left out.

    `ended` is called when it has ended, not where it was left out.
    """

    after: Collection[int] = ()
    may_begin: Callable[[], bool] = lambda: True
    ended: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Done:
    """A job has ended; `error` says why it did not succeed."""

    error: str | None


class _Waiting:
    """Jobs of one call that have not begun, by number, and what became of the others."""

    def __init__(self, jobs: Sequence[Job], turns: Sequence[Turn]) -> None:
        self.jobs, self.turns = jobs, turns
        self.numbers = dict.fromkeys(range(len(jobs)))
        self.errors: list[str | None] = [None] * len(jobs)
        self.not_ended = set(self.numbers)

    def next(self) -> int | None:
        """Takes out the first job whose turn it is, and all before it that are left out; None where all must wait."""
        while (number := self._due()) is not None:
            del self.numbers[number]
            if self.turns[number].may_begin():
                return number
            self.not_ended.discard(number)  # what waited for it is to be left out, too
        return None

    def _due(self) -> int | None:
        return next((n for n in self.numbers if self.not_ended.isdisjoint(self.turns[n].after)), None)

    def end(self, number: int, error: str | None) -> None:
        """A job has ended."""
        self.errors[number] = error
        self.not_ended.discard(number)
        self.turns[number].ended()


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: int | None = None
    relayed: Relayed = field(default_factory=Relayed)


class Workers:
    """`count` processes with `threads` threads each, started when they are first needed and kept until `end`.

    A worker is handed its next job when it is free, so no more than `count` run at any time. Workers end when this
    process does, however it ends.
    """

    def __init__(self, count: int, threads: int) -> None:
        """Raises: UserError where one of the numbers is below 1."""
        for name, number in (("workers", count), ("threads", threads)):
            if number < 1:
                raise UserError(f"hydra.launcher.{name}={number}: give at least 1.")
        self.count, self.threads = count, threads
        self.workers: list[_Worker] = []

    def run(self, jobs: Sequence[Job], turns: Sequence[Turn] | None = None) -> list[str | None]:
        """Runs all jobs, the first whose turn it is first, and returns, for each, why it did not succeed.

        None stands for those that did, and for those that were left out.
        """
        waiting = _Waiting(jobs, turns or [Turn()] * len(jobs))
        try:
            while waiting.numbers or self._busy():
                self._hand_out(waiting)
                busy = {worker.connection: worker for worker in self._busy()}
                for connection in wait(list(busy)):
                    self._listen(busy[connection], waiting)  # type: ignore[index]
        except BaseException:
            self.end()
            raise
        return waiting.errors

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _hand_out(self, waiting: _Waiting) -> None:
        for worker in [w for w in self.workers if w.job is None and not w.process.is_alive()]:
            self._bury(worker)  # killed while it waited
        while len(self._busy()) < self.count and (number := waiting.next()) is not None:
            worker = next((worker for worker in self.workers if worker.job is None), None) or self._started()
            worker.job = number
            # A worker that was killed this very moment: what listens to it finds out.
            with contextlib.suppress(OSError):
                worker.connection.send(waiting.jobs[number])

    def _started(self) -> _Worker:
        self.workers.append(fresh := _start(self.threads))
        return fresh

    def _listen(self, worker: _Worker, waiting: _Waiting) -> None:
        """Takes in one thing that a worker sent, or that it has died."""
        assert worker.job is not None
        number = worker.job
        try:
            message: Event | Done = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            message = Done(f"its process ended in the middle of it (exit code {worker.process.exitcode})")
        if isinstance(message, Done):
            worker.job = None
            waiting.end(number, message.error)
        else:
            worker.relayed.show(message)

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.relayed.end()
        worker.connection.close()
        self.workers.remove(worker)

    def end(self) -> None:
        """Ends all workers, whatever they are at."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(PATIENCE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
        for worker in list(self.workers):
            self._bury(worker)


def _start(threads: int) -> _Worker:
    # A fresh interpreter: a fork would share the locks and threads of torch and W&B, in whatever state they are.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, threads), daemon=True)
    with in_environment(dict.fromkeys(THREAD_VARIABLES, str(threads))):
        process.start()
    there.close()  # held by the worker alone, so that its death closes it
    return _Worker(process, here)


@contextlib.contextmanager
def in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these in it, for processes that start here."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


def _serve(connection: Connection, threads: int) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers
    stop_on_signals()
    threading.Thread(target=end_with_parent, daemon=True).start()
    sending = threading.Lock()

    def send(message: Event | Done) -> None:
        with sending:
            connection.send(message)

    relay_to(send)
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        while True:
            try:
                job: Job = connection.recv()
            except EOFError:
                return
            try:
                job()
                send(Done(None))
            except Exception as error:
                send(Done(f"{type(error).__name__}: {error}"))
    finally:
        # It is ending: a second word to stop, as a parent that ends has it, would only interrupt that.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_with_parent() -> None:
    """A parent that was killed tells its workers nothing, but they can see it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
