"""How long work will take: steps of its own networks are timed on made-up images before it begins."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments import build
from experiments.budget import network_calls
from experiments.conditions import Vocabulary, annotations_read
from experiments.counts import Counts, DenoiserCounts, FirstStageCounts, Step, images_at_once, sampled_latent_shape
from experiments.data_facts import DataFacts
from experiments.generate import wait_for
from experiments.runner import machine_of
from experiments.stage import Plan, PlannedStage, Stage
from experiments.stages.first_stage import training_of
from ldm.data.contract import ImageCache
from ldm.first_stage.contract import FirstStage
from ldm.records import content_hash
from ldm.training.precision import autocast_dtype

Key = tuple[str, str]
"""Stage and identity."""

TIMED_SECONDS = 1.0
"""What takes longer is timed once."""

PATIENCE_SECONDS = 15.0
"""After which no further network is timed: what those need is taken to be the mean of the others."""

GAIN = 0.7
"""Threads of one process are together as fast as so high a power of their number, about (1.6 times with two)."""

LOSS = 0.85
"""Of one thread's speed: several that are no faster than so do harm, whatever the clock's noise."""

WORTH_TIMING = 4000
"""Training images, all in all, from which on a forecast is worth the seconds that it takes."""

ENCODED = 16
"""Images that are encoded and decoded at a time, to time them."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of one thread by stage and identity, of the stages that networks work in; nothing of those that only
    measure. `pace`: how many times as fast all threads are. `peak_bytes`: of a GPU's memory, the most that a network
    took while it was timed; None where some were not. `threads`: of a single process in which several were timed beside
    one; None where they were not.
    """

    seconds: Mapping[Key, float]
    pace: float
    peak_bytes: int | None = None
    threads: int | None = None

    def __str__(self) -> str:
        return f"about {rounded(sum(self.seconds.values()) / self.pace)} to train and to sample"

    @property
    def note(self) -> str | None:
        """That fewer threads would be faster, where they clearly would."""
        if self.threads is None or self.pace > LOSS:
            return None
        return (
            f"one thread trains {1 / self.pace:.1f} times as fast as {self.threads} at the moment, since the networks "
            "are small or other programs use the cores: put OMP_NUM_THREADS=1 in front of the command"
        )


def rounded(seconds: float) -> str:
    """A duration in words, to one or two digits, such as "25 minutes" or "1.5 hours"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def forecast(
    plans: Sequence[Plan],
    wanted: Collection[Key],
    stages: Sequence[Stage],
    facts: Callable[[Plan], DataFacts],
    workers: int = 1,
) -> Forecast | None:
    """The time of the wanted stages on this machine, each once; None where they are over before it could be told.

    `workers`: processes that share its cores.
    """
    ahead = {(p.name, p.identity): p for plan in plans for p in plan.stages.values() if (p.name, p.identity) in wanted}
    if sum(map(_images, ahead.values())) < WORTH_TIMING:
        return None
    estimates = {stage.name: stage.estimate for stage in stages if stage.estimate is not None}
    timed, seconds = _Timed(), dict[Key, float]()
    threads = max(1, torch.get_num_threads() // workers)
    with _one_thread():
        for plan in plans:
            own = [p for p in plan.stages.values() if ahead.pop((p.name, p.identity), None) and p.name in estimates]
            if not own:
                continue
            counts = timed.counts(plan, facts(plan))
            for planned in own:
                found = estimates[planned.name](planned.settings, counts)
                if found is not None and found.work is not None:
                    seconds[planned.name, planned.identity] = found.work
    if timed.is_on_gpu:  # which all workers have together, and so no more of it
        return Forecast(seconds, 1.0, None if timed.are_missing else torch.cuda.max_memory_allocated())
    if workers == 1 < threads and (trained := _longest_trainings(plans, seconds)):
        return Forecast(seconds, _gain_of_threads(trained, facts), threads=threads)
    return Forecast(seconds, workers * threads**GAIN)


TRAININGS: Mapping[str, Callable[[Plan, Callable[[Plan], DataFacts]], float]] = {
    "first_stage": lambda plan, facts: _work(timed_first_stage(plan.config).step),
    "diffusion": lambda plan, facts: _work(
        timed_denoiser(plan.config, facts(plan).vocabulary(annotations_read(plan.config))).step
    ),
}
"""Seconds of a training step on an image, by stage."""


def _work(step: Step | None) -> float:
    return step.work if step is not None else 0.0


def _longest_trainings(plans: Sequence[Plan], seconds: Mapping[Key, float]) -> dict[str, tuple[float, Plan]]:
    """By stage, the seconds of the training that takes longest, and its plan."""
    longest = dict[str, tuple[float, Plan]]()
    for plan in plans:
        for name in TRAININGS.keys() & plan.stages.keys():
            taken = seconds.get((name, plan.stages[name].identity), 0.0)
            if taken > longest.get(name, (0.0, plan))[0]:
                longest[name] = taken, plan
    return longest


def _gain_of_threads(longest: Mapping[str, tuple[float, Plan]], facts: Callable[[Plan], DataFacts]) -> float:
    """How many times as fast all threads are as one, at these trainings."""
    together = 0.0
    for name, (seconds, plan) in longest.items():
        with _one_thread():
            alone = TRAININGS[name](plan, facts)
        together += seconds * TRAININGS[name](plan, facts) / alone
    return sum(seconds for seconds, _ in longest.values()) / together


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for what torch computes in here: several wait for each other, and tell nothing beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for the workers that share the GPU


def _images(planned: PlannedStage) -> int:
    training = planned.settings.get("training")
    return int(training["images"]) if isinstance(training, Mapping) else 0


class _Timed:
    """Counts in seconds, each network timed once, as many as patience allows and one of each kind at least.

    Trainings that differ in their seeds alone, or denoisers behind first stages whose latents have the same shape, are
    of one network.
    """

    def __init__(self) -> None:
        self.until = time.monotonic() + PATIENCE_SECONDS
        self.is_on_gpu = self.are_missing = False
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        self.first_stages: dict[str, FirstStageCounts] = {}
        self.denoisers: dict[str, tuple[DenoiserCounts, int]] = {}

    def counts(self, plan: Plan, facts: DataFacts) -> Counts:
        """The seconds of an image of this plan."""
        config = plan.config
        self.is_on_gpu = config["device"] == "cuda"
        name = _first_stage_key(config)
        if name not in self.first_stages and not (self.first_stages and self._is_late):
            self.first_stages[name] = timed_first_stage(config)
        first = self.first_stages.get(name) or _mean_first_stage(list(self.first_stages.values()))
        name, trainer = _denoiser_key(config), config["trainer"]
        if name not in self.denoisers and not (self.denoisers and self._is_late):
            known = facts.vocabulary(annotations_read(config))
            self.denoisers[name] = timed_denoiser(config, known), trainer["images"]
        denoiser = (
            self.denoisers[name][0]
            if name in self.denoisers
            else _like_others(list(self.denoisers.values()), trainer["images"], trainer["budget"] == "flops")
        )
        self.are_missing |= _first_stage_key(config) not in self.first_stages or name not in self.denoisers
        milestones = len(config["trainer"]["milestones"])
        calls, images = network_calls(config), facts.train_images
        return Counts(first, denoiser, calls, first.decode, images, machine_of(config), milestones)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self.until


def _mean_first_stage(timed: Sequence[FirstStageCounts]) -> FirstStageCounts:
    steps = [each.step.work for each in timed if each.step]
    return replace(
        timed[0],
        encode=_mean([each.encode for each in timed]),
        decode=_mean([each.decode for each in timed]),
        step=Step(_mean(steps)) if steps else None,
    )


def _like_others(timed: Sequence[tuple[DenoiserCounts, int]], images: int, is_equal_compute: bool) -> DenoiserCounts:
    """A denoiser that was not timed, from others and how many images these are trained on.

    Trainings of equal compute are taken to last equally long, others as long for each image; a network call is taken to
    be as large a part of a training step as with the others.
    """
    steps = [counts.step.work * (seen / images if is_equal_compute else 1) for counts, seen in timed]
    step = _mean(steps)
    calls = [counts.call * (step / counts.step.work if counts.step.work else 1) for counts, _ in timed]
    return replace(timed[0][0], call=_mean(calls), step=Step(step))


def _first_stage_key(config: Mapping[str, Any]) -> str:
    """What is alike where a first stage takes as long."""
    network = {name: value for name, value in config["ae"].items() if name != "seed"}
    return content_hash([network, config["data"]["resolution"], config["precision"], config["device"]])


def _denoiser_key(config: Mapping[str, Any]) -> str:
    """What is alike where a denoiser takes as long."""
    read = ("denoiser", "conditioning", "trainer", "samples", "precision", "device")
    shape = [config["data"]["resolution"], config["ae"]["f"], config["ae"]["channels"], config["metrics"]["n_samples"]]
    return content_hash([{name: config[name] for name in read}, shape])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def timed_first_stage(config: Mapping[str, Any]) -> FirstStageCounts:
    """Seconds to encode, to decode and to train on an image with the first stage of a resolved config; no parameters.

    A training step is averaged over the training, the discriminator taking part from its start.
    """
    ae, resolution, device = config["ae"], config["data"]["resolution"], config["device"]
    model: FirstStage = build.first_stage(ae, resolution).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = resolution // model.factor
    shape = (model.channels, side, side)
    if model.factor == 1:
        return FirstStageCounts({}, shape, 0, 0, None)
    image = torch.zeros(ENCODED, 3, resolution, resolution, device=device)
    with torch.inference_mode():
        encode = _seconds(lambda: model.encode(image), device) / ENCODED
        decode = _seconds(lambda: model.decode(torch.zeros(ENCODED, *shape, device=device)), device) / ENCODED
    step = Step(_first_stage_step(config)) if build.is_trained(ae) else None
    return FirstStageCounts({}, shape, encode, decode, step)


def _first_stage_step(config: Mapping[str, Any]) -> float:
    """Seconds of an image in training."""
    settings = {**build.whole(config["ae"]), "precision": config["precision"]}
    training = training_of(settings, _made_up_images(config["data"]["resolution"]), config["device"])
    training.settings = replace(training.settings, from_components=False)
    steps = training.settings.steps
    early = _seconds(training.advance, config["device"])
    late, before = early, 1.0
    if training.discriminator is not None:
        before = min(1.0, math.ceil(training.settings.adversarial_from * steps) / steps)
        training.step = steps - 1
        late = _seconds(training.advance, config["device"]) if before < 1 else early
    return (before * early + (1 - before) * late) / training.settings.batch


def _made_up_images(side: int) -> ImageCache:
    """A few images of noise in memory."""
    n = 4
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    labels, none = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    return ImageCache(Path(), "", side, (), ("",) * n, (), pixels, labels, none)


def timed_denoiser(config: Mapping[str, Any], known: Vocabulary) -> DenoiserCounts:
    """Seconds of an image's training step and of a network call for a sample, of a resolved config; no parameters."""
    ae, device, trainer = config["ae"], config["device"], config["trainer"]
    side = config["data"]["resolution"] // ae["f"]
    conditions = build.conditioning(config["conditioning"], known, ae, device)
    network = build.denoiser(config["denoiser"], ae["channels"], side, conditions)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = autocast_dtype(config["precision"])

    def called(n: int, shape: Sequence[int]) -> Tensor:
        given = conditions.placeholder(n, (shape[1], shape[2]))
        context, concat = (
            None if x is None else torch.zeros_like(x, device=device) for x in (given.context, given.concat)
        )
        with torch.autocast(device, autocast, enabled=autocast is not None):
            out: Tensor = network(torch.zeros(n, *shape, device=device), torch.zeros(n, device=device), context, concat)
        return out

    n = images_at_once(trainer)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    passes = build.step_of_training(
        trainer, network, torch.zeros(n, 3, side * ae["f"], side * ae["f"], device=device), autocast
    )

    def step() -> None:
        passes(lambda: called(n, (ae["channels"], side, side)).float().square().mean())
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    each = _seconds(step, device) / n if build.parameters(network) else 0.0
    batch, shape = (
        min(config["samples"]["batch"], config["metrics"]["n_samples"]),
        sampled_latent_shape(config, ae["channels"]),
    )
    with torch.inference_mode():
        call = _seconds(lambda: called(batch, shape), device) / batch
    return DenoiserCounts(0, None, call, Step(each, 0))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Of one go at it; of a short one, after a first that also loads and allocates."""
    for goes in (1, 3):
        started = time.monotonic()
        for _ in range(goes):
            work()
        wait_for(device)
        seconds = (time.monotonic() - started) / goes
        if seconds > TIMED_SECONDS:
            break
    return seconds
