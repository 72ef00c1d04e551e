"""What the latents of held-out images really take when an entropy coder writes them: a check on the named rates."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from experiments import axes, labels
from experiments.artifacts import first_stage_of
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.pictures import to_uint8
from experiments.scoring import chosen, described, unjudged_protocol
from experiments.stage import Job, Outcome, Settings, Stage
from experiments.stages.latents import code_histogram, code_indices, encodings, mean_and_logvar
from experiments.stages.reconstruction import MOST_RATE_IMAGES
from ldm.data.contract import SPLITS, ImageCache
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.vq import VQFirstStage
from ldm.metrics.entropy_coding import (
    CodedSize,
    coded_size,
    dequantised,
    index_model,
    latent_model,
    matched_steps,
    quantised,
)
from ldm.metrics.rate import LatentMoments, aggregate_moments
from ldm.metrics.reconstruction import concatenate, image_errors, mean_value, reconstruction_metrics
from ldm.metrics.values import MetricValue
from ldm.records import LeftOut

STEPS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)
"""Steps of the curve, in standard deviations of a channel's training latents."""


@dataclasses.dataclass(frozen=True)
class QuantisedPoint:
    """KL latents coded in steps. Units: `step` in standard deviations (None: matched to the posteriors), bits/pixel."""

    step: float | None
    bits_per_pixel: float
    bits_per_pixel_alone: float
    rmse255: float
    psnr: float | None
    n: int


def run(job: Job) -> Outcome:
    """Rows of the coded size; for KL latents also the distortion behind it, and a curve over steps as facts."""
    meter, config = Meter(job.device), job.settings
    train, heldout = (job.images(split) for split in SPLITS)
    model = first_stage_of(job)
    # The images that reconstructions and named rates are measured on, and those that rates are fitted to.
    indices = chosen(len(heldout), config["n_samples"], config["seed"], "reconstruction")
    training = chosen(len(train), MOST_RATE_IMAGES, 0, "rate")
    measure = _indices_coded if isinstance(model, VQFirstStage) else _latents_coded
    with torch.inference_mode():
        values, left_out, facts = measure(model, train, training, heldout, indices, job.device)
    protocol = unjudged_protocol(job, "coding", heldout, len(indices))
    return Outcome(
        facts=facts,
        rows=[value.row(protocol.id) for value in values],
        left_out=left_out,
        protocols=described([protocol]),
        cost=meter.cost(len(indices)),
    )


Measured = tuple[list[MetricValue], list[LeftOut], dict[str, object]]


def _size_values(name: str, size: CodedSize, pixels: int) -> list[MetricValue]:
    """All in one stream, whose mean is the check; and each by itself, with an interval over images."""
    n = len(size.alone)
    together = MetricValue(f"coded_{name}", size.together / (n * pixels), n)
    return [together, mean_value(f"coded_{name}_alone", size.alone / pixels)]


def _indices_coded(
    model: FirstStage, train: ImageCache, training: list[int], heldout: ImageCache, indices: list[int], device: str
) -> Measured:
    assert isinstance(model, VQFirstStage)
    counts = code_histogram(model, train, training, device)
    held = torch.cat(list(code_indices(model, heldout, indices, device)))
    size = coded_size(held, index_model(counts.numpy()))
    return _size_values("index", size, heldout.resolution**2), [], {}


def _latents_coded(
    model: FirstStage, train: ImageCache, training: list[int], heldout: ImageCache, indices: list[int], device: str
) -> Measured:
    widths: list[Tensor] = []

    def posteriors() -> Iterator[tuple[Tensor, Tensor]]:
        for _, encoding in encodings(model, train, training, device):
            mean, logvar = mean_and_logvar(encoding)
            widths.append(logvar.double().exp().mean((2, 3)).cpu())
            yield mean, logvar

    moments = aggregate_moments(posteriors())
    moments = LatentMoments(moments.mean.cpu(), moments.variance.cpu())
    within = torch.cat(widths).mean(0)
    spread = moments.variance.sqrt()
    matched: QuantisedPoint | None = None
    values: list[MetricValue] = []
    left_out = []
    try:
        matched, values = _coded_in_steps(model, heldout, indices, device, moments, matched_steps(within), None)
    except ValueError as error:
        left_out.append(LeftOut("coded_latent", f"Steps as wide as the posteriors cannot be coded: {error}."))
    curve = [_coded_in_steps(model, heldout, indices, device, moments, s * spread, s)[0] for s in STEPS]
    steps = (matched_steps(within) / spread).tolist()
    points = [*([matched] if matched else []), *curve]
    return values, left_out, {"quantised": [dataclasses.asdict(point) for point in points], "matched_steps": steps}


def _coded_in_steps(
    model: FirstStage,
    images: ImageCache,
    indices: list[int],
    device: str,
    moments: LatentMoments,
    step: Tensor,
    share: float | None,
) -> tuple[QuantisedPoint, list[MetricValue]]:
    """Latents (means of their posteriors) rounded to steps, coded, and decoded to images."""
    steps, errors = [], []
    for part, encoding in encodings(model, images, indices, device):
        whole = quantised(mean_and_logvar(encoding)[0].cpu(), moments.mean, step)
        latent = dequantised(whole, moments.mean, step).float().to(device)
        errors.append(image_errors(images.uint8(part), to_uint8(model.decode(latent))))
        steps.append(whole)
    symbols, pixels = torch.cat(steps), images.resolution**2
    size = coded_size(symbols, latent_model(moments.variance.sqrt(), step, symbols[0, 0].numel()))
    every = concatenate(errors)
    distortion, _ = reconstruction_metrics(every, suffix="_coded")
    kept = {value.metric: value for value in distortion if value.metric in ("rmse255_coded", "psnr_coded")}
    values = [*_size_values("latent", size, pixels), *kept.values()]
    psnr = kept["psnr_coded"].value if "psnr_coded" in kept else None
    point = QuantisedPoint(share, values[0].value, values[1].value, kept["rmse255_coded"].value, psnr, len(indices))
    return point, values


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The images, where metrics.coding asks for it and there are latents."""
    metrics = config["metrics"]
    if not metrics["coding"] or config["ae"]["f"] == 1:  # pixels are not coded
        return None
    return {
        "train": facts.train_fingerprint,
        "heldout": facts.heldout_fingerprint,
        "n_samples": metrics["n_samples"],
        "seed": metrics["seed"],
    }


STAGE = Stage(
    name="coding",
    parents=("first_stage",),
    version=1,
    axes=axes.OF_DATA + axes.OF_FIRST_STAGE,
    until=("first_stage", "latents", "diffusion", "samples", "evaluation"),
    settings=settings,
    run=run,
    label=labels.first_stage,
    is_result=True,
)
