"""Freed memory stays with the process, counted in pages that the system had to bring."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory_churn import PAGES

from experiments import allocator, cli
from experiments.allocator import CHOSEN_BY_USER

SCRIPT = Path(__file__).parent / "memory_churn.py"


def brought_pages(*calls: str) -> tuple[int, bool]:
    """Pages brought once blocks were asked for and freed before, and whether the calls could set the allocator."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(SCRIPT), *calls]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    pages, done = ended.stdout.split()
    return int(pages), done == "True"


@pytest.fixture(autouse=True)
def _no_choice_of_the_user(monkeypatch):
    for name in CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_is_brought_once():
    kept, done = brought_pages("keep")
    assert done
    assert kept < PAGES / 50
    assert brought_pages()[0] > PAGES / 2  # a process by itself
    assert brought_pages("keep", "give")[0] > PAGES / 2  # and one that is set back


def test_what_the_user_chose_stays(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the allocator was set"))
    for name in CHOSEN_BY_USER:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not allocator.keep_freed_memory()
            assert not allocator.give_freed_memory_back()


def test_a_c_library_without_the_call_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()


def test_commands_keep_it(monkeypatch):
    called = list[bool]()
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append(True))
    assert cli.exit_code(lambda: 3) == 3
    assert called == [True]


def test_what_is_computed_is_the_same():
    x = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    before = torch.nn.functional.conv2d(x, weight)
    allocator.keep_freed_memory()
    try:
        assert torch.equal(torch.nn.functional.conv2d(x, weight), before)
    finally:
        allocator.give_freed_memory_back()
