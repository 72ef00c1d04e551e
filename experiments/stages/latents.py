"""Encodes the training images once, and measures the scale of their latents."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments import axes, labels
from experiments.artifacts import first_stage_of
from experiments.conditions import DataFacts
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.published import is_given
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage, Gaussian
from ldm.first_stage.latent_scale import SCALES, latent_scale
from ldm.first_stage.vq import VQFirstStage, code_counts
from ldm.metrics.rate import aggregate_moments
from ldm.training.flops import count_flops

ENCODE_BATCH = 64


def run(job: Job) -> Outcome:
    """Writes latents.npy (what `FirstStage.pack` gives) unless encoding is free, and the scale as facts."""
    if job.settings["scale"] not in SCALES:
        raise UserError(f"latents.scale={job.settings['scale']} is none of {', '.join(SCALES)}")
    meter = Meter(job.device)
    images = job.images("train")
    model = first_stage_of(job)
    side = images.resolution // model.factor
    is_cached = model.factor > 1
    temporary = job.folder / f".latents.npy.{os.getpid()}"
    packed = None
    if is_cached:
        shape = (len(images), model.cache_channels, side, side)
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
    bounds = [float("inf"), float("-inf")]
    with torch.inference_mode(), reporting(job.label, len(images)) as reporter:

        def posteriors() -> Iterator[tuple[Tensor, Tensor]]:
            for part, encoding in encodings(model, images, range(len(images)), job.device):
                if packed is not None:
                    packed[part[0] : part[-1] + 1] = model.pack(encoding).cpu().numpy()
                mean, logvar = mean_and_logvar(encoding)
                bounds[:] = min(bounds[0], float(mean.min())), max(bounds[1], float(mean.max()))
                reporter.advance_to(part[-1] + 1)
                yield mean, logvar

        moments = aggregate_moments(posteriors())
        flops = len(images) * count_flops(lambda: model.encode(images.batch([0]).to(job.device)))
    if packed is not None:
        packed.flush()
        _sync(temporary)
        os.replace(temporary, job.folder / "latents.npy")
    scale = latent_scale(job.settings["scale"], moments.mean.cpu(), moments.variance.cpu())
    ends = scale.normalise(torch.tensor(bounds).double().view(2, 1, 1, 1).expand(2, model.channels, 1, 1))
    return Outcome(
        facts={
            "shape": [model.channels, side, side],
            "cached": is_cached,
            "images": len(images),
            "mean": moments.mean.tolist(),
            "variance": moments.variance.tolist(),
            "shift": scale.shift.tolist(),
            "std": scale.std.tolist(),
            "range": [float(ends.min()), float(ends.max())],
        },
        cost=meter.cost(len(images), flops),
    )


def encodings(
    model: FirstStage, images: ImageCache, indices: Sequence[int], device: str
) -> Iterator[tuple[Sequence[int], Gaussian | Tensor]]:
    """The encodings of the chosen images, batch by batch with their indices."""
    for first in range(0, len(indices), ENCODE_BATCH):
        part = indices[first : first + ENCODE_BATCH]
        yield part, model.encode(images.batch(part).to(device, memory_format=torch.channels_last))


def code_indices(model: VQFirstStage, images: ImageCache, indices: Sequence[int], device: str) -> Iterator[Tensor]:
    """The codes of the chosen images, batch by batch, on the CPU."""
    for _, latent in encodings(model, images, indices, device):
        assert isinstance(latent, Tensor)
        yield model.quantise(latent).indices.cpu()


def code_histogram(model: VQFirstStage, images: ImageCache, indices: Sequence[int], device: str) -> Tensor:
    """How often each code occurs in the chosen images, (codes,)."""
    codes = model.quantiser.codes
    counts = torch.zeros(codes, dtype=torch.int64)
    for found in code_indices(model, images, indices, device):
        counts += code_counts(found, codes)
    return counts


def mean_and_logvar(encoding: Gaussian | Tensor) -> tuple[Tensor, Tensor]:
    """The posterior of an encoding; one without spread has log-variance minus infinity."""
    if isinstance(encoding, Gaussian):
        return encoding.mean, encoding.logvar
    return encoding, torch.full_like(encoding, float("-inf"))


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The training images and the rule for the scale; none where a denoiser is given."""
    if is_given(config["denoiser"]):
        return None  # it was trained on latents of its own scale
    return {"data": facts.train_fingerprint, "scale": config["latents"]["scale"]}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Every training image is encoded once."""
    images = counts.train_images
    return Estimate(images, None if images is None else images * counts.first_stage.encode)


STAGE = Stage(
    name="latents",
    parents=("first_stage",),
    version=1,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE,
    until=("latents",),
    settings=settings,
    run=run,
    label=labels.first_stage,
    estimate=estimate,
)
