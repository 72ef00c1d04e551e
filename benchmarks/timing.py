"""How a comparison is timed: the contestants in turn, so that a drifting machine treats them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contestants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Timing:
    """Seconds a call over all rounds, and images a call (0 where a call handles none)."""

    name: str
    median: float
    fastest: float
    slowest: float
    images: int = 0

    @property
    def images_per_second(self) -> float | None:
        """Throughput at the median, None where calls handle no images."""
        return self.images / self.median if self.images else None


def race(contestants: Contestants, rounds: int, images: int = 0) -> list[Timing]:
    """Times every contestant once a round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in range(rounds + 1):
        for name, call in contestants.items():
            started = time.perf_counter()
            call()
            if counted:
                seconds[name].append(time.perf_counter() - started)
    return [Timing(name, statistics.median(s), min(s), max(s), images) for name, s in seconds.items()]
