"""Makes images with a trained model, batch by batch; image i depends on (sampler seed, i) alone."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import build
from experiments.pictures import to_uint8
from experiments.runner import Job
from ldm.conditioning.contract import Conditioning
from ldm.data.contract import ImageCache
from ldm.diffusion import DenoisingModel, clipped, guided
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.tiled import Tiling, decode_tiled
from ldm.randomness import SampleNoise, generator
from ldm.samplers import Sampler, sample
from ldm.training.checkpoint import load_weights
from ldm.training.flops import count_flops
from ldm.training.precision import autocast_dtype


@dataclass(frozen=True)
class Generator:
    """All that sampling needs, for samples whose latents have `latent_shape`.

    `latent_range` = extremes of the normalised training latents, for clipping. `tiling` None: they are decoded whole.
    """

    model: DenoisingModel
    conditioning: Conditioning
    first_stage: FirstStage
    scale: LatentScale
    latent_shape: tuple[int, int, int]
    latent_range: tuple[float, float]
    device: str
    tiling: Tiling | None = None

    def decode(self, latent: Tensor) -> Tensor:
        """Images, uint8 (N, 3, H, W) on the CPU, of raw latents."""
        if self.tiling is None:
            return to_uint8(self.first_stage.decode(latent))
        pieces = decode_tiled(self.first_stage.decode, latent, self.first_stage.factor, self.tiling)
        return torch.cat([to_uint8(piece) for piece in pieces], dim=2)


@dataclass(frozen=True)
class Batch:
    """Images first ... first + N, uint8 (N, 3, H, W), and the raw latents (N, C, h, w) that they were decoded from.

    With the seconds that denoising and decoding took.
    """

    first: int
    images: Tensor
    latents: Tensor
    denoise_seconds: float
    decode_seconds: float


def generator_of(job: Job, weights: Path, precision: str) -> Generator:
    """The generator of a job's plan with the EMA weights of one milestone or of the end."""
    record, latents = job.parent_record("diffusion"), job.parent_record("latents").facts
    shape = tuple(latents["shape"])
    model, conditions = build.denoising_model(record.config, shape[0], shape[1], record.facts["classes"], job.device)
    trained = nn.ModuleDict({"denoiser": model.network, "conditioning": conditions})
    trained.load_state_dict(load_weights(weights))
    trained.eval().requires_grad_(False)
    model.autocast = autocast_dtype(precision)
    first_stage = build.first_stage_of(job, job.plan.config["data"]["resolution"])
    low, high = latents["range"]
    return Generator(
        model,
        conditions,
        first_stage,
        build.latent_scale_of(job),
        shape,
        (low, high),
        job.device,
    )


def sample_fields(images: ImageCache, n: int, seed: int) -> dict[str, Tensor]:
    """Conditions for n samples, each that of a training image drawn by (seed, i), so as frequent as in training."""
    draws = [int(torch.randint(len(images), (), generator=generator(seed, "condition", i))) for i in range(n)]
    return images.fields(draws)


@torch.inference_mode()
def generate(
    source: Generator,
    sampler: Sampler,
    settings: Mapping[str, Any],
    guidance_scale: float,
    fields: Mapping[str, Tensor],
    indices: range,
    batch_size: int,
) -> Iterator[Batch]:
    """Samples of the given indices; `fields` hold the conditions of all samples, by index."""
    times = build.time_grid_of(settings)
    for first in range(indices.start, indices.stop, batch_size):
        part = range(first, min(first + batch_size, indices.stop))
        started = time.monotonic()
        condition = source.conditioning(
            {name: value[part.start : part.stop].to(source.device) for name, value in fields.items()}
        )
        null = source.conditioning.null(len(part), source.device) if guidance_scale != 1 else None
        denoise = guided(source.model, condition, null, guidance_scale)
        if settings["clip"] == "range":
            denoise = clipped(denoise, *source.latent_range)
        noise = SampleNoise(settings["seed"], part, source.device)
        z = noise(source.latent_shape).contiguous(memory_format=torch.channels_last)
        *_, z = sample(sampler, denoise, z, times, noise)
        _wait(source.device)
        denoised = time.monotonic()
        latents = source.scale.denormalise(z)
        images = source.decode(latents)
        yield Batch(part.start, images, latents, denoised - started, time.monotonic() - denoised)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def flops_per_image(source: Generator) -> tuple[float, float]:
    """FLOPs of one call of the network and of one decoding, an image each."""
    z = torch.zeros(1, *source.latent_shape, device=source.device)
    null = source.conditioning.null(1, source.device)
    half = torch.tensor(0.5, dtype=torch.float64)
    return (
        count_flops(lambda: source.model.denoise(z, half, null)),
        count_flops(lambda: source.decode(z)),
    )
