"""Trackio: the same runs in a database of the store, `<store>/trackio`, without a server or an account."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.tracking.runs import About, results_of
from ldm.records import StageRecord

FOLDER = "trackio"


class TrackioRun:
    """An open run."""

    def __init__(self, run: Any) -> None:
        self.run, self.logged = run, set[str]()

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen."""
        self.run.log({"images_seen": images_seen, **values})
        self.logged |= set(values)

    def image(self, path: Path) -> None:
        """A picture that lies on disk."""
        import trackio

        self.run.log({path.stem: trackio.Image(str(path))})

    def finish(self, *records: StageRecord) -> None:
        """The results that no curve ends in as the last values of the run, which has no summary."""
        self.run.log({name: value for name, value in results_of(records).items() if name not in self.logged})


class TrackioMirror:
    """Runs of one project in a store. One process writes to one store: Trackio reads its folder when it is imported."""

    def __init__(self, store: Path, project: str) -> None:
        self.store, self.project = store, project

    @contextlib.contextmanager
    def run(self, about: About) -> Iterator[TrackioRun]:
        """The run of that identity, which goes on where it is there already."""
        os.environ["TRACKIO_DIR"] = str((self.store / FOLDER).resolve())
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):  # it greets
            run = trackio.init(
                self.project,
                name=about.identity,
                group=about.group,
                config={**about.config, "name": about.name, "job_type": about.job_type, "tags": list(about.tags)},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        try:
            yield TrackioRun(run)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()

    def settle(self) -> None:
        """Nothing takes long."""
