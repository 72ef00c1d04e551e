"""Quality after so many images seen: every milestone sampled and measured in one cheap, equal way."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from experiments import build
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.generate import Generator, asked_conditions, flops_per_image, generate, generator_of, images_of
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
from experiments.parts import Parts
from experiments.runner import Job, Outcome, label
from ldm.diffusion import Guidance
from ldm.metrics.features import Features
from ldm.records import LeftOut, ResultRow


def run(job: Job) -> Outcome:
    """Rows by images seen. A kill loses one milestone's samples."""
    meter, config, full = Meter(job.device), job.config, job.plan.config
    milestones = job.parent_record("diffusion").facts["milestones"]
    settings = {**SHORT_SAMPLER, "steps": config["steps"], "seed": config["seed"]}
    asked = asked_conditions(job, config["n_samples"], config["seed"])
    extractor = extractor_of(job, job.parent_record("reference").config["extractor"])
    reference = reference_features(job)
    protocol = dataclasses.replace(sample_protocol(job, config["n_samples"]), sampler=spelled_sampler(settings))
    rows, left_out, parts, n = list[ResultRow](), list[LeftOut](), Parts(job.folder), config["n_samples"]

    def seen(source: Generator, before: int, reporter: Reporter) -> Mapping[str, NDArray[np.float32]]:
        sampler = build.sampler(settings, source.model.schedule)
        batches = generate(source, sampler, settings, Guidance(), asked, range(n), full["samples"]["batch"])
        return features_of(images_of(batches, reporter, before), extractor).arrays

    with reporting(label(job.plan, job.stage), len(milestones) * n) as reporter:
        for position, images_seen in enumerate(milestones):
            weights = job.parent_folder("diffusion") / "milestones" / f"{images_seen}.safetensors"
            source = generator_of(job, weights, config["precision"])
            made = functools.partial(seen, source, position * n, reporter)
            features = Features.of(parts.part(str(images_seen), made))
            reporter.advance_to((position + 1) * n)
            found, missing = sample_rows(features, reference, protocol, images_seen)
            rows += found
            left_out += missing
    flops = flops_per_image(source, asked)
    images = len(milestones) * n
    parts.remove()
    return Outcome(
        rows=rows,
        left_out=tuple(dict.fromkeys(left_out)),
        protocols=described([protocol]),
        cost=meter.cost(
            images,
            images * (flops.denoise(config["steps"], guided=False) + flops.decode),
            seconds=meter.seconds + parts.seconds_before,
        ),
    )
