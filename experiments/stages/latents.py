"""Encodes the training images once, and measures the scale of their latents."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ldm.first_stage.contract import FirstStage, Gaussian, finite
from ldm.first_stage.latent_scale import SCALES, latent_scale
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
                found = model.posterior(encoding)
                bounds[:] = min(bounds[0], float(found.mean.min())), max(bounds[1], float(found.mean.max()))
                reporter.advance_to(part[-1] + 1)
                yield found.mean, found.logvar

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
        yield part, finite(model.encode(images.batch(part).to(device, memory_format=torch.channels_last)))


@dataclass(frozen=True)
class EncodedImages:
    """The chosen images and their encodings, as a first stage is given them to say its rates."""

    first_stage: FirstStage
    cache: ImageCache
    indices: Sequence[int]
    device: str

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.cache.resolution**2

    def __len__(self) -> int:
        """Number of chosen images."""
        return len(self.indices)

    def images(self) -> Iterator[Tensor]:
        """The images as they are stored, in the batches of `encodings`; uint8 (n, 3, H, W)."""
        for first in range(0, len(self.indices), ENCODE_BATCH):
            yield self.cache.uint8(self.indices[first : first + ENCODE_BATCH])

    def encodings(self) -> Iterator[Gaussian | Tensor]:
        """Their encodings on the device."""
        return (found for _, found in encodings(self.first_stage, self.cache, self.indices, self.device))


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
    work = None if images is None else images * counts.first_stage.encode
    return Estimate(images, work, memory=counts.holding({"encode": ENCODE_BATCH}))


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
