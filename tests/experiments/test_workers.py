"""Lasting workers: two at once, one killed, one that raises, one parent that is killed."""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from memory_churn import PAGES, count_pages

from experiments import console
from experiments.allocator import CHOSEN_BY_USER
from experiments.workers import THREAD_VARIABLES, Turn, Workers, _Waiting, cores
from ldm.errors import UserError

PATIENCE = 60.0


def write(path: Path, text: str = "") -> None:
    """A file that appears whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def await_file(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.01)


def note_process(path: Path) -> None:
    write(path, str(os.getpid()))


def meet(mine: Path, other: Path) -> None:
    """Ends only if the other job runs beside it."""
    note_process(mine)
    await_file(other)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("no luck")


def report() -> None:
    with console.reporting("work", 10) as reporter:
        reporter.advance_to(10, "note")
    console.say("a line", "bold")


def count_threads(path: Path) -> None:
    import torch

    write(path, " ".join([str(torch.get_num_threads()), *(os.environ[name] for name in THREAD_VARIABLES)]))


def note_pages(path: Path) -> None:
    write(path, str(count_pages()))


def stay(path: Path) -> None:
    note_process(path)
    time.sleep(PATIENCE)


def end_slowly(begun: Path, ended: Path) -> None:
    """Leaves something that the process does on its way out."""

    def leave() -> None:
        note_process(begun)
        time.sleep(0.5)
        write(ended)

    atexit.register(leave)


@contextlib.contextmanager
def workers(count: int, threads: int = 1):
    made = Workers(count, threads)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.long
def test_two_run_at_once_and_last_from_one_wave_to_the_next(tmp_path: Path) -> None:
    a, b, later = tmp_path / "a", tmp_path / "b", tmp_path / "later"
    with workers(2) as pair:
        assert pair.run([functools.partial(meet, a, b), functools.partial(meet, b, a)]) == [None, None]
        assert pair.run([functools.partial(note_process, later)]) == [None]
        assert len({a.read_text(), b.read_text(), str(os.getpid())}) == 3
        assert later.read_text() in (a.read_text(), b.read_text())
        processes = [worker.process for worker in pair.workers]
    assert not any(process.is_alive() for process in processes)


@pytest.mark.long
def test_a_killed_worker_loses_its_job_alone_and_is_replaced(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(3)]
    jobs = [functools.partial(note_process, file) for file in files]
    with workers(1) as one:
        errors = one.run([jobs[0], kill_itself, jobs[1], fail, jobs[2]])
        assert errors == [
            None,
            "its process ended in the middle of it (exit code -9)",
            None,
            "ValueError: no luck",
            None,
        ]
        before, after, later = (int(file.read_text()) for file in files)
        assert before != after == later
        os.kill(after, signal.SIGKILL)  # while it waits for work
        one.workers[0].process.join()
        assert one.run([jobs[0]]) == [None]
        assert int(files[0].read_text()) != after


@pytest.mark.long
def test_a_job_begins_when_those_have_ended_that_it_waits_for_and_no_later(tmp_path: Path) -> None:
    """The third waits for the first alone, and the second for the third: with a barrier none would end."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    jobs = [functools.partial(note_process, first), functools.partial(meet, second, third)]
    jobs.append(functools.partial(note_process, third))
    ended: list[int] = []
    turns = [Turn(ended=lambda: ended.append(0)), Turn(), Turn((0,), first.exists, lambda: ended.append(2))]
    with workers(2) as pair:
        assert pair.run(jobs, turns) == [None] * 3
    assert ended == [0, 2]
    assert third.exists()


@pytest.mark.long
def test_a_job_may_wait_for_one_that_stands_behind_it(tmp_path: Path) -> None:
    later = tmp_path / "later"
    with workers(1) as one:
        turns = [Turn((1,), later.exists), Turn()]
        jobs = [functools.partial(await_file, later), functools.partial(note_process, later)]
        assert one.run(jobs, turns) == [None, None]


@pytest.mark.long
def test_what_may_not_begin_is_left_out_with_all_that_waits_for_it(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(4)]
    ended: list[int] = []
    turns = [
        Turn((), lambda: True, lambda: ended.append(0)),
        Turn((0,), lambda: False, lambda: ended.append(1)),
        Turn((1,), files[1].exists, lambda: ended.append(2)),
        Turn((), lambda: True, lambda: ended.append(3)),
    ]
    with workers(1) as one:
        assert one.run([functools.partial(note_process, file) for file in files], turns) == [None] * 4
    assert [file.exists() for file in files] == [True, False, False, True]
    assert ended == [0, 3]


def test_thousands_may_be_left_out_at_once() -> None:
    """As where the one stage failed that all hang on."""
    waiting = _Waiting([fail] * 2000, [Turn((number - 1,) if number else (), lambda: False) for number in range(2000)])
    assert waiting.next() is None
    assert not waiting.numbers


@pytest.mark.long
def test_each_has_its_threads_and_what_it_shows_is_shown_here(tmp_path: Path, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(console, "_display", Record(shown))
    monkeypatch.setenv(THREAD_VARIABLES[0], "2")
    monkeypatch.delenv(THREAD_VARIABLES[1], raising=False)
    before = dict(os.environ)
    with workers(1, threads=3) as one:
        assert one.run([functools.partial(count_threads, tmp_path / "threads"), report]) == [None, None]
    assert (tmp_path / "threads").read_text() == "3 3 3 3"
    assert dict(os.environ) == before
    assert shown == [("begin", "work", 10), ("advance", 10, "note"), ("end",), ("say", "a line", "bold")]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_workers_keep_freed_memory(tmp_path, monkeypatch):
    for name in CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    with workers(1) as one:
        assert one.run([functools.partial(note_pages, tmp_path / "pages")]) == [None]
    assert int((tmp_path / "pages").read_text()) < PAGES / 50


class Record:
    """A display that keeps what it is told."""

    def __init__(self, shown):
        self.shown = shown

    def say(self, text, style):
        self.shown.append(("say", text, style))

    def begin(self, label, total):
        self.shown.append(("begin", label, total))
        return self

    def advance_to(self, done, note=""):
        self.shown.append(("advance", done, note))

    def end(self, reporter):
        self.shown.append(("end",))


@pytest.mark.long
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import functools, pathlib, sys; from experiments.workers import Workers; from test_workers import stay\n"
        "if __name__ == '__main__': Workers(1, 1).run([functools.partial(stay, pathlib.Path(sys.argv[1]))])\n"
    )
    script, begun = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    parent = subprocess.Popen([sys.executable, script, begun], env={**os.environ, "PYTHONPATH": path})
    await_file(begun)
    worker = int(begun.read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker works on"
        time.sleep(0.05)


@pytest.mark.long
def test_a_worker_that_is_ending_is_not_interrupted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    with workers(1) as pool:
        assert pool.run([functools.partial(end_slowly, begun, ended)]) == [None]
        [worker] = pool.workers
        worker.process.terminate()
        await_file(begun)
        worker.process.terminate()
        worker.process.join(PATIENCE)
    assert ended.exists()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("count", "threads"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(count: int, threads: int) -> None:
    with pytest.raises(UserError, match="give at least 1"):
        Workers(count, threads)


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
