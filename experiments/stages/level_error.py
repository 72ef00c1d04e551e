"""How well the denoising model predicts held-out images at each noise level, at every milestone of its training."""

import functools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, labels, stage_settings
from experiments.chunks import Chunks
from experiments.conditions import AskedConditions, DataFacts, annotations_read, fields_of
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import Generator, flops_per_image, generator_of
from experiments.published import is_given
from experiments.scoring import chosen, described, unjudged_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.progress import milestones_of
from ldm.conditioning import Condition
from ldm.data.contract import ImageCache
from ldm.diffusion.levels import BINS, error_within, trained_bins
from ldm.finite import require_finite
from ldm.metrics.level_error import of_level
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import MetricValue
from ldm.randomness import SampleNoise
from ldm.records import LeftOut

BATCH = 50
"""Images at work at a time, whatever the machine."""


def run(job: Job) -> Outcome:
    """A row for each bin of log-SNR at the last milestone; those at all of them as facts. A kill loses one."""
    meter, config, chunks = Meter(job.device), job.settings, Chunks(job.folder)
    diffusion = job.parent("diffusion").settings
    images = job.images("heldout", annotations_read(diffusion))
    indices = chosen(len(images), config["n_samples"], config["seed"], "level_error")
    asked = AskedConditions(fields_of(diffusion["conditioning"], images, job.device), indices, config["seed"])
    milestones, found = milestones_of(job), list[list[MetricValue]]()
    protocol = unjudged_protocol(job, "level_error", images, len(indices), "squared error of v, the same noise for all")
    with torch.inference_mode(), reporting(job.label, len(milestones) * len(indices)) as reporter:
        for position, images_seen in enumerate(milestones):
            weights = job.parent("diffusion").file(f"milestones/{images_seen}.safetensors")
            source = generator_of(job, weights, config["precision"])
            bins = trained_bins(source.model.schedule)
            errors = chunks.chunk(str(images_seen), functools.partial(_errors, source, images, asked))
            values = [mean_value(of_level(each), errors[_name(each)]) for each in bins]
            found.append(values)
            job.log.log(images_seen, {f"heldout_error/{value.metric}": value.value for value in values})
            reporter.advance_to((position + 1) * len(indices))
    missing = [LeftOut(of_level(each).name, "outside of the trained noise levels") for each in BINS if each not in bins]
    one = flops_per_image(source, asked)
    flops = len(milestones) * len(indices) * one.denoise(len(bins), guided=False)
    return Outcome(
        facts={
            "level_error": {
                "log_snr": [list(each) for each in bins],
                "images_seen": milestones,
                "errors": [[value.value for value in values] for values in found],
            },
        },
        rows=[value.row(protocol.id, milestones[-1]) for value in found[-1]],
        left_out=missing,
        protocols=described([protocol]),
        cost=meter.cost(len(milestones) * len(indices), flops, seconds=meter.seconds + chunks.seconds_before),
    )


def _errors(source: Generator, images: ImageCache, asked: AskedConditions) -> Mapping[str, NDArray[np.float64]]:
    """By the name of each bin, the error of each image."""
    noise = SampleNoise(asked.seed, list(asked.indices), source.device)(source.latent_shape)
    parts = [slice(first, first + BATCH) for first in range(0, len(asked.indices), BATCH)]
    encoded = [source.encode(images.batch(asked.indices[part]).to(source.device), noise[part]).cpu() for part in parts]
    told = {name: value.to(source.device) for name, value in asked.of(range(len(asked.indices))).items()}

    def condition(part: slice) -> Condition:
        return source.conditioning({name: value[part] for name, value in told.items()})

    def errors(bin: tuple[int, int]) -> Tensor:
        found = error_within(
            source.model, torch.cat(encoded), asked.indices, bin, asked.seed, condition, source.device, BATCH
        )
        return require_finite(found, "the denoiser")

    return {_name(each): np.asarray(errors(each)) for each in trained_bins(source.model.schedule)}


def _name(bin: tuple[int, int]) -> str:
    return of_level(bin).name


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The held-out images, where metrics.level_error asks for it and there are milestones."""
    metrics = config["metrics"]
    if not metrics["level_error"] or is_given(config["denoiser"]) or not config["trainer"]["milestones"]:
        return None
    return {
        "heldout": stage_settings.heldout(config, facts),
        "n_samples": metrics["progress_samples"],
        "precision": config["precision"],
        "seed": metrics["seed"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """A network call in every bin, at every milestone."""
    images = counts.milestones * settings["n_samples"]
    memory = counts.holding({"encode": BATCH, "denoise": BATCH})
    return Estimate(images, images * len(BINS) * counts.denoiser.call, memory=memory)


STAGE = Stage(
    name="level_error",
    parents=("diffusion",),
    version=1,
    axes=axes.OF_DATA + axes.OF_FIRST_STAGE + axes.OF_MODEL,
    until=stage_settings.FROM_DIFFUSION_ON,
    settings=settings,
    run=run,
    label=labels.model,
    is_result=True,
    estimate=estimate,
)
