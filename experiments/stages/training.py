"""What both training stages share: resume, log, checkpoint, stop on numbers that are none."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from experiments.console import Reporter
from experiments.cost import Meter
from experiments.stage import Job
from ldm.ranks import ALONE, Ranks
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.step import StepReport

LOG_EVERY_SECONDS = 2.0


class Training(Protocol):
    """State that can be saved at any step."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class DivergedError(Exception):
    """The loss is no number any more."""


def run_training(
    job: Job,
    training: Training,
    steps: Iterator[StepReport],
    reporter: Reporter,
    after_step: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Meter:
    """Resumes from checkpoint.pt where there is one and runs to the end; returns the meter, which counts earlier tries.

    `after_step(step)` is called behind every step, and again for a step that a killed run had not checkpointed. Of
    several ranks all go on from the same checkpoint, and the first alone looks at what comes, logs and saves.

    Raises: DivergedError where a loss is not finite.
    """
    path = job.folder / "checkpoint.pt"
    if not ranks.is_first:
        ranks.wait()  # until damaged ones are gone
    checkpoint = load_checkpoint(path)
    if ranks.is_first:
        ranks.wait()
    if checkpoint is not None:
        training.load_state_dict(checkpoint["training"])
    meter = Meter(job.device, checkpoint["seconds"] if checkpoint else 0.0)
    if not ranks.is_first:
        for _ in steps:
            pass
        return meter
    saved = logged = time.monotonic()
    logged_images = None
    report = None
    for report in steps:
        after_step(report.step)
        now = time.monotonic()
        if now - logged >= LOG_EVERY_SECONDS or report.step == 1:
            values = _checked(report)
            if logged_images is not None:
                values["images_per_second"] = (report.images_seen - logged_images) / (now - logged)
            job.log.log(report.images_seen, values)
            reporter.advance_to(report.images_seen, f"loss {values['loss']:.4f}")
            logged, logged_images = now, report.images_seen
        if now - saved >= job.machine.checkpoint_seconds:
            _checked(report)  # what is saved can be gone on from
            job.still_ours()
            save_checkpoint(path, {"training": training.state_dict(), "seconds": meter.seconds})
            saved = now
    if report is not None:
        job.log.log(report.images_seen, _checked(report))
    return meter


def _checked(report: StepReport) -> dict[str, float]:
    values = report.numbers()
    if not all(math.isfinite(value) for value in values.values()):
        raise DivergedError(
            f"at step {report.step} the training's numbers are {values}; try a lower learning rate, or precision=fp32"
        )
    return values
