"""How many bits the denoising model needs for held-out images: the variational bound, and progressive coding."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, labels, stage_settings
from experiments.artifacts import final_weights
from experiments.chunks import Chunks
from experiments.conditions import DataFacts, annotations_read, fields_of
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import AskedConditions, Generator, flops_per_image, generator_of
from experiments.scoring import chosen, described, unjudged_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.data.contract import ImageCache
from ldm.diffusion import clipped, guided
from ldm.diffusion.likelihood import coding_times, discretised_nats, gaussian_nats, received
from ldm.errors import UserError
from ldm.finite import require_finite
from ldm.metrics.likelihood import (
    LATENT_DENSITY,
    PROGRESSIVE_BITS,
    PROGRESSIVE_RMSE,
    VLB,
    VLB_DECODER,
    VLB_PRIOR,
)
from ldm.metrics.reconstruction import MSE, mean_value, root_mean_square
from ldm.metrics.values import MetricValue
from ldm.randomness import SampleNoise

DISTORTIONS = 100
"""Levels, about, at which the estimate is decoded and compared; the rate counts all."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """Of each image: bits of the image's dimensions received at each level, grey levels squared at some, the decoder.

    Shapes: bits (N, levels), mse (N, shown), decoder_nats (N,).
    """

    bits: NDArray[np.float64]
    mse: NDArray[np.float64]
    decoder_nats: NDArray[np.float64]


def run(job: Job) -> Outcome:
    """Rows of the bound and of the end of the curve; the curve itself as facts. A kill loses one batch."""
    meter, config = Meter(job.device), job.settings
    diffusion = job.parent("diffusion").settings
    images = job.images("heldout", annotations_read(diffusion))
    source = generator_of(job, final_weights(job), config["precision"])
    indices = chosen(len(images), config["n_samples"], config["seed"], "likelihood")
    try:
        times = coding_times(source.model.schedule, config["levels"])
    except ValueError as error:
        raise UserError(f"metrics.likelihood_levels={config['levels']}: {error}") from error
    shown, batch = _shown(len(times)), job.machine.batch
    asked = AskedConditions(fields_of(diffusion["conditioning"], images, job.device), indices, config["seed"])
    ranges = [range(first, min(first + batch, len(indices))) for first in range(0, len(indices), batch)]
    chunks, found = Chunks(job.folder), list[Coded]()

    def code(part: range) -> Mapping[str, NDArray[np.float64]]:
        return vars(coded(source, images, asked, part, times, shown, config["clip"]))

    with torch.inference_mode(), reporting(job.label, len(indices)) as reporter:
        for part in ranges:
            arrays = chunks.chunk(f"{part.start:08d}-{part.stop:08d}", functools.partial(code, part))
            found.append(Coded(**arrays))
            reporter.advance_to(part.stop)
    bits, mse, decoder = (
        np.concatenate([getattr(item, name) for item in found]) for name in ("bits", "mse", "decoder_nats")
    )
    protocol = unjudged_protocol(
        job,
        "likelihood",
        images,
        len(indices),
        f"{config['levels']} noise levels",
        f"x0 clipped: {config['clip'] if math.isfinite(source.latent_range[1]) else 'none'}",
    )
    one = flops_per_image(source, asked)
    flops = one.denoise(len(times), guided=False) + len(shown) * one.decode
    values = _values(source, images.resolution, bits, mse, decoder)
    return Outcome(
        facts={
            "progressive": {"t": times[shown].tolist(), **_curve(bits[:, shown], mse), "n": len(indices)},
            "levels": len(times),
        },
        rows=[value.row(protocol.id, job.parent("diffusion").record.facts["images_seen"]) for value in values],
        protocols=described([protocol]),
        cost=meter.cost(len(indices), len(indices) * flops, seconds=meter.seconds + chunks.seconds_before),
    )


def coded(
    source: Generator,
    images: ImageCache,
    asked: AskedConditions,
    part: range,
    times: Tensor,
    shown: list[int],
    clip: str,
) -> Coded:
    """Sends some of the asked images level by level; what is drawn for one follows from (seed, its number) alone."""
    indices = asked.indices[part.start : part.stop]
    image = images.batch(indices).to(source.device)
    noise = SampleNoise(asked.seed, list(indices), source.device)
    z = source.encode(image, noise(source.latent_shape))
    told = {name: value.to(source.device) for name, value in asked.of(part).items()}
    denoise = guided(source.model, source.conditioning(told))
    if clip == "range":
        denoise = clipped(denoise, *source.latent_range)
    nats, mse = [], []
    for position, item in enumerate(received(denoise, source.model.schedule, z, times, noise)):
        nats.append(item.nats)
        if position in shown:
            guess = source.first_stage.decode(source.scale.denormalise(item.estimate)).clamp(-1, 1)
            mse.append(((guess - image).double() * 127.5).square().mean((1, 2, 3)))
    sigma = source.model.schedule.sigma(times[-1]).item()
    if source.first_stage.factor == 1:
        std = sigma * source.scale.std.view(1, -1, 1, 1).to(image.device)
        decoder = discretised_nats(image, source.scale.denormalise(item.estimate), std)
    else:
        decoder = gaussian_nats(z, item.estimate, sigma)
    bits = require_finite(torch.stack(nats, 1), "the denoiser") / (math.log(2) * image[0].numel())
    return Coded(bits.cpu().numpy(), torch.stack(mse, 1).cpu().numpy(), decoder.cpu().numpy())


def _curve(bits: NDArray[np.float64], mse: NDArray[np.float64]) -> dict[str, list[float | None]]:
    """Means over images (first axis) at each level, those of the error with their 95 % intervals."""
    errors = [root_mean_square(mean_value(MSE, level)) for level in mse.T]
    return {
        "bits_per_dim": bits.mean(0).tolist(),
        "rmse255": [error.value for error in errors],
        "rmse255_low": [error.ci_low for error in errors],
        "rmse255_high": [error.ci_high for error in errors],
    }


def _values(
    source: Generator,
    resolution: int,
    bits: NDArray[np.float64],
    mse: NDArray[np.float64],
    decoder_nats: NDArray[np.float64],
) -> list[MetricValue]:
    """The end of the curve, and the bound: in pixel space as bits a dimension with its terms, else as a density."""
    pixels = 3 * resolution**2
    error = root_mean_square(mean_value(MSE, mse[:, -1]), PROGRESSIVE_RMSE)
    curve = [mean_value(PROGRESSIVE_BITS, bits[:, -1]), error]
    if source.first_stage.factor > 1:
        size = math.prod(source.latent_shape)
        nats = bits[:, -1] * math.log(2) * pixels + decoder_nats
        return [*curve, mean_value(LATENT_DENSITY, nats / size)]
    decoder = decoder_nats / (math.log(2) * pixels)
    return [
        *curve,
        mean_value(VLB, bits[:, -1] + decoder),
        mean_value(VLB_PRIOR, bits[:, 0]),
        mean_value(VLB_DECODER, decoder),
    ]


def _shown(levels: int) -> list[int]:
    """Positions of a chain at which the estimate is looked at: dense at the clean end, where most bits arrive."""
    even = np.linspace(0, levels - 1, DISTORTIONS // 2)
    dense = levels - np.geomspace(1, levels, DISTORTIONS // 2)
    return sorted({int(position) for position in np.concatenate([even, dense]).round()})


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The held-out images and the noise levels, where metrics.likelihood asks for it."""
    metrics = config["metrics"]
    if not metrics["likelihood"]:
        return None
    return {
        "heldout": stage_settings.heldout(config, facts),
        "n_samples": metrics["likelihood_samples"],
        "levels": metrics["likelihood_levels"],
        "clip": metrics["likelihood_clip"],
        "precision": config["precision"],
        "seed": metrics["seed"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """A network call at every level, without the decodings on the way."""
    images = settings["n_samples"]
    batch = min(images, counts.machine.batch)
    memory = counts.holding({"encode": batch, "denoise": batch, "decode_sample": batch})
    return Estimate(images, images * settings["levels"] * counts.denoiser.call, memory=memory)


STAGE = Stage(
    name="likelihood",
    parents=("diffusion", "averaging"),
    version=1,
    axes=(*axes.OF_DATA, *axes.OF_FIRST_STAGE, *axes.OF_MODEL, "ema_length"),
    until=stage_settings.FROM_DIFFUSION_ON,
    settings=settings,
    run=run,
    label=labels.model,
    is_result=True,
    estimate=estimate,
)
