"""The figures of a study as files with their numbers, drawn side by side."""

import ctypes
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

from analysis import style
from analysis.collect import Study
from analysis.figures import FIGURES, figures_of
from analysis.numbers import NumberedFigure, Plane, Words
from ldm.errors import UserError

MOST_PROCESSES = 8


@dataclass(frozen=True)
class Drawn:
    """A figure: its words, the numbers in its panels, and its files by kind."""

    words: Words
    planes: Sequence[Plane]
    files: Mapping[str, bytes] = field(repr=False)


@contextmanager
def drawing(study: Study, kinds: Sequence[str] = style.KINDS) -> Iterator[Callable[[], dict[str, Drawn]]]:
    """Has all figures of a study drawn beside what is done within, and gives what waits for them, in their order.

    Raises: UserError, of the call, where a process that draws some is killed.
    """
    style.apply()
    names = list(figures_of(study))
    with _processes(study, len(names)) as mapped:
        figures = mapped(functools.partial(_drawn, kinds=kinds), names)

        def finished() -> dict[str, Drawn]:
            try:
                return dict(zip(names, figures, strict=True))
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that drew figures was killed, most likely since memory does not suffice: close other "
                    "programs, and give the command again."
                ) from error

        yield finished


_study: Study | None = None
"""What the figures are drawn of, where processes that are forked off find it."""


def _drawn(name: str, kinds: Sequence[str]) -> Drawn:
    assert _study is not None
    figure = FIGURES[name].draw(_study)
    words, planes = (figure.words, figure.planes) if isinstance(figure, NumberedFigure) else (Words(), [])
    return Drawn(words, planes, style.rendered(figure, kinds))


Mapped = Callable[[Callable[[str], Drawn], Iterable[str]], Iterable[Drawn]]


@contextmanager
def _processes(study: Study, most: int) -> Iterator[Mapped]:
    """A `map` over as many processes as there are cores, which share the study by being forked off.

    In this process alone where it has other threads, whose locks a fork would copy as they are.
    """
    global _study
    _study = study
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1  # Linux, where forks are safe
    count = min(most, cores, MOST_PROCESSES)
    try:
        if count < 2 or threading.active_count() > 1:
            yield map
        else:
            forked = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(count, forked, initializer=_end_with_parent) as pool:
                try:
                    yield pool.map
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)  # after an error nothing new is begun
    finally:
        _study = None


PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""


def _end_with_parent() -> None:
    """Has this process end at once with its parent, however that ends, and by Ctrl-C."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
