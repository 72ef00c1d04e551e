"""Figures that processes draw side by side are those that one draws, and errors of the user come back as they are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic_store import Recipe, build

from analysis import drawn
from analysis.collect import read_study
from analysis.figures import FIGURES, Drawing
from ldm.errors import UserError


@pytest.fixture
def study(tmp_path, monkeypatch):
    build(tmp_path, Recipe(factors=(1, 4)))
    monkeypatch.setattr(drawn.os, "sched_getaffinity", lambda _: {0, 1, 2})
    return read_study(tmp_path)


@pytest.fixture
def with_threads(monkeypatch):
    return lambda count: monkeypatch.setattr(drawn.threading, "active_count", lambda: count)


def all_of(study, *kinds):
    with drawn.drawing(study, *kinds) as finished:
        return finished()


@pytest.mark.long
def test_files_words_and_numbers_are_those_of_one_process(study, with_threads):
    with_threads(2)
    alone = all_of(study, ["png", "svg"])
    with_threads(1)
    apart = all_of(study, ["png", "svg"])
    assert list(apart) == list(alone)
    for name, figure in apart.items():
        assert dict(figure.files) == dict(alone[name].files)
        assert figure.words == alone[name].words
        for plane, other in zip(figure.planes, alone[name].planes, strict=True):
            assert (plane.heading, plane.x, plane.y) == (other.heading, other.x, other.y)
            assert all(a.rows.equals(b.rows) for a, b in zip(plane.series, other.series, strict=True))


@pytest.mark.parametrize(("threads", "is_alone"), [(1, False), (2, True)])
def test_processes_are_forked_off_where_no_other_thread_holds_locks(
    study, with_threads, monkeypatch, threads, is_alone
):
    def fails(_):
        raise UserError(f"drawn by {os.getpid()}")

    monkeypatch.setattr(drawn, "figures_of", lambda _: {"a": fails, "b": fails})
    monkeypatch.setattr(drawn, "FIGURES", {**FIGURES, "a": Drawing(fails), "b": Drawing(fails)})
    with_threads(threads)
    with pytest.raises(UserError) as raised:
        all_of(study)
    assert (str(raised.value) == f"drawn by {os.getpid()}") is is_alone


SLOW_FIGURES = """
import os, pathlib, sys, time
from analysis import drawn
from analysis.figures import Drawing
def slow(study):
    pathlib.Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)
drawn.FIGURES = {name: Drawing(slow) for name in "ab"}
drawn.figures_of = lambda study: {name: slow for name in "ab"}
os.sched_getaffinity = lambda process: {0, 1}
with drawn.drawing(object()) as finished:
    finished()
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_that_draw_end_with_their_parent_at_once(tmp_path, by):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW_FIGURES, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as parent:
        _wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        if by == signal.SIGINT:  # Ctrl-C goes to all that the terminal runs
            os.killpg(parent.pid, by)
        else:
            parent.send_signal(by)
        parent.communicate(timeout=30)
    children = [int(path.name) for path in tmp_path.iterdir()]
    _wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_a_process_that_is_killed_is_said_in_one_sentence(study, with_threads, monkeypatch):
    def dies(_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(drawn, "figures_of", lambda _: {"a": dies, "b": dies})
    monkeypatch.setattr(drawn, "FIGURES", {**FIGURES, "a": Drawing(dies), "b": Drawing(dies)})
    with_threads(1)
    with pytest.raises(UserError, match="memory does not suffice"):
        all_of(study)


def test_after_an_error_beside_them_no_further_figures_are_begun(study, with_threads, monkeypatch, tmp_path):
    def takes_a_moment(_):
        time.sleep(0.1)
        (tmp_path / f"drawn {time.monotonic_ns()} {os.getpid()}").touch()
        raise UserError("never asked for")

    names = [f"figure {number}" for number in range(30)]
    monkeypatch.setattr(drawn, "figures_of", lambda _: names)
    monkeypatch.setattr(drawn, "FIGURES", dict.fromkeys(names, Drawing(takes_a_moment)))
    with_threads(1)
    with pytest.raises(ZeroDivisionError), drawn.drawing(study):
        raise ZeroDivisionError
    assert len(list(tmp_path.glob("drawn *"))) < len(names) / 2


def _wait_until(is_so, seconds=30):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
