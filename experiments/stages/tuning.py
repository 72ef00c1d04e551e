"""Finds the guidance of a cell: every candidate makes samples that are not the reported ones, and the nearest wins."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import reference_features
from experiments.budget import network_calls
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import asked_conditions, flops_per_image, generate, images_of, sampling_generator
from experiments.scoring import described, extractor_of, features_of, kernel_row, sample_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.diffusion import Guidance
from ldm.metrics.distribution import KERNEL, metric_of
from ldm.metrics.features import Features
from ldm.randomness import derived_seed


def run(job: Job) -> Outcome:
    """The kernel distance of every candidate, from the same noise and conditions, and the scale at which it is least.

    The budget, candidates times samples, is the same for each cell. Seeds are derived from `sampler.seed`, so that
    no sample is one of those that are reported. A kill loses one candidate's samples.
    """
    meter, config = Meter(job.device), job.settings
    diffusion = job.parent("diffusion").settings
    guidance, n = config["guidance"], config["guidance"]["tuning_samples"]
    settings = {**config["sampler"], "seed": derived_seed(config["sampler"]["seed"], "tuning")}
    asked = asked_conditions(job, n, settings["seed"])
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    reference = reference_features(job)
    source = sampling_generator(job)
    sampler = build.sampler(settings, source.model.schedule)
    mark = "tuning samples, by a seed of their own"
    how = sample_protocol(job, n)
    protocol = dataclasses.replace(how, marks=(*how.marks, mark))
    metric, tried = metric_of(KERNEL, extractor.name).name, list[dict[str, Any]]()
    cost, flops, chunks, batch_size = flops_per_image(source, asked), 0.0, Chunks(job.folder), job.machine.batch

    def seen(guided: Guidance, before: int, reporter: Reporter) -> Mapping[str, NDArray[np.float32]]:
        batches = generate(source, sampler, settings, guided, asked, range(n), batch_size, config["paste_known"])
        return features_of(images_of(batches, reporter, before), extractor).arrays

    with reporting(job.label, n * len(guidance["candidates"])) as reporter:
        for scale in guidance["candidates"]:
            settled = {**guidance, "scale": scale}
            made = functools.partial(seen, build.guidance(settled), len(tried) * n, reporter)
            features = Features.of(chunks.chunk(f"{scale:g}", made))
            reporter.advance_to((len(tried) + 1) * n)
            row = kernel_row(features, reference, protocol, f"guidance.scale={build.AUTO}")
            told = ("value", "ci_low", "ci_high", "deviations", "alone")
            tried.append({"scale": scale, **{name: getattr(row, name) for name in told}})
            calls = network_calls({**config, "guidance": settled, "diffusion": diffusion["diffusion"]})
            flops += n * (cost.denoise(calls, guided=scale != 1) + cost.decode)
    images = n * len(tried)
    best = min(tried, key=lambda item: item["value"])
    return Outcome(
        facts={
            "scale": best["scale"],
            "metric": metric,
            "title": metric_of(KERNEL, extractor.name).title,
            "n": n,
            "images": images,
            "protocol": protocol.id,
            "tried": tried,
            "is_at_the_end": may_lie_beyond(best["scale"], guidance["candidates"]),
        },
        protocols=described([protocol]),
        cost=meter.cost(images, flops, seconds=meter.seconds + chunks.seconds_before),
    )


def may_lie_beyond(scale: float, candidates: Sequence[float]) -> bool:
    """Whether the best of these scales is at an end of them, beyond which there may be a better one.

    1 is no guidance: where that is the least that was tried, it is the natural end.
    """
    return scale == max(candidates) or (scale == min(candidates) and scale != 1)


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The sampler and the candidates, where guidance.scale=auto asks for it."""
    if config["guidance"]["scale"] != build.AUTO:
        return None
    return {
        "sampler": config["sampler"],
        "guidance": config["guidance"],
        "paste_known": config["samples"]["paste_known"],
        **stage_settings.sample_conditions(config, facts),
        "precision": config["precision"],
        "seed": config["metrics"]["seed"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """At most: the network calls and one decoding an image, for every candidate as for the largest."""
    n = settings["guidance"]["tuning_samples"]
    images, memory = len(settings["guidance"]["candidates"]) * n, counts.holding_samples(n, is_guided=True)
    return Estimate(images, images * counts.sampling(counts.calls), memory=memory)


STAGE = Stage(
    name="tuning",
    parents=("diffusion", "averaging", "reference"),
    version=3,
    axes=axes.ALL,
    until=(),
    settings=settings,
    run=run,
    label=labels.samples,
    estimate=estimate,
)
