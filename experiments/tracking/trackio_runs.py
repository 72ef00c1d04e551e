"""Trackio: the same runs in a database of the store, `<store>/trackio`, without a server or an account."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.tracking.runs import About, results_beside_curves
from ldm.errors import UserError
from ldm.records import StageRecord

FOLDER = "trackio"


class TrackioRun:
    """An open run."""

    def __init__(self, run: Any, about: About) -> None:
        self.run, self.about = run, about

    def go_on_from(self, images_seen: int) -> None:
        """Nothing to do: results stand at no step."""

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen."""
        self.run.log({"images_seen": images_seen, **values})

    def image(self, path: Path) -> None:
        """A picture that lies on disk."""
        import trackio

        self.run.log({path.stem: trackio.Image(str(path))})

    def finish(self, *records: StageRecord) -> None:
        """The results that no curve ends in as the last values of the run, which has no summary."""
        self.run.log(results_beside_curves(self.about, records))


def _trackio_in(folder: Path) -> Any:
    """Trackio, which writes into that folder. Raises: UserError where it was imported with another one."""
    wanted = str(folder.resolve())
    if "trackio" in sys.modules and os.environ.get("TRACKIO_DIR") != wanted:
        raise UserError(
            f"this process has Trackio write into {os.environ.get('TRACKIO_DIR', 'a folder of its own')} and cannot "
            f"have it write into {wanted} too: run the second store in a process of its own, or use tracker=none"
        )
    os.environ["TRACKIO_DIR"] = wanted
    import trackio

    return trackio


class TrackioMirror:
    """Runs of one project in a store. One process writes to one store: Trackio reads its folder when it is imported."""

    def __init__(self, store: Path, project: str) -> None:
        self.store, self.project = store, project

    @contextlib.contextmanager
    def run(self, about: About) -> Iterator[TrackioRun]:
        """The run of that identity, which goes on where it is there already.

        Raises: UserError where Trackio writes into another folder.
        """
        trackio = _trackio_in(self.store / FOLDER)

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
            yield TrackioRun(run, about)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()

    def settle(self) -> None:
        """Nothing takes long."""
