"""Measured numbers before their protocol is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldm.records import POPULATION, LeftOut, ResultRow


@dataclass(frozen=True)
class MetricValue:
    """A value, the number of images it was computed from, its 95 % interval where one is known, and what of.

    `estimand`: what value and interval estimate, one of those in `ldm.records`. `deviations`, `alone`: as in
    `ldm.metrics.intervals.Interval`.
    """

    metric: str
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    estimand: str = POPULATION
    deviations: tuple[tuple[float, ...], ...] | None = None
    alone: float = 0.0

    def row(self, protocol: str = "", images_seen: int | None = None, seed: int | None = None) -> ResultRow:
        """The row of this value under a protocol."""
        how = (protocol, self.ci_low, self.ci_high, images_seen, seed, self.estimand, self.deviations, self.alone)
        return ResultRow(self.metric, self.value, self.n, *how)


@dataclass(frozen=True)
class Measured:
    """What one look at images gives: named values, those that could not be had with the reason, and facts."""

    values: Sequence[MetricValue] = ()
    left_out: Sequence[LeftOut] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
