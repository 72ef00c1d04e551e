"""What a run of a tracker is, whichever tracker shows it: what it is called and of, and what is written to it."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from experiments.stage import Log
from ldm.records import StageRecord


class Run(Log, Protocol):
    """Where one stage execution is mirrored."""

    def finish(self, record: StageRecord) -> None:
        """The record's results as the run's summary."""


class Silent:
    """Logs nowhere."""

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        pass

    def image(self, name: str, path: Path) -> None:
        pass

    def finish(self, record: StageRecord) -> None:
        pass


@dataclass(frozen=True)
class About:
    """What a run is of.

    `identity`: names it among the runs of a project, and it keeps that when its stage is gone on from. `name`: for
    people. `group`: the sweep. `config`: flat, so that runs can be grouped by any of it. `parents`: the identities of
    the runs whose artifacts it reads, by the name of their stage.
    """

    identity: str
    name: str
    job_type: str
    group: str
    config: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict)


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


def results_of(record: StageRecord) -> dict[str, Any]:
    """The numbers of a record by name: its metrics, its costs, and why metrics are left out."""
    cost = record.cost
    costs = {name: getattr(cost, name) for name in ("seconds", "images_per_second", "flops", "peak_bytes")}
    return {
        **{row.metric: row.value for row in record.rows},
        **{f"cost/{name}": value for name, value in costs.items()},
        **{f"left_out/{item.metric}": item.reason for item in record.left_out},
    }


def history_of(record: StageRecord) -> dict[int, dict[str, float]]:
    """The values of a record that belong to a moment of training, by images seen."""
    found: dict[int, dict[str, float]] = {}
    for row in record.rows:
        if row.images_seen is not None:
            found.setdefault(row.images_seen, {})[row.metric] = row.value
    return dict(sorted(found.items()))


@dataclass
class Once:
    """A run that is gone on from: what it was told before a kill is not told it again.

    `place`: the file that holds up to how many images that is; it is gone when the run has finished.
    """

    run: Run
    place: Path

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen, where the run has none from so late."""
        if images_seen > self.told:
            self.run.log(images_seen, values)
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self.place.write_text(str(images_seen))

    @property
    def told(self) -> int:
        """Up to how many images seen the run was told of; -1 where it was told nothing, or nobody can say."""
        try:
            return int(self.place.read_text())
        except (OSError, ValueError):
            return -1

    def image(self, name: str, path: Path) -> None:
        """A picture that lies on disk."""
        self.run.image(name, path)

    def finish(self, record: StageRecord) -> None:
        """The record's results."""
        self.run.finish(record)
        self.place.unlink(missing_ok=True)
