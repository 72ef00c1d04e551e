"""What is compared, and the row that is said of it."""

import importlib.metadata
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from benchmarks.timing import Call, Paired, in_turn
from experiments.allocator import give_freed_memory_back, keep_freed_memory
from experiments.commands.timing import foreign_load, this_machine


@dataclass(frozen=True)
class Contest:
    """Two calls that do the same work; `amount` of it is done in a call, in `unit` a second.

    `size` tells contests of one name apart. `peer_name` is the package of the peer. `flops` are those of a call of
    ours, None where they are not counted.
    """

    size: str
    ours: Call
    peer: Call
    peer_name: str
    amount: float
    unit: str = "images/s"
    flops: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A name that can be asked for: `contests(device)` builds its contests one after another."""

    title: str
    contests: Callable[[str], Iterable[Contest]]
    needs_gpu: bool = False


@dataclass(frozen=True)
class Row:
    """One contest: `ours` and `peer` in `unit` at their medians, and the median of the ratios of `n` rounds.

    A ratio above 1 says that ours is faster; `spread` are its quartiles. `teraflops`: floating-point operations of ours
    a second, where they were counted. `others`: cores that other processes used meanwhile, None where the system does
    not tell.
    """

    name: str
    size: str
    ours: float
    peer: float
    peer_version: str
    unit: str
    ratio: float
    n: int
    spread: tuple[float, float]
    teraflops: float | None
    others: float | None
    machine: str
    versions: dict[str, str] = field(default_factory=dict)


def row_of(name: str, contest: Contest, rounds: int, device: str) -> Row:
    """Times a contest, each with the allocator set as its own program has it."""
    ours, peer = _after(keep_freed_memory, contest.ours), _after(give_freed_memory_back, contest.peer)
    with foreign_load(device) as load:
        timed: Paired = in_turn(ours, peer, rounds)
    fastest = statistics.median(timed.ours)
    return Row(
        name=name,
        size=contest.size,
        ours=contest.amount / fastest,
        peer=contest.amount / statistics.median(timed.peer),
        peer_version=f"{contest.peer_name} {importlib.metadata.version(contest.peer_name)}",
        unit=contest.unit,
        ratio=timed.ratio,
        n=rounds,
        spread=timed.spread,
        teraflops=None if contest.flops is None else contest.flops / fastest / 1e12,
        others=load.cores,
        machine=this_machine(device).name,
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )


def _after(prepare: Call, call: Call) -> Call:
    def both() -> object:
        prepare()
        return call()

    return both
