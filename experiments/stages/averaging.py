"""Averages the weights of a finished training over a length that is chosen afterwards, or found on own samples."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import reference_features
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import asked_conditions, flops_per_image, generate, generator_of, images_of
from experiments.published import is_given
from experiments.scoring import SHORT_SAMPLER, described, extractor_of, features_of, kernel_row, sample_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.diffusion import snapshot_file, snapshot_steps
from ldm.diffusion import Guidance
from ldm.metrics.distribution import KERNEL, metric_of
from ldm.metrics.features import Features
from ldm.metrics.values import Metric, MetricValue
from ldm.randomness import derived_seed
from ldm.records import DETAIL
from ldm.training.checkpoint import load_weights, save_weights
from ldm.training.power_ema import STORED_LENGTHS, Profile, Reconstruction, combined, reconstruction

LENGTH = Metric("ema_length", "length of the average of the weights", None, DETAIL)


def run(job: Job) -> Outcome:
    """Writes weights.safetensors, the average of the length that was asked for, or under which samples are nearest."""
    asked = job.settings["length"]
    found = Outcome(cost=Meter(job.device).cost(0)) if asked != build.AUTO else _tried(job)
    length = asked if asked != build.AUTO else found.facts["length"]
    weights, made = _average(job, length)
    save_weights(job.folder / "weights.safetensors", weights)
    return dataclasses.replace(found, facts={**found.facts, "length": length, "error": made.error})


def _average(job: Job, length: float) -> tuple[dict[str, Tensor], Reconstruction]:
    """The weights as an average of that length at the end of the training, from its snapshots."""
    diffusion = job.parent("diffusion")
    steps = snapshot_steps(diffusion.settings["training"])
    stored = [Profile(each, step) for step in steps for each in STORED_LENGTHS]
    made = reconstruction(stored, Profile(length, steps[-1]))
    snapshots = [load_weights(diffusion.file(snapshot_file(each))) for each in stored]
    return combined(snapshots, made.weights.tolist()), made


def _tried(job: Job) -> Outcome:
    """The kernel distance of every candidate, from the same noise and conditions, and the length at which it is least.

    Samples are those of the short sampler that milestones have, without guidance, by a seed of their own, so that none
    is reported. A kill loses one candidate's samples.
    """
    meter, config, chunks = Meter(job.device), job.settings, Chunks(job.folder)
    n, seed = config["n_samples"], derived_seed(config["seed"], "averaging")
    asked, reference = asked_conditions(job, n, seed), reference_features(job)
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    how = sample_protocol(job, n)
    protocol = dataclasses.replace(how, marks=(*how.marks, "samples to choose an average by, by a seed of their own"))
    settings = {**SHORT_SAMPLER, "steps": config["steps"], "seed": seed}

    def seen(length: float, before: int, reporter: Reporter) -> Mapping[str, NDArray[np.float32]]:
        path = job.folder / "candidate.safetensors"
        save_weights(path, _average(job, length)[0])
        source = generator_of(job, path, config["precision"])
        path.unlink()
        sampler = build.sampler(settings, source.model.schedule)
        batches = generate(source, sampler, settings, Guidance(), asked, range(n), job.machine.batch)
        return features_of(images_of(batches, reporter, before), extractor).arrays

    tried = dict[float, MetricValue]()
    with reporting(job.label, n * len(config["candidates"])) as reporter:
        for length in config["candidates"]:
            made = functools.partial(seen, length, len(tried) * n, reporter)
            features = Features.of(chunks.chunk(f"{length:g}", made))
            row = kernel_row(features, reference, protocol, f"trainer.ema_length={build.AUTO}")
            words = f"average of length {length:g}: "
            kernel = dataclasses.replace(metric_of(KERNEL, extractor.name), headline_from=None)
            metric = kernel.within(f"ema_{length:g}_", words, DETAIL)
            tried[length] = MetricValue(metric, row.value, n, row.ci_low, row.ci_high)
            reporter.advance_to(len(tried) * n)
    best = min(tried, key=lambda length: tried[length].value)
    source = generator_of(job, job.parent("diffusion").file("weights.safetensors"), config["precision"])
    one, images = flops_per_image(source, asked), n * len(tried)
    flops = images * (one.denoise(config["steps"], guided=False) + one.decode)
    return Outcome(
        facts={"length": best, "n": n, "is_at_the_end": best in (min(tried), max(tried))},
        rows=[value.row(protocol.id) for value in (MetricValue(LENGTH, best, n), *tried.values())],
        protocols=described([protocol]),
        cost=meter.cost(images, flops, seconds=meter.seconds + chunks.seconds_before),
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The length, where trainer.ema_length gives one; of one that is to be found, the candidates and their samples."""
    trainer, metrics = config["trainer"], config["metrics"]
    if is_given(config["denoiser"]) or trainer.get("ema_length") is None:
        return None
    if trainer["ema_length"] != build.AUTO:
        return {"length": trainer["ema_length"]}
    return {
        "length": build.AUTO,
        "candidates": trainer["ema_lengths"],
        **stage_settings.sample_conditions(config, facts),
        "n_samples": metrics["progress_samples"],
        "steps": metrics["progress_steps"],
        "precision": config["precision"],
        "seed": metrics["seed"],
    }


def needs(config: Settings) -> tuple[str, ...]:
    """The reference images only where samples are compared with them."""
    return ("diffusion", "reference") if config["trainer"]["ema_length"] == build.AUTO else ("diffusion",)


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """The short sampler's network calls and one decoding an image, for every candidate."""
    if settings["length"] != build.AUTO:
        return None
    images = len(settings["candidates"]) * settings["n_samples"]
    memory = counts.holding_samples(settings["n_samples"])
    return Estimate(images, images * counts.sampling(settings["steps"]), memory=memory)


STAGE = Stage(
    name="averaging",
    parents=("diffusion", "reference"),
    version=1,
    axes=(*axes.OF_REFERENCE, *axes.OF_FIRST_STAGE, *axes.OF_MODEL, "ema_length"),
    until=(),
    settings=settings,
    run=run,
    label=labels.model,
    is_result=True,
    needs=needs,
    estimate=estimate,
)
