"""Whole training steps of denoisers and first stages: data, forward, backward, clipping, optimiser, EMA."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import Contest
from benchmarks.timing import Call
from benchmarks.workloads import SIDE, WORKLOADS, Workload, diffusers_unet, images, latents, our_unet
from ldm.conditioning import Unconditional
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.first_stage.losses import FirstStageLoss
from ldm.interop.diffusers_first_stage import build_diffusers_first_stage
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining
from ldm.training.precision import autocast_dtype, resolve_precision

ENDLESS = 10**9
"""Images of a training that no benchmark comes to the end of."""

RATE, CLIP, KL_WEIGHT = 1e-4, 1.0, 1e-6


def exact_steps(device: str) -> Iterator[Contest]:
    """Both in float32."""
    return _steps("fp32")


def default_steps(device: str) -> Iterator[Contest]:
    """Ours in the precision that it chooses for this processor, diffusers in float32, as its examples train."""
    return _steps(resolve_precision("auto", "cpu"))


def _steps(precision: str) -> Iterator[Contest]:
    for work in WORKLOADS:
        theirs = diffusers_unet(work)
        ours = our_step(our_unet(theirs), work, precision)
        yield Contest(work.size, ours, diffusers_step(theirs, work), "diffusers", work.batch)


def our_step(network: torch.nn.Module, work: Workload, precision: str) -> Call:
    """A step as the stage `diffusion` makes it."""
    model = DenoisingModel(network, make_schedule("linear"), "eps", autocast_dtype(precision))
    settings = DiffusionSettings(
        seed=0,
        images=ENDLESS,
        batch=work.batch,
        learning_rate=RATE,
        warm_up=0,
        weight_decay=0.01,
        gradient_clip=CLIP,
        ema_half_life=1e5,
        condition_dropout=0.0,
    )
    training = DiffusionTraining(model, Unconditional(), latents(work.side), settings)
    training.trained.train()
    return training.advance


def diffusers_step(model: Any, work: Workload) -> Call:
    """A step as diffusers' example of unconditional generation makes it; its data are tensors in memory already."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    noise_scheduler: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    batch_of = _diffusers_batches(work)
    model.train()

    def step() -> None:
        clean = batch_of(torch.randint(len(images()), (work.batch,)))
        noise = torch.randn(clean.shape)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(clean),))
        predicted = model(noise_scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        F.mse_loss(predicted.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        average.step(model.parameters())

    return step


def _diffusers_batches(work: Workload) -> Any:
    """Batches by indices: images, or draws from posteriors that were encoded before."""
    if work.side == SIDE:
        pixels = torch.from_numpy(images().images)
        return lambda indices: pixels[indices].permute(0, 3, 1, 2).float() / 127.5 - 1
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    packed = latents(work.side).packed
    assert packed is not None
    moments = torch.from_numpy(packed)
    return lambda indices: DiagonalGaussianDistribution(moments[indices]).sample()


BATCH = 16
CODER: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 3,
    "sample_size": SIDE,
}
"""A KL first stage at f = 4."""


def first_stage_steps(device: str) -> Iterator[Contest]:
    """L1 and KL terms alone; neither program keeps an average of a first stage's weights."""
    ensure_torchvision()
    from diffusers import AutoencoderKL

    for precision in dict.fromkeys(("fp32", resolve_precision("auto", "cpu"))):
        torch.manual_seed(0)
        theirs: Any = AutoencoderKL(**CODER)
        size = f"{SIDE} px, {'float32' if precision == 'fp32' else 'default'}"
        yield Contest(
            size, _our_first_stage(dict(theirs.config), precision), _diffusers_coder(theirs), "diffusers", BATCH
        )


def _our_first_stage(config: dict[str, Any], precision: str) -> Call:
    model = build_diffusers_first_stage(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = FirstStageSettings(
        seed=0,
        images=ENDLESS,
        batch=BATCH,
        learning_rate=RATE,
        warm_up=0,
        decay="constant",
        gradient_clip=CLIP,
        adversarial_from=1.0,
    )
    loss = FirstStageLoss(None, "mean", {"kl": KL_WEIGHT})
    training = FirstStageTraining(model, loss, None, images(), settings, "cpu", autocast_dtype(precision))
    training.model.train()
    return training.advance


def _diffusers_coder(model: Any) -> Call:
    """A step as diffusers' example of training its autoencoder makes it."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    pixels = torch.from_numpy(images().images)
    model.train()

    def step() -> None:
        clean = _flipped(pixels[torch.randint(len(pixels), (BATCH,))].permute(0, 3, 1, 2).float() / 127.5 - 1)
        posterior = model.encode(clean).latent_dist
        decoded = model.decode(posterior.sample()).sample
        (F.l1_loss(decoded, clean) + KL_WEIGHT * posterior.kl().mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    return step


def _flipped(batch: Tensor) -> Tensor:
    """Half of them from left to right, as ours are. Shapes: (N, C, H, W)."""
    chosen = torch.from_numpy(np.random.default_rng().random(len(batch)) < 0.5)
    return torch.where(chosen[:, None, None, None], batch.flip(3), batch)
