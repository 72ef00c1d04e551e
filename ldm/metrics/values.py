"""One measured number before its protocol is known."""

from dataclasses import dataclass

from ldm.records import ResultRow


@dataclass(frozen=True)
class MetricValue:
    """A value, the number of images it was computed from, and its 95 % interval where one is known."""

    metric: str
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None

    def row(self, protocol: str = "", images_seen: int | None = None, seed: int | None = None) -> ResultRow:
        """The row of this value under a protocol."""
        return ResultRow(self.metric, self.value, self.n, protocol, self.ci_low, self.ci_high, images_seen, seed)
