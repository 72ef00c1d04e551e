"""What all trainings share: resume, log, checkpoint, stop when asked to, and on numbers that are none."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from experiments.console import Reporter
from experiments.cost import Meter
from experiments.stage import Job
from experiments.stopping import held_back
from ldm.finite import not_finite
from ldm.ranks import ALONE, Ranks
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.step import StepReport

LOG_EVERY_SECONDS = 2.0


class Training(Protocol):
    """State that can be saved at any step."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class DivergedError(Exception):
    """The training's numbers are none any more."""


def run_training(
    job: Job,
    training: Training,
    steps: Iterator[StepReport],
    reporter: Reporter,
    after_step: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> Meter:
    """Resumes from checkpoint.pt where there is one and runs to the end; returns the meter, which counts earlier tries.

    `after_step(step)` is called behind every step, and again for a step that a killed run had not checkpointed. Asked
    to stop by a signal, it saves behind the step that it is at. Of several ranks all go on from the same checkpoint,
    and the first alone looks at what comes, logs and saves.

    Raises: DivergedError where a loss or a tensor is not finite; the checkpoint before it is kept.
    """
    path = job.folder / "checkpoint.pt"
    if not ranks.is_first:
        ranks.wait()  # until damaged ones are gone
    numbers = _Numbers(training, path)
    checkpoint = load_checkpoint(path)
    if ranks.is_first:
        ranks.wait()
    if checkpoint is not None:
        training.load_state_dict(checkpoint["training"])
        numbers.saved_step = checkpoint.get("step", 0)
    meter = Meter(job.device, checkpoint["seconds"] if checkpoint else 0.0)
    if not ranks.is_first:
        for _ in steps:
            pass
        return meter
    saved = logged = time.monotonic()
    logged_images = None
    report = None
    with held_back() as signals:
        for report in steps:
            numbers.unread.append(report)
            after_step(report.step)
            now = time.monotonic()
            if now - logged >= LOG_EVERY_SECONDS or report.step == 1:
                values = numbers.read()
                if logged_images is not None:
                    values["images_per_second"] = (report.images_seen - logged_images) / (now - logged)
                job.log.log(report.images_seen, values)
                reporter.advance_to(report.images_seen, f"loss {values['loss']:.4f}")
                logged, logged_images = now, report.images_seen
            if signals.came or now - saved >= job.machine.checkpoint_seconds:
                state = numbers.state()  # what is saved can be gone on from
                job.still_ours()
                save_checkpoint(path, {"training": state, "seconds": meter.seconds, "step": report.step})
                saved, numbers.saved_step = now, report.step
            signals.act()
    if report is not None:
        job.log.log(report.images_seen, numbers.read())
        numbers.state()  # finite, as what is saved
    return meter


class _Numbers:
    """The numbers of a training, none of which may be none.

    `unread`: the reports since the last look, whose values lie on the device. `saved_step`: that of checkpoint.pt, 0
    where there is none.
    """

    def __init__(self, training: Training, path: Path) -> None:
        self.training, self.path = training, path
        self.unread: list[StepReport] = []
        self.saved_step = 0
        self.from_the_start = set(not_finite(training.state_dict()))  # such as a mask of minus infinity

    def read(self) -> dict[str, float]:
        """The values of the last step. Raises: DivergedError where those of any step since the last look are none."""
        for report in self.unread:
            values = report.numbers()
            if none := {name: value for name, value in values.items() if not math.isfinite(value)}:
                raise self._diverged(report.step, " and ".join(f"{name} is {value}" for name, value in none.items()))
        self.unread = self.unread[-1:]
        return values

    def state(self) -> dict[str, Any]:
        """The state of the training. Raises: DivergedError where a value or a tensor of it is none."""
        self.read()
        state = self.training.state_dict()
        if set(not_finite(state)) - self.from_the_start:
            raise self._diverged(self.unread[-1].step, "the loss is a number, what is trained is not")
        return state

    def _diverged(self, step: int, what: str) -> DivergedError:
        tensors = [name for name in not_finite(self.training.state_dict()) if name not in self.from_the_start]
        more = f" and {len(tensors) - 1} more hold" if len(tensors) > 1 else " holds"
        where = f" ({tensors[0]}{more} NaN or infinity by step {self.unread[-1].step})" if tensors else ""
        kept = f"; the checkpoint of step {self.saved_step} is kept" if self.saved_step else ""
        return DivergedError(f"at step {step} {what}{where}{kept}; try a lower learning rate, or precision=fp32")
