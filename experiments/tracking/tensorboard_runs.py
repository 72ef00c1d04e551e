"""TensorBoard: event files in a folder a run, `<store>/tensorboard/<run>`, with images seen as the step."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.tracking.runs import About, results_beside_curves
from ldm.records import StageRecord

FOLDER = "tensorboard"


class TensorboardRun:
    """An open run."""

    def __init__(self, writer: Any, about: About) -> None:
        self.writer, self.about, self.step = writer, about, 0

    def go_on_from(self, images_seen: int) -> None:
        """The step of results is the last one, also where moments before it are told behind it."""
        self.step = max(self.step, images_seen)

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen."""
        self.go_on_from(images_seen)
        for name, value in values.items():
            self.writer.add_scalar(name, value, images_seen)

    def image(self, path: Path) -> None:
        """A picture that lies on disk."""
        with Image.open(path) as picture:
            self.writer.add_image(path.stem, np.asarray(picture.convert("RGB")), self.step, dataformats="HWC")

    def finish(self, *records: StageRecord) -> None:
        """The results of the records: numbers that no curve ends in as scalars at the last step, reasons as texts."""
        for name, value in results_beside_curves(self.about, records).items():
            if isinstance(value, str):
                self.writer.add_text(name, value, self.step)
            else:
                self.writer.add_scalar(name, value, self.step)


class TensorboardMirror:
    """Runs in the folder of a store."""

    def __init__(self, store: Path) -> None:
        self.store = store

    @contextlib.contextmanager
    def run(self, about: About) -> Iterator[TensorboardRun]:
        """The run of that identity; what it is of stands in its text `about`."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self.store / FOLDER / about.identity))
        shown = {"name": about.name, "group": about.group, "job_type": about.job_type, **about.config}
        lines = ["| key | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())]
        writer.add_text("about", "\n".join(lines))
        try:
            yield TensorboardRun(writer, about)
        finally:
            writer.close()

    def settle(self) -> None:
        """Nothing takes long."""
