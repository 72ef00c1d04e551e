"""One stage on several devices: a process each, started for the stage and ended with it, whose work is divided.

What runs in them is the stage itself; `ldm.ranks.these` tells it which share is its own.
"""

import contextlib
import datetime
import functools
import logging
import multiprocessing
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.multiprocessing.spawn import ProcessContext, ProcessException

from experiments.allocator import keep_freed_memory
from experiments.claims import Claim
from experiments.console import Event, Relayed, relay_to
from experiments.stage import Log, Outcome
from experiments.stopping import stop_on_signals
from experiments.workers import PATIENCE_SECONDS, THREAD_VARIABLES, cores, end_with_parent, in_environment
from ldm.errors import UserError
from ldm.ranks import these

AUTO: Final = "auto"
"""In place of a number of devices: all GPUs, or one process on a CPU."""

LONGEST_WAIT: Final = datetime.timedelta(hours=6)
"""How long a rank may wait for another: while one writes. One that has ended is known at once."""

LOOK_EVERY_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 1.0
"""How long ranks whose fellow ended may take to end, before they are told to and again before they are killed."""

Work = Callable[[Log, Claim], Outcome]
"""What each rank does, picklable: with where it logs, and under which claim."""


def devices_of(config: Mapping[str, Any]) -> int:
    """On how many devices the stages of a config may run, once its device is decided.

    Raises: UserError where they are more than this machine has, or where this process has to do with one.
    """
    asked, device = config["trainer"]["devices"], config["device"]
    there = torch.cuda.device_count() if device == "cuda" else max(2, cores())
    is_worker = multiprocessing.current_process().daemon  # which may have no processes of its own
    if asked == AUTO:
        return max(1, there) if device == "cuda" and not is_worker else 1
    if asked > max(1, there):  # that there is no GPU at all, whoever uses it says
        found = f"torch finds {there} GPU{'s' * (there != 1)} here" if device == "cuda" else f"{there} cores are here"
        raise UserError(f"trainer.devices={asked}, but {found}: give trainer.devices={max(1, there)} or fewer")
    if asked > 1 and is_worker:
        raise UserError(
            f"trainer.devices={asked}: workers of hydra/launcher=local have one device each; give "
            "hydra/launcher=basic, where one stage after the other has all devices, or trainer.devices=1"
        )
    return int(asked)


@dataclass(frozen=True)
class _Logged:
    """Values that the first rank logs."""

    images_seen: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Pictured:
    """A picture that the first rank logs."""

    path: Path


@dataclass(frozen=True)
class _Made:
    """What the first rank's work came to."""

    outcome: Outcome


@dataclass(frozen=True)
class _Failed:
    """Why a rank's work failed, and when by the clock that all processes of a machine share."""

    error: Exception
    at: float


_Message = Event | _Logged | _Pictured | _Made | _Failed


class RankLostError(Exception):
    """A process ended in the middle of the work that it shared."""


def run_on_devices(work: Work, log: Log, claim: Claim, device: str, count: int) -> Outcome:
    """The outcome of a work that `count` processes of this machine share, a device each; all end where one does.

    Raises: what the work raised first; RankLostError where a process was killed.
    """
    pipes = [multiprocessing.get_context("spawn").Pipe(duplex=False) for _ in range(count)]
    threads = max(1, torch.get_num_threads() // count)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends ranks is no news
    with tempfile.TemporaryDirectory() as folder, in_environment(dict.fromkeys(THREAD_VARIABLES, str(threads))):
        serve = functools.partial(
            _serve,
            count=count,
            meeting=Path(folder) / "meeting",
            device=device,
            threads=threads,
            work=work,
            claim=claim,
            connections=[there for _, there in pipes],
        )
        started = processes.start_processes(serve, nprocs=count, join=False, start_method="spawn")
        assert isinstance(started, ProcessContext)
        listening = _Listening([here for here, _ in pipes], log)
        try:
            return _outcome(started, listening)
        finally:
            listening.relayed.end()
            _end(started)
            for connection in (end for pipe in pipes for end in pipe):
                connection.close()


def _outcome(started: ProcessContext, listening: "_Listening") -> Outcome:
    try:
        while not started.join(LOOK_EVERY_SECONDS, GRACE_SECONDS):
            listening.listen()
    except ProcessException as error:
        listening.listen()
        rank = error.error_index  # which ended first; others that hang then are killed by torch
        code = started.processes[rank].exitcode
        if code is not None and code < 0 and code != -signal.SIGTERM:
            name = signal.Signals(-code).name
            raise RankLostError(
                f"the process of device {rank} was killed ({name}) in the middle of it; the same command goes on "
                "from the last checkpoint"
            ) from None
        if listening.failures:
            raise min(listening.failures, key=lambda failure: failure.at).error from None
        raise RankLostError(f"the process of a device ended in the middle of it ({error})") from error
    listening.listen()
    assert listening.outcome is not None
    return listening.outcome


class _Listening:
    """Takes in what ranks send: what there is to show and to log, how the work ended."""

    def __init__(self, connections: Sequence[Connection], log: Log) -> None:
        self.connections, self.log, self.relayed = connections, log, Relayed()
        self.outcome: Outcome | None = None
        self.failures: list[_Failed] = []

    def listen(self) -> None:
        """Takes in all that has come."""
        for connection in self.connections:
            while connection.poll():
                self._take(connection.recv())

    def _take(self, message: _Message) -> None:
        match message:
            case _Logged(images_seen, values):
                self.log.log(images_seen, values)
            case _Pictured(path):
                self.log.image(path)
            case _Made(outcome):
                self.outcome = outcome
            case _Failed():
                self.failures.append(message)
            case _:
                self.relayed.show(message)


def _end(started: ProcessContext) -> None:
    """Ends all ranks, the first before the others, so that it can save what they have."""
    first, *others = started.processes
    if first.is_alive():
        first.terminate()
        first.join(PATIENCE_SECONDS)
    for process in (first, *others):
        if process.is_alive():
            process.kill()
        process.join()


@dataclass(frozen=True)
class _ToParent:
    """The first rank's log."""

    send: Callable[[_Message], None]

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.send(_Logged(images_seen, dict(values)))

    def image(self, path: Path) -> None:
        self.send(_Pictured(path))


def _serve(
    rank: int,
    count: int,
    meeting: Path,
    device: str,
    threads: int,
    work: Work,
    claim: Claim,
    connections: Sequence[Connection],
) -> None:
    """The life of a rank. The first one shows, logs and is told to stop, and saves; the others end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its ranks
    stop_on_signals()
    if rank > 0:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    sending = threading.Lock()

    def send(message: _Message) -> None:
        with sending:
            connections[rank].send(message)

    def send_first(message: _Message) -> None:
        if rank == 0:
            send(message)

    relay_to(send_first)
    torch.set_num_threads(threads)
    keep_freed_memory()
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting.as_uri(), rank=rank, world_size=count, timeout=LONGEST_WAIT)
    try:
        outcome = work(_ToParent(send_first), claim)
        these().wait()
    except Exception as error:
        send(_Failed(_with_traceback(error, rank), time.monotonic()))
        raise SystemExit(1) from error
    send_first(_Made(outcome))
    dist.destroy_process_group()


def _with_traceback(error: Exception, rank: int) -> Exception:
    """The error as it can be sent, with where it came from as a note."""
    text = f"{type(error).__name__}: {error}"
    where = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error)
        copy.add_note(f"In the process of device {rank}:\n{where}")
        return copy
    return RankLostError(f"the process of device {rank} failed: {text}\n{where}")
