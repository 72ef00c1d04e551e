"""Figures that processes draw side by side are those that one draws, and errors of the user come back as they are."""

import os

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


@pytest.mark.long
def test_files_words_and_numbers_are_those_of_one_process(study, with_threads):
    with_threads(2)
    alone = drawn.drawn(study, ["png", "svg"])
    with_threads(1)
    apart = drawn.drawn(study, ["png", "svg"])
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
        drawn.drawn(study)
    assert (str(raised.value) == f"drawn by {os.getpid()}") is is_alone
