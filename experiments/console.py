"""What the person at the keyboard sees: one progress display, or plain lines where there is no terminal.

A worker process shows nothing itself: `relay_to` makes it tell its parent, and `Relayed` shows it there.
"""

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_SECONDS = 15.0

console = Console(stderr=False, highlight=False, soft_wrap=True)


class Reporter(Protocol):
    """Progress of one piece of work, in images; a rate and the time left are made of it."""

    def advance_to(self, done: int, note: str = "") -> None:
        """Shows that `done` of the total images are done; `note` stands behind the label."""
        ...


class Display(Protocol):
    """Where lines and progress go."""

    def say(self, text: str, style: str | None) -> None:
        """One line."""
        ...

    def begin(self, label: str, total: int) -> Reporter:
        """Progress of work on `total` images, which may run beside other work."""
        ...

    def end(self, reporter: Reporter) -> None:
        """That work is over."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="cyan")


class _Lines:
    """Plain lines: each piece of work says now and then how far it is."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total = label, total
        self.started = self.said = time.monotonic()
        self.first: int | None = None

    def advance_to(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.said >= LINE_EVERY_SECONDS and self.first < done < self.total:
            rate = (done - self.first) / (now - self.started)
            left = (self.total - done) / rate
            say(f"  {self.label}  {done:,}/{self.total:,}  {rate:,.0f} images/s  {clock(left)} left  {note}".rstrip())
            self.said = now


class _Bar:
    """One bar of the progress display."""

    def __init__(self, label: str, total: int, progress: Progress) -> None:
        self.label, self.progress = label, progress
        self.task = progress.add_task(printable(label), total=total)

    def advance_to(self, done: int, note: str = "") -> None:
        self.progress.update(self.task, completed=done, description=printable(f"{self.label} {note}".rstrip()))


def printable(text: str) -> str:
    """The text with control characters spelled out, as names of files may hold them; line breaks stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)


class _Screen:
    """This process's own output: lines, and below them a bar for each piece of work, as long as there is one."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def say(self, text: str, style: str | None) -> None:
        console.print(printable(text), style=style, markup=False)
        sys.stdout.flush()

    def begin(self, label: str, total: int) -> Reporter:
        if not console.is_terminal:
            return _Lines(label, total)
        if self.progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
            self.progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self.progress.start()
        return _Bar(label, total, self.progress)

    def end(self, reporter: Reporter) -> None:
        if self.progress is None or not isinstance(reporter, _Bar):
            return
        self.progress.remove_task(reporter.task)
        if not self.progress.tasks:
            self.progress.stop()
            self.progress = None


@dataclass(frozen=True)
class Said:
    """A worker says a line."""

    text: str
    style: str | None


@dataclass(frozen=True)
class Begun:
    """A worker begins a piece of work; `work` names it among those of this worker."""

    work: int
    label: str
    total: int


@dataclass(frozen=True)
class Advanced:
    """A worker has done so many images of a piece of work."""

    work: int
    done: int
    note: str


@dataclass(frozen=True)
class Ended:
    """A worker's piece of work is over."""

    work: int


Event = Said | Begun | Advanced | Ended
Send = Callable[[Event], None]


@dataclass(frozen=True)
class _Remote:
    """Progress that is shown by another process."""

    work: int
    send: Send

    def advance_to(self, done: int, note: str = "") -> None:
        self.send(Advanced(self.work, done, note))


class _Relay:
    """The display of a worker: all is sent to the process that shows it."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.works = itertools.count()

    def say(self, text: str, style: str | None) -> None:
        self.send(Said(text, style))

    def begin(self, label: str, total: int) -> Reporter:
        work = next(self.works)
        self.send(Begun(work, label, total))
        return _Remote(work, self.send)

    def end(self, reporter: Reporter) -> None:
        if isinstance(reporter, _Remote):
            self.send(Ended(reporter.work))


class Relayed:
    """What one worker sent, shown here."""

    def __init__(self) -> None:
        self.works: dict[int, Reporter] = {}

    def show(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case Said(text, style):
                say(text, style)
            case Begun(work, label, total):
                self.works[work] = _display.begin(label, total)
            case Advanced(work, done, note):
                self.works[work].advance_to(done, note)
            case Ended(work):
                _display.end(self.works.pop(work))

    def end(self) -> None:
        """Takes away the progress that a worker left behind when it died."""
        for reporter in self.works.values():
            _display.end(reporter)
        self.works.clear()


_display: Display = _Screen()


class _Notices(logging.Handler):
    """What the library logs as a warning is said like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), style="yellow")


logging.getLogger("ldm").addHandler(_Notices(logging.WARNING))


def relay_to(send: Send) -> None:
    """From now on all that this process has to show goes to `send`."""
    global _display
    _display = _Relay(send)


def say(text: str, style: str | None = None) -> None:
    """One line, above the progress bars where some are shown."""
    _display.say(text, style)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def reporting(label: str, total: int) -> Iterator[Reporter]:
    """A reporter for work on `total` images, its bar gone when the work is."""
    reporter = _display.begin(label, total)
    try:
        yield reporter
    finally:
        _display.end(reporter)
