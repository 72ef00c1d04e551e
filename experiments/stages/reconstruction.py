"""How good a first stage is on held-out images: distortion, rate, and the floor it sets for generators behind it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, labels, stage_settings
from experiments.artifacts import first_stage_of, reference_features
from experiments.conditions import DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.pictures import save_grid, to_uint8
from experiments.protocols import through_distance, through_extractor
from experiments.scoring import (
    chosen,
    described,
    extractor_of,
    features_of,
    floor_images,
    generation_protocol,
    generation_rows,
    reconstruction_protocol,
)
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.latents import EncodedImages, encodings
from ldm.data.contract import SPLITS, ImageCache
from ldm.first_stage.contract import FirstStage, finite
from ldm.metrics.perceptual import LPIPS, NO_LPIPS, perceptual_distances
from ldm.metrics.reconstructed import Reconstructed
from ldm.metrics.reconstruction import ImageErrors, concatenate, image_errors, reconstruction_metrics
from ldm.metrics.values import DECODED_IMAGES, SAMPLED_POSTERIOR, Measured
from ldm.randomness import SampleNoise
from ldm.records import LeftOut, Protocol, ResultRow
from ldm.training.flops import count_flops

BATCH = 50
MOST_RATE_IMAGES = 10_000
SHOWN = 16


def images_of_rates(train: ImageCache) -> list[int]:
    """The training images that rates are fitted to, the same in every stage."""
    return chosen(len(train), MOST_RATE_IMAGES, 0, "rate")


def run(job: Job) -> Outcome:
    """Distortion, rate and floor rows; images.npz holds the errors of each image by its index among the held-out ones.

    reconstructions.png shows originals above their reconstructions.
    """
    meter = Meter(job.device)
    seed = job.settings["seed"]
    splits: dict[str, ImageCache] = {split: job.images(split) for split in SPLITS}
    train, heldout = splits["train"], splits["heldout"]
    model = first_stage_of(job)
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    judges = perceptual_distances(job.settings.get("lpips_weights"))
    indices = chosen(len(heldout), job.settings["n_samples"], seed, "reconstruction")
    plain = reconstruction_protocol(job, heldout, len(indices))
    generation = generation_protocol(job, len(indices))
    compared, sampled = Reconstructed(judges, extractor), list[ImageErrors]()
    shown: list[Tensor] = []
    with torch.inference_mode(), reporting(job.label, len(indices)) as reporter:
        for part in _parts(indices, reporter):
            with meter.part("reconstruct"):
                originals, decoded, drawn = _measure(job, model, heldout, part, seed)
            with meter.part("features"):
                compared.add(originals, decoded)
            sampled += [drawn] if drawn is not None else []
            shown = shown or [originals[:SHOWN], decoded[:SHOWN]]
        errors, distances = compared.errors, compared.distances
        values, left_out = reconstruction_metrics(errors, distances)
        if LPIPS not in distances:
            left_out.append(LeftOut(LPIPS, NO_LPIPS))
        by_image = {"index": np.array(indices), **_named(errors), **distances}
        if sampled:
            of_drawn = concatenate(sampled)
            more, missing = reconstruction_metrics(of_drawn, None, SAMPLED_POSTERIOR)
            values, left_out = values + more, left_out + missing
            by_image |= {f"{name}_sample": found for name, found in _named(of_drawn).items()}
        with meter.part("features"):
            frechet = compared.frechet(seed)
        if isinstance(frechet, LeftOut):
            left_out.append(frechet)
        else:
            values.append(frechet)
        with meter.part("rate"):
            rates = _rate(model, train, heldout, indices, job.device)
        with meter.part("floor"):
            floor_rows, floor_left_out, floor_protocol = _floor(job, model, splits)
        image = heldout.batch([0]).to(job.device)
        flops = count_flops(lambda: model.decode(model.latent(model.pack(model.encode(image)))))
    np.savez(job.folder / "images.npz", **by_image)  # type: ignore[arg-type]
    save_grid(job.folder / "reconstructions.png", shown)
    job.log.image(job.folder / "reconstructions.png")
    networks = {judge.name: through_distance(plain, judge, generation.marks) for judge in judges}
    networks |= {frechet.metric: through_extractor(plain, generation)}
    rows: list[ResultRow] = [value.row(networks.get(value.metric, plain).id) for value in [*values, *rates.values]]
    return Outcome(
        facts={**rates.facts, "f": model.factor, "channels": model.channels, "regulariser": model.regulariser},
        rows=[*rows, *floor_rows],
        left_out=[*left_out, *rates.left_out, *floor_left_out],
        protocols=described([plain, *networks.values(), floor_protocol]),
        cost=meter.cost(len(indices), len(indices) * flops, seconds=meter.parts["reconstruct"]),
    )


def _parts(indices: list[int], reporter: Reporter) -> Iterator[list[int]]:
    for first in range(0, len(indices), BATCH):
        yield indices[first : first + BATCH]
        reporter.advance_to(min(first + BATCH, len(indices)))


def reconstructed(model: FirstStage, originals: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """The packed encodings of uint8 images (N, 3, H, W), and their reconstructions from the means, uint8 on the CPU."""
    image = originals.float().div_(127.5).sub_(1.0)
    packed = model.pack(finite(model.encode(image.to(device, memory_format=torch.channels_last))))
    return packed, to_uint8(model.decode(model.latent(packed)))


def _measure(
    job: Job, model: FirstStage, images: ImageCache, part: list[int], seed: int
) -> tuple[Tensor, Tensor, ImageErrors | None]:
    """Images, their reconstructions from the means, and errors of those from draws; None where nothing is drawn."""
    originals = images.uint8(part)
    packed, decoded = reconstructed(model, originals, job.device)
    if not model.is_drawn:
        return originals, decoded, None
    noise = SampleNoise(seed, part, job.device)((model.channels, *packed.shape[2:]))
    return originals, decoded, image_errors(originals, to_uint8(model.decode(model.latent(packed, noise))))


def _named(errors: ImageErrors) -> dict[str, NDArray[np.float64]]:
    """The errors of each image, by name."""
    similarity = {} if errors.ssim is None else {"ssim": errors.ssim}
    return {"mse": errors.mse, "psnr": errors.psnr, **similarity}


def _rate(model: FirstStage, train: ImageCache, heldout: ImageCache, indices: list[int], device: str) -> Measured:
    """Rates in bits per pixel, each under its own name, and facts of the latents, as the first stage says them."""
    training = images_of_rates(train)
    return model.rates(EncodedImages(model, train, training, device), EncodedImages(model, heldout, indices, device))


def _floor(
    job: Job, model: FirstStage, splits: Mapping[str, ImageCache]
) -> tuple[list[ResultRow], list[LeftOut], Protocol]:
    """The images of `real_*` through the first stage, against the reference: what perfect diffusion would reach.

    None of them is in the reference: against their own originals decoded images would be nearer than any sample.
    """
    settings, seed = job.parent("reference").settings, job.settings["seed"]
    extractor = extractor_of(job, settings["extractor"])
    split, indices = floor_images(settings, splits)
    protocol = generation_protocol(job, len(indices), split)
    features = features_of(decoded(model, splits[split], indices, seed, job.device), extractor)
    return *generation_rows(features, reference_features(job), protocol, DECODED_IMAGES), protocol


@torch.inference_mode()
def decoded(model: FirstStage, images: ImageCache, indices: Sequence[int], seed: int, device: str) -> Iterator[Tensor]:
    """The chosen images through a first stage, posteriors drawn by (seed, index), as samples are decoded; uint8."""
    for part, encoding in encodings(model, images, indices, device):
        noise = SampleNoise(seed, list(part), device)
        packed = model.pack(encoding)
        shape = (model.channels, *packed.shape[2:])
        yield to_uint8(model.decode(model.latent(packed, noise(shape))))


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """How many held-out images; none where a denoiser is given, unless the first stage is all that is asked for."""
    if not stage_settings.judges_first_stage(config):
        return None  # the question is then what a published model samples
    metrics = config["metrics"]
    lpips = {"lpips_weights": metrics["lpips"]} if metrics["lpips"] else {}
    return {"n_samples": metrics["n_samples"], "seed": metrics["seed"], **lpips}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone: of what is done with an image, decoding is the lesser part."""
    return Estimate(
        settings["n_samples"], None, memory=counts.holding({"encode": BATCH, "decode": BATCH, "extract": BATCH})
    )


STAGE = Stage(
    name="reconstruction",
    parents=("first_stage", "reference"),
    version=2,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE,
    until=stage_settings.FROM_FIRST_STAGE_ON,
    settings=settings,
    run=run,
    label=labels.first_stage,
    is_result=True,
    estimate=estimate,
)
