"""What the person at the keyboard sees: one progress display, or plain lines where there is no terminal.

A worker process shows nothing itself: `relay_to` makes it tell its parent, and `Relayed` shows it there.
"""

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_SECONDS = 15.0

LEAST_BEHIND = 0.05
"""Share of the forecast work that must be done before its pace tells what is left."""

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

    def complete(self, stage: str, identity: str) -> None:
        """A stage of the whole work is done."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        is_images = task.speed and task.fields.get("unit") is None
        return Text(f"{task.speed:,.0f} images/s" if is_images else task.fields.get("unit", ""), style="cyan")


class _Left(ProgressColumn):
    """The time left: as a piece of work says it, else by its rate."""

    def __init__(self) -> None:
        super().__init__()
        self.by_rate = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        said = task.fields.get("left")
        return self.by_rate.render(task) if said is None else Text(said, style="cyan")


class Whole:
    """How far the whole of a run is: stages by (name, identity), with the seconds that they were forecast to take.

    Time left is what is forecast of the stages that are not done, at the pace of those that are.
    """

    def __init__(self, weights: Mapping[tuple[str, str], float]) -> None:
        self.left = dict(weights)
        self.total, self.forecast = len(weights), sum(weights.values())
        self.started = time.monotonic()

    @property
    def done(self) -> int:
        """Stages that are complete."""
        return self.total - len(self.left)

    def complete(self, stage: str, identity: str) -> bool:
        """Whether the stage that is complete now was one of those waited for."""
        return self.left.pop((stage, identity), None) is not None

    def seconds_left(self) -> float | None:
        """None where nothing was forecast, or too little of it is done to tell the pace."""
        ahead = sum(self.left.values())
        behind = self.forecast - ahead
        if behind < LEAST_BEHIND * self.forecast or not behind:
            return None
        return ahead * (time.monotonic() - self.started) / behind

    def __str__(self) -> str:
        left = self.seconds_left()
        return f"{self.done} of {self.total} stages" + ("" if left is None else f", {clock(left)} left")


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
        self.whole: Whole | None = None
        self.whole_bar: TaskID | None = None
        self.whole_said = 0.0

    def say(self, text: str, style: str | None) -> None:
        console.print(printable(text), style=style, markup=False)
        sys.stdout.flush()

    def begin(self, label: str, total: int) -> Reporter:
        if not console.is_terminal:
            return _Lines(label, total)
        return _Bar(label, total, self._shown())

    def _shown(self) -> Progress:
        """The display of all bars, which is there as long as there is one."""
        if self.progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), _Left())
            self.progress = Progress(*columns, console=console, transient=True)
            self.progress.start()
        return self.progress

    def end(self, reporter: Reporter) -> None:
        if self.progress is None or not isinstance(reporter, _Bar):
            return
        self._remove(reporter.task)

    def _remove(self, task: TaskID) -> None:
        assert self.progress is not None
        self.progress.remove_task(task)
        if not self.progress.tasks:
            self.progress.stop()
            self.progress = None

    def begin_whole(self, whole: Whole) -> None:
        """From now on the whole is shown, too."""
        self.whole, self.whole_said = whole, time.monotonic()
        if console.is_terminal:
            self.whole_bar = self._shown().add_task("all", total=whole.total, unit="stages", left="")

    def end_whole(self) -> None:
        """It is over, done or not."""
        if self.whole_bar is not None:
            self._remove(self.whole_bar)
        self.whole = self.whole_bar = None

    def complete(self, stage: str, identity: str) -> None:
        if self.whole is None or not self.whole.complete(stage, identity):
            return
        if self.whole_bar is not None and self.progress is not None:
            left = self.whole.seconds_left()
            self.progress.update(self.whole_bar, completed=self.whole.done, left="" if left is None else clock(left))
        elif time.monotonic() - self.whole_said >= LINE_EVERY_SECONDS and self.whole.left:
            self.say(f"  {self.whole}", None)
            self.whole_said = time.monotonic()


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


@dataclass(frozen=True)
class Completed:
    """A worker has completed a stage."""

    stage: str
    identity: str


Event = Said | Begun | Advanced | Ended | Completed
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

    def complete(self, stage: str, identity: str) -> None:
        self.send(Completed(stage, identity))


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
            case Completed(stage, identity):
                _display.complete(stage, identity)

    def end(self) -> None:
        """Takes away the progress that a worker left behind when it died."""
        for reporter in self.works.values():
            _display.end(reporter)
        self.works.clear()


_screen = _Screen()
_display: Display = _screen


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


def complete(stage: str, identity: str) -> None:
    """A stage is done, by this process or another one: the whole is that much further."""
    _display.complete(stage, identity)


@contextmanager
def whole(weights: Mapping[tuple[str, str], float]) -> Iterator[None]:
    """Shows how far the whole of these stages is, by (name, identity), with the seconds that each may take."""
    _screen.begin_whole(Whole(weights))
    try:
        yield
    finally:
        _screen.end_whole()


@contextmanager
def reporting(label: str, total: int) -> Iterator[Reporter]:
    """A reporter for work on `total` images, its bar gone when the work is."""
    reporter = _display.begin(label, total)
    try:
        yield reporter
    finally:
        _display.end(reporter)
