"""How two who do the same work are timed: in turn in one process, so that a drifting machine treats them alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Seconds of a call of ours and of the peer's, round by round."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was in each round."""
        return [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds: one that other work disturbed does not move it."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the ratio over the rounds."""
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def in_turn(ours: Call, peer: Call, rounds: int, clock: Callable[[], float] = time.perf_counter) -> Paired:
    """Times both once a round, after one round that is not counted; who begins changes from round to round.

    Calls return when their work is done. Raises: ValueError for fewer than 2 rounds, which have no spread.
    """
    if rounds < 2:
        raise ValueError(f"{rounds} rounds have no spread: 2 or more are needed")
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        for who in order:
            started = clock()
            (ours, peer)[who]()
            if number:
                seconds[who].append(clock() - started)
    return Paired(tuple(seconds[0]), tuple(seconds[1]))
