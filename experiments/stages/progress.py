"""Quality after so many images seen: every milestone sampled and measured in one cheap, equal way."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import reference_features
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import (
    AskedConditions,
    Batch,
    Generator,
    asked_conditions,
    flops_per_image,
    generate,
    generator_of,
    images_of,
)
from experiments.published import is_given
from experiments.scoring import (
    SHORT_SAMPLER,
    described,
    extractor_of,
    features_of,
    sample_protocol,
    sample_rows,
    spelled_sampler,
)
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.diffusion import Guidance
from ldm.metrics.features import Features
from ldm.records import LeftOut, ResultRow


def run(job: Job) -> Outcome:
    """Rows by images seen. A kill loses one milestone's samples."""
    meter, config = Meter(job.device), job.settings
    milestones, settings = milestones_of(job), _sampler(job)
    asked = asked_conditions(job, config["n_samples"], config["seed"])
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    reference = reference_features(job)
    protocol = dataclasses.replace(sample_protocol(job, config["n_samples"]), sampler=spelled_sampler(settings))
    rows, left_out, chunks, n = list[ResultRow](), list[LeftOut](), Chunks(job.folder), config["n_samples"]

    def seen(source: Generator, before: int, reporter: Reporter) -> Mapping[str, NDArray[np.float32]]:
        batches = _samples(job, source, asked, n)
        return features_of(images_of(batches, reporter, before), extractor).arrays

    with reporting(job.label, len(milestones) * n) as reporter:
        for position, images_seen in enumerate(milestones):
            source = _source(job, images_seen)
            made = functools.partial(seen, source, position * n, reporter)
            features = Features.of(chunks.chunk(str(images_seen), made))
            reporter.advance_to((position + 1) * n)
            found, missing = sample_rows(features, reference, protocol, images_seen)
            rows += found
            left_out += missing
    flops = flops_per_image(source, asked)
    images = len(milestones) * n
    return Outcome(
        rows=rows,
        left_out=tuple(dict.fromkeys(left_out)),
        protocols=described([protocol]),
        cost=meter.cost(
            images,
            images * (flops.denoise(config["steps"], guided=False) + flops.decode),
            seconds=meter.seconds + chunks.seconds_before,
        ),
    )


def milestones_of(job: Job) -> list[int]:
    """The numbers of images seen at which the training that a job hangs on left its weights."""
    found: list[int] = job.parent("diffusion").record.facts["milestones"]
    return found


def sampled_again(job: Job, images_seen: int, n: int) -> Iterator[Batch]:
    """The first n samples of a milestone of a finished artifact, which keeps none of them."""
    n = min(n, job.settings["n_samples"])
    asked = asked_conditions(job, n, job.settings["seed"])
    return _samples(job, _source(job, images_seen), asked, n)


def _sampler(job: Job) -> dict[str, Any]:
    return {**SHORT_SAMPLER, "steps": job.settings["steps"], "seed": job.settings["seed"]}


def _source(job: Job, images_seen: int) -> Generator:
    weights = job.parent("diffusion").file(f"milestones/{images_seen}.safetensors")
    return generator_of(job, weights, job.settings["precision"])


def _samples(job: Job, source: Generator, asked: AskedConditions, n: int) -> Iterator[Batch]:
    settings = _sampler(job)
    sampler = build.sampler(settings, source.model.schedule)
    return generate(source, sampler, settings, Guidance(), asked, range(n), job.machine.batch)


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """How milestones are sampled; none where there are none, as where the denoiser is given."""
    if is_given(config["denoiser"]) or not config["trainer"]["milestones"]:
        return None
    metrics = config["metrics"]
    return {
        **stage_settings.sample_conditions(config, facts),
        "n_samples": metrics["progress_samples"],
        "steps": metrics["progress_steps"],
        "precision": config["precision"],
        "seed": metrics["seed"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """The short sampler's network calls and one decoding an image, at every milestone."""
    images = counts.milestones * settings["n_samples"]
    memory = counts.holding_samples(settings["n_samples"])
    return Estimate(images, images * counts.sampling(settings["steps"]), memory=memory)


STAGE = Stage(
    name="progress",
    parents=("diffusion", "reference"),
    version=2,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE + axes.OF_MODEL,
    until=stage_settings.FROM_DIFFUSION_ON,
    settings=settings,
    run=run,
    label=labels.model,
    is_result=True,
    estimate=estimate,
)
