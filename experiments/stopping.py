"""Signals that ask this process to stop: training saves where it stands, then they act as they would have."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, what ends a process politely, and what Slurm sends before a job's time is over."""

EXIT_CODE: Final = 128 + signal.SIGTERM
"""What a shell says of a process that SIGTERM ended."""


PARENT: Final = "LDM_PARENT"
"""Variable of the environment with the number of the process without which one is to stop."""

SECONDS_TO_NOTICE: Final = 1.0


class StoppedError(SystemExit):
    """This process was asked to stop; where nothing else is made of it, it ends with `EXIT_CODE`."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def stop_on_signals() -> None:
    """From now on SIGTERM and SIGUSR2 raise StoppedError in the main thread, as Ctrl-C raises KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, _stop)


def stop_with_parent() -> None:
    """Has this process stop, as if by SIGTERM, as soon as the parent is gone that its environment names, if any."""
    named = os.environ.pop(PARENT, None)

    def watch() -> None:
        while str(os.getppid()) == named:
            time.sleep(SECONDS_TO_NOTICE)
        os.kill(os.getpid(), signal.SIGTERM)

    if named is not None:
        threading.Thread(target=watch, daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError


class HeldBack:
    """Signals that came while they were held back; `handlers`: what each would have done at once."""

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {number: signal.getsignal(number) for number in STOPPING}
        self.came: list[int] = []

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: it has to wait, unless it is a second Ctrl-C."""
        if number == signal.SIGINT and number in self.came:
            self.came.clear()
            self._deliver(number)
        self.came.append(number)

    def act(self) -> None:
        """Lets what came act now; returns where nothing came, and where whoever handles it returns."""
        while self.came:
            self._deliver(self.came.pop(0))

    def _deliver(self, number: int) -> None:
        """As if it came now: a handler of Slurm's launcher may requeue the job, the system's ends the process."""
        signal.signal(number, self.handlers[number])
        signal.raise_signal(number)
        signal.signal(number, self.note)


@contextlib.contextmanager
def held_back() -> Iterator[HeldBack]:
    """Holds signals that ask to stop back until `act` is called, or the context left.

    Nothing is held back beside the main thread, to which they come, nor where they are ignored.
    """
    held = HeldBack()
    ignored = (signal.SIG_IGN, None)  # None: the handler is not Python's
    known = {number: handler for number, handler in held.handlers.items() if handler not in ignored}
    if threading.current_thread() is not threading.main_thread():
        known = {}
    for number in known:
        signal.signal(number, held.note)
    try:
        yield held
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)
        for came in held.came:
            signal.raise_signal(came)
