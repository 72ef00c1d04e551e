"""The bits and the error of a first stage over the widths of its posteriors: a curve beside those of codecs."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import first_stage_of
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.scoring import chosen, described, unjudged_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.latents import ENCODE_BATCH, encodings
from experiments.stages.reconstruction import BATCH, images_of_rates
from experiments.stages.reference import MOST_CODEC_IMAGES
from ldm.data.contract import SPLITS, ImageCache
from ldm.first_stage.contract import FirstStage
from ldm.metrics.rate_curve import Posteriors, Swept, curve, swept
from ldm.randomness import SampleNoise

CHUNK = 250
"""Images that a kill loses, and whose rounded latents are one stream."""


def run(job: Job) -> Outcome:
    """The curve as facts; no rows, since a first stage is compared by the one width that it was trained with."""
    meter, chunks, seed = Meter(job.device), Chunks(job.folder), job.settings["seed"]
    train, heldout = (job.images(split) for split in SPLITS)
    model = first_stage_of(job)
    # The images that codecs are measured on, and those that the rates of reconstructions are fitted to.
    shown = chosen(len(heldout), job.settings["n_samples"], seed, "reconstruction")[:MOST_CODEC_IMAGES]
    training = images_of_rates(train)
    parts = []
    with torch.inference_mode(), reporting(job.label, len(shown)) as reporter:
        found = (model.posterior(encoding) for _, encoding in encodings(model, train, training, job.device))
        posteriors = Posteriors.fitted((posterior.mean, posterior.logvar) for posterior in found)
        for first in range(0, len(shown), CHUNK):
            indices = shown[first : first + CHUNK]
            sweep = functools.partial(
                _swept, model, posteriors, heldout, indices, SampleNoise(seed, indices, job.device)
            )
            parts.append(Swept(**chunks.chunk(f"{first:08d}", sweep)))
            reporter.advance_to(first + len(indices))
    protocol = unjudged_protocol(job, "rate_curve", heldout, len(shown))
    return Outcome(
        facts={
            "rate_curve": curve(posteriors.widths, parts, heldout.resolution**2),
            "noise": posteriors.noise.tolist(),
            "latent_std": posteriors.means.variance.sqrt().tolist(),
            "rate_images": len(training),
        },
        protocols=described([protocol]),
        cost=meter.cost(len(shown), seconds=meter.seconds + chunks.seconds_before),
    )


def _swept(
    model: FirstStage, posteriors: Posteriors, images: ImageCache, indices: list[int], noise: SampleNoise
) -> Mapping[str, NDArray[Any]]:
    """Some images at every width; the noise is that of posterior samples in the stage reconstruction."""
    found = encodings(model, images, indices, str(noise.device))
    mean = torch.cat([model.posterior(encoding).mean for _, encoding in found])

    def decode(raw: Tensor) -> Tensor:
        return torch.cat([model.decode(part) for part in raw.split(BATCH)])

    return vars(swept(posteriors, images.uint8(indices), mean, noise(tuple(mean.shape[1:])), decode))


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The images, where the first stage is measured and its latents are draws; pixels are none."""
    is_wanted = stage_settings.judges_first_stage(config) and build.is_drawn(config["ae"])
    return stage_settings.measured_images(config, facts) if is_wanted else None


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone."""
    return Estimate(settings["n_samples"], None, memory=counts.holding({"encode": ENCODE_BATCH, "decode": BATCH}))


STAGE = Stage(
    name="rate_curve",
    parents=("first_stage",),
    version=1,
    axes=axes.OF_DATA + axes.OF_FIRST_STAGE,
    until=stage_settings.FROM_FIRST_STAGE_ON,
    settings=settings,
    run=run,
    label=labels.first_stage,
    estimate=estimate,
)
