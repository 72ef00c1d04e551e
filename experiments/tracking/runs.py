"""What a run of a tracker is, whichever tracker shows it: what it is called and of, and what is written to it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.stage import Log
from ldm.records import StageRecord, content_hash, write_json

CELL = "cell"
"""The kind of the runs of cells; those of stages are called as their stage."""

COSTS = ("seconds", "images_per_second", "flops", "peak_bytes")
"""What of a stage's cost a run shows."""


class Run(Log, Protocol):
    """Where one stage execution, or one finished cell, is mirrored."""

    def go_on_from(self, images_seen: int) -> None:
        """To be called where an earlier run of the same was told of so many images; -1 where it was told nothing."""

    def finish(self, *records: StageRecord) -> None:
        """The results of the records that it shows: of its stage, or of all stages of its cell."""


class Silent:
    """Logs nowhere."""

    def go_on_from(self, images_seen: int) -> None:
        pass

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        pass

    def image(self, path: Path) -> None:
        pass

    def finish(self, *records: StageRecord) -> None:
        pass


@dataclass(frozen=True)
class About:
    """What a run is of.

    `identity`: names it among the runs of a project, and it keeps that when its stage is gone on from. `name`: for
    people. `group`: the sweep. `config`: flat, so that runs can be grouped by any of it.
    """

    identity: str
    name: str
    job_type: str
    group: str
    config: Mapping[str, Any]
    tags: tuple[str, ...] = ()

    @property
    def is_cell(self) -> bool:
        """Whether it is of a finished cell, which has no curves."""
        return self.job_type == CELL


class Mirror(Protocol):
    """A tracker: where runs are shown."""

    def run(self, about: About) -> AbstractContextManager[Run]:
        """An open run, ended whether what it is of succeeds or not."""

    def settle(self) -> None:
        """Does what may take long, where no other process waits."""


class NoMirror:
    """Shows nothing."""

    @contextlib.contextmanager
    def run(self, about: About) -> Iterator[Run]:
        """A run that logs nowhere."""
        yield Silent()

    def settle(self) -> None:
        """Nothing is left to do."""


def made(records: Iterable[StageRecord]) -> str:
    """A text that other records of the same stages do not share."""
    return content_hash(sorted((record.stage, record.identity, record.created) for record in records))


def results_of(records: Iterable[StageRecord]) -> dict[str, Any]:
    """The numbers of records by stage and name, "evaluation/kd": metrics, costs, and why metrics are left out."""
    found: dict[str, Any] = {}
    for record in records:
        costs = {name: getattr(record.cost, name) for name in COSTS}
        values = {
            **{row.metric: row.value for row in record.rows},
            **{name: value for name, value in costs.items() if value},
            **{f"left_out/{item.metric}": item.reason for item in record.left_out},
        }
        found |= {f"{record.stage}/{name}": value for name, value in values.items()}
    return found


def results_beside_curves(about: About, records: Sequence[StageRecord]) -> dict[str, Any]:
    """The results of the records that no curve of their run ends in: of a cell all."""
    told = [(record.stage, row.metric) for record in records for row in record.rows if row.images_seen is not None]
    ends = set() if about.is_cell else {f"{stage}/{metric}" for stage, metric in told}
    return {name: value for name, value in results_of(records).items() if name not in ends}


def tell_history(run: Log, record: StageRecord) -> None:
    """What a record says of moments of training, such as milestones, in their order."""
    moments: dict[int, dict[str, float]] = {}
    for row in record.rows:
        if row.images_seen is not None:
            moments.setdefault(row.images_seen, {})[f"{record.stage}/{row.metric}"] = row.value
    for images_seen, values in sorted(moments.items()):
        run.log(images_seen, values)


@dataclass
class Once:
    """A run that is gone on from: what it was told before a kill is not told it again.

    `place`: the file that holds up to how many images that is. The moments of a record are told behind the curves and
    begin before their end, so they have a file of their own beside it.
    """

    run: Run
    place: Path

    def __post_init__(self) -> None:
        self.run.go_on_from(self.told)  # results belong to the end, though all before it may have been told already

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen, where the run has none from so late."""
        if images_seen > self.told:
            write_json(self.place, images_seen)  # first: a kill in between loses a value, and repeats none
            self.run.log(images_seen, values)

    @property
    def told(self) -> int:
        """Up to how many images seen the run was told of; -1 where it was told nothing, or nobody can say."""
        try:
            return int(self.place.read_text())
        except (OSError, ValueError):
            return -1

    def go_on_from(self, images_seen: int) -> None:
        """Hands on how far an earlier run was told."""
        self.run.go_on_from(images_seen)

    def image(self, path: Path) -> None:
        """A picture that lies on disk."""
        self.run.image(path)

    def finish(self, *records: StageRecord) -> None:
        """What the records say of moments of training, and their results."""
        for record in records:
            tell_history(Once(self.run, self.place.with_name(f"{self.place.name}.{record.stage}")), record)
        self.run.finish(*records)

    def forget(self) -> None:
        """To be called when the record stands, after which nothing is gone on from."""
        for path in (self.place, *self.place.parent.glob(f"{self.place.name}.*")):
            path.unlink(missing_ok=True)
