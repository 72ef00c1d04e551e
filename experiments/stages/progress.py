"""Quality after so many images seen: every milestone sampled and measured in one cheap, equal way."""

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from experiments import build
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.generate import Batch, asked_conditions, flops_per_image, generate, generator_of
from experiments.measure import (
    SHORT_SAMPLER,
    described,
    extractor_of,
    features_of,
    reference_features,
    sample_protocol,
    sample_rows,
    spelled_sampler,
)
from experiments.runner import Job, Outcome, label
from ldm.diffusion import Guidance


def run(job: Job) -> Outcome:
    """Rows by images seen."""
    meter, config, full = Meter(job.device), job.config, job.plan.config
    milestones = job.parent_record("diffusion").facts["milestones"]
    settings = {**SHORT_SAMPLER, "steps": config["steps"], "seed": config["seed"]}
    asked = asked_conditions(job, config["n_samples"], config["seed"])
    extractor = extractor_of(job, job.parent_record("reference").config["extractor"])
    reference = reference_features(job)
    protocol = dataclasses.replace(sample_protocol(job, config["n_samples"]), sampler=spelled_sampler(settings))
    rows, left_out = [], []
    with reporting(label(job.plan, job.stage), len(milestones) * config["n_samples"]) as reporter:
        for position, images_seen in enumerate(milestones):
            weights = job.parent_folder("diffusion") / "milestones" / f"{images_seen}.safetensors"
            source = generator_of(job, weights, config["precision"])
            sampler = build.sampler(settings, source.model.schedule)
            batches = generate(
                source, sampler, settings, Guidance(), asked, range(config["n_samples"]), full["samples"]["batch"]
            )
            features = features_of(_reported(batches, reporter, position * config["n_samples"]), extractor)
            found, missing = sample_rows(features, reference, protocol, images_seen)
            rows += found
            left_out += missing
    flops = flops_per_image(source, asked)
    images = len(milestones) * config["n_samples"]
    return Outcome(
        rows=rows,
        left_out=tuple(dict.fromkeys(left_out)),
        protocols=described([protocol]),
        cost=meter.cost(images, images * (flops.denoise(config["steps"], guided=False) + flops.decode)),
    )


def _reported(batches: Iterator[Batch], reporter: Reporter, before: int) -> Iterator[Tensor]:
    for batch in batches:
        reporter.advance_to(before + batch.first + len(batch.images))
        yield batch.images
