"""A second process beside that of the tests: both call a function as the two ranks of one group, over gloo."""

import datetime
import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ldm.ranks import Ranks, these

PATIENCE = datetime.timedelta(minutes=10)


class TwoRanks:
    """Calls functions in both; the group lasts as long as a call, so that other tests know nothing of it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,), daemon=True)
        self.process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(ranks, *arguments)` gives in either, which is to be importable, and its results plain."""
        with tempfile.TemporaryDirectory() as folder:
            place = str(Path(folder) / "meeting")
            self.connection.send((place, function, arguments))
            mine = _call(0, place, function, arguments)
            theirs, error = self.connection.recv()
            assert error is None, error
            return [mine, theirs]

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def _call(rank: int, place: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2, timeout=PATIENCE)
    try:
        assert these() == Ranks(rank, 2)
        return function(these(), *arguments)
    finally:
        dist.destroy_process_group()


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        place, function, arguments = connection.recv()
        try:
            connection.send((_call(1, place, function, arguments), None))
        except Exception as error:
            connection.send((None, repr(error)))
