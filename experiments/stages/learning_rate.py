"""Finds the learning rate of a cell: every candidate trains a short trial of equal cost, and the lowest loss wins."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import build, labels
from experiments.chunks import Chunks
from experiments.conditions import AskedConditions, DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.scoring import chosen
from experiments.stage import Estimate, Job, Log, Outcome, Settings, Stage
from experiments.stages import diffusion
from experiments.stages.diffusion import TrainingMaterial, training_material, training_settings
from experiments.stages.training import DivergedError, run_training
from ldm.conditioning import Condition
from ldm.data.latents import ChosenLatents
from ldm.diffusion.levels import LEVELS_AN_IMAGE, loss_over_levels
from ldm.metrics.intervals import LEVEL, Interval, mean_interval
from ldm.randomness import Noise, derived_seed, generator
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, train
from ldm.training.flops import count_flops

BATCH = 50
"""Images whose loss is computed at a time, whatever the machine, since their latents are drawn batch by batch."""

FEWEST_ASIDE, MOST_ASIDE = 32, 256
"""Training images that are set aside to compare candidates by, where the data has four times as many."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a candidate came to: the loss of each image that was set aside, None where its training diverged.

    factor: of the rate that the scale gives. Shapes: losses (N,).
    """

    factor: float
    losses: NDArray[np.float64] | None


def run(job: Job) -> Outcome:
    """The loss of every candidate after its trial, at the same images, levels and noise, and the rate that is taken.

    All trials begin with the same weights and see the same images and noise. A kill loses what a trial did since its
    last checkpoint.

    Raises: DivergedError where every trial diverges.
    """
    meter, config = Meter(job.device), job.settings
    factors = config["training"]["learning_rate_candidates"]
    material, plain = training_material(job), training_settings(job)
    aside = chosen(len(material.data), images_aside(plain.images, len(material.data)), plain.seed, "learning_rate")
    judge = _judge(job, material, aside)
    drawn = ChosenLatents(material.data, sorted(set(range(len(material.data))) - set(aside)))
    seen, flops_per_step = plain.steps * plain.batch, material.flops_per_step(plain)
    chunks, tried, flops, seconds = Chunks(job.folder), list[Trial](), 0.0, 0.0
    with reporting(job.label, len(factors) * seen) as reporter:
        for factor in factors:
            rates = rates_at(factor, config["training"])
            settings = dataclasses.replace(
                plain, learning_rate=rates["learning_rate"], matrix_rate=rates.get("matrix_learning_rate", 0)
            )
            shown = _Behind(reporter, job.log, len(tried) * seen, f"×{factor:g}")
            folder = chunks.folder / f"training {factor}"
            own = dataclasses.replace(job, folder=folder, log=shown)
            make = functools.partial(_trial, own, material, drawn, settings, judge, shown)
            found = chunks.chunk(str(factor), make)
            shutil.rmtree(folder, ignore_errors=True)  # of no use any more, and as large as three networks
            losses = found["losses"]
            tried.append(Trial(factor, losses if np.isfinite(losses).all() else None))
            flops += int(found["steps"]) * flops_per_step + judge.flops
            seconds += float(found["seconds_before"])
    compared = compare(tried)
    taken = choice(tried)
    if taken is None:
        rates_tried = ", ".join(f"{rates_at(factor, config['training'])['learning_rate']:g}" for factor in factors)
        raise DivergedError(
            f"no candidate of trainer.learning_rate={build.AUTO} trains ({rates_tried}): the numbers of each are none; "
            "give lower trainer.learning_rate_candidates, or precision=fp32"
        )
    return Outcome(
        facts={
            "factor": taken,
            **rates_at(taken, config["training"]),
            "n": len(aside),
            "images": seen,
            "tried": [
                {"factor": trial.factor, **rates_at(trial.factor, config["training"]), **told}
                for trial, told in zip(tried, compared, strict=True)
            ],
            "is_at_the_end": taken in (min(factors), max(factors)),
        },
        cost=meter.cost(len(factors) * seen, flops, seconds=meter.seconds + chunks.seconds_before + seconds),
    )


def images_aside(images: int, total: int) -> int:
    """How many of `total` training images are set aside, given how many a trial sees, a part of which they cost."""
    return min(MOST_ASIDE, max(FEWEST_ASIDE, images // 16), total // 4)


def rates_at(factor: float, training: Mapping[str, Any]) -> dict[str, float]:
    """The rates of a candidate, which are multiples of both rates that a training has; as they would be typed."""
    named = {name: training.get(name, 0) for name in ("learning_rate", "matrix_learning_rate")}
    return {name: float(f"{rate * factor:.12g}") for name, rate in named.items() if rate}


def compare(tried: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of each candidate the mean loss, and how far it is above the lowest, image by image, both with intervals.

    The intervals of the differences hold together at 95 % (Bonferroni). `is_apart`: whether its own lies above 0.
    """
    lowest = _lowest(tried)
    level = 1 - (1 - LEVEL) / max(1, len(tried) - 1)
    found = list[dict[str, Any]]()
    for trial in tried:
        if trial.losses is None or lowest is None or lowest.losses is None:
            found.append({"loss": None, "ci_low": None, "ci_high": None, "diverged": True, "is_apart": True})
            continue
        told = {"diverged": False, "is_apart": False, **_interval("loss", mean_interval(trial.losses))}
        if trial is not lowest:
            above = mean_interval(trial.losses - lowest.losses, level)
            told |= {**_interval("above", above, "above_"), "is_apart": above.low > 0}
        found.append(told)
    return found


def choice(tried: Sequence[Trial]) -> float | None:
    """The factor nearest to 1 among the lowest loss and those not told apart from it; None where all diverged.

    Of two that are as near, e.g. 0.5 and 2, the one with the lower loss.
    """
    among = [(trial, told) for trial, told in zip(tried, compare(tried), strict=True) if not told["is_apart"]]
    nearest = min(among, key=lambda pair: (abs(math.log(pair[0].factor)), pair[1]["loss"]), default=None)
    return None if nearest is None else nearest[0].factor


def _lowest(tried: Sequence[Trial]) -> Trial | None:
    means = [(float(trial.losses.mean()), place) for place, trial in enumerate(tried) if trial.losses is not None]
    return tried[min(means)[1]] if means else None


def _interval(name: str, interval: Interval, prefix: str = "") -> dict[str, float]:
    return {name: interval.value, f"{prefix}ci_low": interval.low, f"{prefix}ci_high": interval.high}


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Gives the loss of each image that was set aside, of averaged weights; `flops`: what that costs."""

    losses: Callable[[DiffusionTraining], NDArray[np.float64]]
    flops: float


def _judge(job: Job, material: TrainingMaterial, aside: list[int]) -> _Judge:
    """Latents, levels and noise are the same for every candidate."""
    seed = derived_seed(job.settings["seed"], "learning_rate")
    draw = generator(seed, "latents")

    def noise(n: int) -> Noise:
        return lambda shape: torch.randn((n, *shape), generator=draw)

    parts = torch.tensor(aside).split(BATCH)
    latents = torch.cat([material.data.latents(part, noise(len(part))).cpu() for part in parts])
    asked = AskedConditions(material.data.fields_of, aside, seed)
    told = {name: value.to(job.device) for name, value in asked.of(range(len(aside))).items()}

    @torch.inference_mode()
    def losses(training: DiffusionTraining) -> NDArray[np.float64]:
        training.trained.load_state_dict(training.ema.module.state_dict())
        training.trained.eval()

        def condition(part: slice) -> Condition:
            return training.conditioning({name: value[part] for name, value in told.items()})

        times = training.settings.times
        found = loss_over_levels(training.model, latents, aside, seed, condition, job.device, BATCH, times)
        return np.asarray(found)

    model, conditions = material.fresh()

    def call() -> Tensor:
        one = {name: value[:1] for name, value in told.items()}
        x = latents[:1].to(job.device)
        return model.loss(x, model.schedule.time(torch.zeros(1)), x, conditions(one))

    with torch.no_grad():
        flops = len(aside) * LEVELS_AN_IMAGE * count_flops(call)
    return _Judge(losses, flops)


def _trial(
    job: Job,
    material: TrainingMaterial,
    drawn: ChosenLatents,
    settings: DiffusionSettings,
    judge: _Judge,
    shown: Reporter,
) -> dict[str, NDArray[Any]]:
    """Trains one candidate, from its checkpoint where there is one; its losses, NaN where it diverged."""
    job.folder.mkdir(exist_ok=True)
    training = material.training(settings, data=drawn)
    before = 0.0
    try:
        before = run_training(job, training, train(training), shown, lambda step: None).before
        losses = judge.losses(training)
    except DivergedError:
        losses = np.array([math.nan])
    return {"losses": losses, "steps": np.array(training.step), "seconds_before": np.array(before)}


@dataclasses.dataclass(frozen=True)
class _Behind:
    """Progress and log of one trial, whose images are counted on from those of the trials `before` it."""

    reporter: Reporter
    to: Log
    before: int
    name: str

    def advance_to(self, done: int, note: str = "") -> None:
        self.reporter.advance_to(self.before + done, f"{self.name} {note}".rstrip())

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.to.log(self.before + images_seen, {f"{name} {self.name}": value for name, value in values.items()})

    def image(self, path: Path) -> None:
        self.to.image(path)


LEFT_OUT = ("milestones", "learning_rate_share", "ema_snapshots")
"""Settings of a whole training that its trials do not read, or only through what they are made of."""


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The whole training in small, where trainer.learning_rate=auto asks for it: a share of its images and warm-up."""
    whole = diffusion.settings(config, facts)
    if whole is None or config["trainer"]["learning_rate_factor"] != build.AUTO:
        return None
    training = whole["training"]
    share = training["learning_rate_share"]
    small = {
        "images": max(training["batch"], round(share * training["images"])),
        "warm_up": round(share * training["warm_up"]),
    }
    kept = {key: value for key, value in training.items() if key not in LEFT_OUT}
    return {**whole, "training": {**kept, **small}}


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """Of all trials, a call of the network counted as a third of a training step."""
    one = diffusion.estimate(settings, counts)
    if one is None or one.images is None or one.work is None:
        return one
    trials, images = len(settings["training"]["learning_rate_candidates"]), settings["training"]["images"]
    total = counts.train_images if counts.train_images is not None else 4 * MOST_ASIDE
    calls = images_aside(images, total) * LEVELS_AN_IMAGE
    work = trials * (one.work + calls * counts.denoiser.step.work / 3)
    return dataclasses.replace(one, images=trials * one.images, work=work)


STAGE = Stage(
    name="learning_rate",
    parents=("latents",),
    version=1,
    axes=diffusion.STAGE.axes,
    until=(),
    settings=settings,
    run=run,
    label=labels.model,
    defaults=diffusion.STAGE.defaults,
    estimate=estimate,
)
