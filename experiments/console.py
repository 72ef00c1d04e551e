"""What the person at the keyboard sees: one progress display, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_SECONDS = 15.0

console = Console(stderr=False, highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """One line, above the progress bar where one is shown."""
    console.print(text, style=style, markup=False)
    sys.stdout.flush()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="cyan")


class Reporter:
    """Progress of one stage: `advance_to(done)` in images; a rate and the time left are made of it."""

    def __init__(self, label: str, total: int, progress: Progress | None) -> None:
        self.label, self.total, self.progress = label, total, progress
        self.task = progress.add_task(label, total=total) if progress else None
        self.started = self.said = time.monotonic()
        self.first: int | None = None

    def advance_to(self, done: int, note: str = "") -> None:
        """Shows that `done` of the total images are done; `note` stands behind the label."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, description=f"{self.label} {note}".rstrip())
            return
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.said >= LINE_EVERY_SECONDS and self.first < done < self.total:
            rate = (done - self.first) / (now - self.started)
            left = (self.total - done) / rate
            say(f"  {self.label}  {done:,}/{self.total:,}  {rate:,.0f} images/s  {clock(left)} left  {note}".rstrip())
            self.said = now


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def reporting(label: str, total: int) -> Iterator[Reporter]:
    """A reporter for work on `total` images, its bar gone when the work is."""
    if not console.is_terminal:
        yield Reporter(label, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Reporter(label, total, progress)
