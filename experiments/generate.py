"""Makes images with a trained model, batch by batch; image i depends on (sampler seed, i) alone."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import artifacts, build
from experiments.budget import images_at
from experiments.conditions import AskedConditions, annotations_read, conditions_of, fields_of, larger_maps
from experiments.conditions.asked import drawn_images
from experiments.console import Reporter
from experiments.data_facts import Vocabulary
from experiments.pictures import to_uint8
from experiments.published import is_given
from experiments.scoring import conditions_split
from experiments.stage import Job, Settings
from ldm.conditioning.contract import Conditioning
from ldm.diffusion import Denoise, DenoisingModel, Guidance, autoguided, clipped, guided
from ldm.finite import require_finite
from ldm.first_stage.contract import FirstStage, finite
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.tiled import Tiling, decode_tiled
from ldm.randomness import SampleNoise, generator
from ldm.samplers import Sampler, sample
from ldm.training.checkpoint import load_weights
from ldm.training.flops import count_flops
from ldm.training.precision import autocast_dtype


def sample_size(settings: Settings, resolution: int) -> tuple[int, int]:
    """Height and width of the samples of a samples stage's settings, in pixels."""
    return settings["height"] or resolution, settings["width"] or resolution


def maps_size(settings: Settings, conditioning: Settings, resolution: int) -> tuple[int, int] | None:
    """The size at which images are asked for the conditions of samples; None: at the training size."""
    return larger_maps({"samples": settings, "conditioning": conditioning, "data": {"resolution": resolution}})


@dataclass(frozen=True)
class Guide:
    """A worse model that guides another by autoguidance, with its own tau_theta."""

    model: DenoisingModel
    conditioning: Conditioning


@dataclass(frozen=True)
class Generator:
    """All that sampling needs, for samples whose latents have `latent_shape`.

    `latent_range` = extremes of the normalised training latents, for clipping. `tiling` None: they are decoded whole.
    `guide` None: guidance is classifier-free.
    """

    model: DenoisingModel
    conditioning: Conditioning
    first_stage: FirstStage
    scale: LatentScale
    latent_shape: tuple[int, int, int]
    latent_range: tuple[float, float]
    device: str
    tiling: Tiling | None = None
    guide: Guide | None = None

    @property
    def networks(self) -> list[nn.Module]:
        """What is called at each step."""
        return [self.model.network, *([] if self.guide is None else [self.guide.model.network])]

    def denoise(self, told: Mapping[str, Tensor], n: int, guidance: Guidance) -> Denoise:
        """The model under guidance for n samples with these fields, which are on the device."""
        condition = self.conditioning(told)
        if self.guide is not None:
            return autoguided(self.model, condition, self.guide.model, self.guide.conditioning(told), guidance)
        null = self.conditioning.null(told, n) if guidance.scale != 1 else None
        return guided(self.model, condition, null, guidance)

    def encode(self, image: Tensor, noise: Tensor) -> Tensor:
        """Normalised latents of images on the device, those of a KL first stage drawn by `noise` of the latents' shape.

        Shapes: image (N, 3, H, W); result (N, C, h, w).
        """
        packed = self.first_stage.pack(finite(self.first_stage.encode(image)))
        return self.scale.normalise(self.first_stage.latent(packed, noise))

    def decode(self, latent: Tensor) -> Tensor:
        """Images, uint8 (N, 3, H, W) on the CPU, of raw latents."""
        if self.tiling is None:
            return to_uint8(self.first_stage.decode(latent))
        pieces = decode_tiled(self.first_stage.decode, latent, self.first_stage.factor, self.tiling)
        return torch.cat([to_uint8(piece) for piece in pieces], dim=2)


@dataclass(frozen=True)
class Batch:
    """Images first ... first + N, uint8 (N, 3, H, W), and the raw latents (N, C, h, w) that they were decoded from.

    `fields` are what they were conditioned on, on the CPU. With the seconds that denoising and decoding took.
    """

    first: int
    images: Tensor
    latents: Tensor
    fields: Mapping[str, Tensor]
    denoise_seconds: float
    decode_seconds: float


def generator_of(job: Job, weights: Path, precision: str) -> Generator:
    """The generator that a job hangs on, with the EMA weights of one milestone or of the end."""
    diffusion, latents = job.parent("diffusion"), artifacts.latent_facts(job)
    shape = tuple(latents["shape"])
    first_stage, scale = artifacts.first_stage_of(job), artifacts.latent_scale_of(job).on(job.device)
    known, encode = Vocabulary(**diffusion.record.facts["vocabulary"]), build.encoder_of(first_stage, scale)
    ae = job.parent("first_stage").settings
    model, conditions = build.denoising_model(diffusion.settings, ae, shape[1], known, job.device, encode)
    trained = nn.ModuleDict({"denoiser": model.network, "conditioning": conditions})
    if not is_given(diffusion.settings["denoiser"]):
        trained.load_state_dict(load_weights(weights))
    trained.eval().requires_grad_(False)
    model.autocast = autocast_dtype(precision)
    low, high = latents.get("range", (-math.inf, math.inf))  # a denoiser that was given does not tell
    return Generator(model, conditions, first_stage, scale, shape, (low, high), job.device)


def sampling_generator(job: Job) -> Generator:
    """The generator of a job that makes samples of the trained model, with the milestone that guides it where one does.

    The guide is the weights as they were averaged at that milestone.
    """
    precision, diffusion = job.settings["precision"], job.parent("diffusion")
    source = generator_of(job, artifacts.final_weights(job), precision)
    share = job.settings["guidance"].get("milestone")
    if share is None:
        return source
    training = diffusion.settings["training"]
    [images_seen] = images_at([share], training["images"], training["batch"])
    early = generator_of(job, diffusion.file(f"milestones/{images_seen}.safetensors"), precision)
    return replace(source, guide=Guide(early.model, early.conditioning))


def asked_conditions(job: Job, n: int, seed: int, size: tuple[int, int] | None = None) -> AskedConditions:
    """The conditions of n samples: of training images drawn by (seed, i), so as frequent as in training, or of held-out
    images, each as often as any other, in an order drawn by the seed.

    With `size` (height, width) they are those of images of that size.
    """
    diffusion, split = job.parent("diffusion").settings, conditions_split(job.settings)
    annotations = annotations_read(diffusion)
    # Without a condition nothing is read of the images, and a given model's identity need not name them.
    open_images = job.images if conditions_of(diffusion) else job.image_sets.open
    images = open_images(split, annotations, size)
    if split == "train":
        indices = drawn_images(len(images), n, seed)
    else:
        order = torch.randperm(len(images), generator=generator(seed, "condition")).tolist()
        indices = [order[i % len(order)] for i in range(n)]
    return AskedConditions(fields_of(diffusion["conditioning"], images, job.device), indices, seed)


@torch.inference_mode()
def generate(
    source: Generator,
    sampler: Sampler,
    settings: Mapping[str, Any],
    guidance: Guidance,
    asked: AskedConditions,
    indices: range,
    batch_size: int,
    paste_known: bool = False,
) -> Iterator[Batch]:
    """Samples of the given indices; `paste_known` puts back the pixels that inpainting masks do not cover."""
    times = build.time_grid_of(settings, source.model.schedule)
    for first in range(indices.start, indices.stop, batch_size):
        part = range(first, min(first + batch_size, indices.stop))
        fields = asked.of(part)
        started = time.monotonic()
        told = {name: value.to(source.device) for name, value in fields.items()}
        denoise = source.denoise(told, len(part), guidance)
        if settings["clip"] == "range":
            denoise = clipped(denoise, *source.latent_range)
        noise = SampleNoise(settings["seed"], part, source.device)
        z = noise(source.latent_shape).contiguous(memory_format=torch.channels_last)
        *_, z = sample(sampler, denoise, z, times, noise)
        wait_for(source.device)
        denoised = time.monotonic()
        latents = source.scale.denormalise(require_finite(z, "the denoiser", "samples"))
        images = source.decode(latents)
        if paste_known:
            images = torch.where(fields["mask"] > 0, images, asked.originals(part))
        yield Batch(part.start, images, latents, fields, denoised - started, time.monotonic() - denoised)


def images_of(batches: Iterable[Batch], reporter: Reporter, before: int) -> Iterator[Tensor]:
    """The images of batches as they come; the reporter is told how many there are, on top of those `before`."""
    for batch in batches:
        reporter.advance_to(before + batch.first + len(batch.images))
        yield batch.images


def wait_for(device: str) -> None:
    """Returns when all that was asked of a GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class ImageFlops:
    """FLOPs of the condition, of one call of the network and of one decoding, an image each."""

    condition: float
    call: float
    decode: float

    def denoise(self, calls: int, guided: bool) -> float:
        """Of so many network calls for an image, and of its condition, with the null condition under guidance."""
        return (2 if guided else 1) * self.condition + calls * self.call


@torch.no_grad()
def flops_per_image(source: Generator, asked: AskedConditions) -> ImageFlops:
    """Counted on one image."""
    z = torch.zeros(1, *source.latent_shape, device=source.device)
    told = {name: value.to(source.device) for name, value in asked.of(range(1)).items()}
    condition, half = source.conditioning(told), torch.tensor(0.5, dtype=torch.float64)
    return ImageFlops(
        count_flops(lambda: source.conditioning(told)),
        count_flops(lambda: source.model.denoise(z, half, condition)),
        count_flops(lambda: source.decode(z)),
    )
