"""Training steps of networks of the paper's size, on a GPU: ours as the stage makes them, the peer's by diffusers.

Both in bfloat16 with weights in float32, fused AdamW, an average of the weights, latents that lie on the device and
noise that is drawn there; both networks are compiled.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contest import Contest
from benchmarks.timing import Call
from experiments import build
from experiments.compose import composed, settings_only
from experiments.data_facts import DataFacts
from experiments.generate import wait_for
from experiments.plan import make_plan
from experiments.stages import STAGES
from ldm.conditioning import ClassConditioning
from ldm.denoiser.dit import DiT
from ldm.diffusion import DenoisingModel
from ldm.interop import dit_weights
from ldm.interop.diffusers_denoiser import diffusers_unet_state, unet_config
from ldm.memory import moved
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.randomness import Noise
from ldm.training.compiled import compiled
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining
from ldm.training.flops import count_flops

CLASSES, LATENTS = 1000, 4096


def ldm4(device: str) -> Iterator[Contest]:
    """LDM-4 of Table 13, latents 64 x 64 x 3 of 256 px."""
    return step_contests("256 px, f = 4", ("ae.f=4",), 64, device)


def ldm8(device: str) -> Iterator[Contest]:
    """LDM-8 of Table 13, latents 32 x 32 x 4 of 256 px."""
    return step_contests("256 px, f = 8", ("ae.f=8",), 128, device)


def dit_xl(device: str) -> Iterator[Contest]:
    """DiT-XL/2 of Peebles and Xie 2022, latents 32 x 32 x 4 of 256 px."""
    overrides = ("ae.f=8", "denoiser=dit", "denoiser.size=XL", "denoiser.patch=2")
    return step_contests("256 px, f = 8", overrides, 128, device)


def step_contests(
    size: str, overrides: tuple[str, ...], batch: int, device: str, scale: str = "paper", is_compiled: bool = True
) -> Iterator[Contest]:
    """A step of the class-conditional model of a scale under these overrides."""
    both = both_models(overrides, device, scale)
    data = ResidentLatents((both.channels, both.side, both.side), device)
    training = DiffusionTraining(both.model, both.conditions, data, _settings(both.config, batch))
    training.trained.train()
    flops = count_flops(training.accumulate_gradients)
    call = torch.compile(both.peer) if is_compiled else both.peer
    peer = _peer_step(call, both.peer, both.model.schedule.steps, data, batch, both.config["precision"])
    with compiled([both.model.network], "always" if is_compiled else "never", device, 1):
        yield Contest(size, _done(training.advance, device), _done(peer, device), "diffusers", batch, flops=flops)


@dataclass(frozen=True)
class Both:
    """A model of this program, the same network of diffusers with the same weights, and the resolved config."""

    model: DenoisingModel
    conditions: ClassConditioning
    peer: nn.Module
    config: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.config["ae"]["channels"])

    @property
    def side(self) -> int:
        """Of the latents."""
        return int(self.config["data"]["resolution"] // self.config["ae"]["f"])


def both_models(overrides: tuple[str, ...], device: str, scale: str = "paper") -> Both:
    """The class-conditional model of a scale under these overrides, for a thousand classes."""
    ensure_torchvision()
    facts = DataFacts("made up", "made up", LATENTS, 0, tuple(f"class {i}" for i in range(CLASSES)))
    settings = settings_only(composed([f"scale={scale}", f"device={device}", "conditioning=class", *overrides]))
    config = make_plan(settings, facts, STAGES).config
    ae, side = config["ae"], config["data"]["resolution"] // config["ae"]["f"]
    build.prepare_device(device)
    model, conditions = build.denoising_model(config, ae, side, facts.vocabulary(()), device)
    assert isinstance(conditions, ClassConditioning)
    return Both(model, conditions, peer_of(model.network, conditions, side).to(device), config)


class ResidentLatents:
    """Latents of noise and classes that lie on the device."""

    def __init__(self, shape: tuple[int, int, int], device: str) -> None:
        self.all = torch.randn(LATENTS, *shape, device=device)
        self.labels = torch.randint(CLASSES, (LATENTS,), device=device)

    def __len__(self) -> int:
        return LATENTS

    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        """Those of the indices. Shapes: (N,); (N, C, h, w)."""
        return self.all[moved(indices, self.all.device)]

    def fields(self, indices: Tensor, draw: Any) -> Mapping[str, Tensor]:
        """Their classes. Shapes: (N,); (N,)."""
        return {"label": self.labels[moved(indices, self.all.device)]}


def _settings(config: Mapping[str, Any], batch: int) -> DiffusionSettings:
    trainer = config["trainer"]
    return DiffusionSettings(
        seed=0,
        images=10**9,
        batch=batch,
        learning_rate=trainer["learning_rate"],
        warm_up=0,
        weight_decay=trainer["weight_decay"],
        gradient_clip=1.0,
        ema_half_life=1e6,
        condition_dropout=config["conditioning"]["dropout"],
        noise="philox",
    )


class _Told(nn.Module):
    """A UNet of diffusers with the table of its classes."""

    def __init__(self, unet: nn.Module, table: nn.Embedding) -> None:
        super().__init__()
        self.unet, self.table = unet, table

    def forward(self, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Shapes: x (N, C, h, w), index and label (N,); result as x."""
        found: Tensor = self.unet(x, index, encoder_hidden_states=self.table(label)[:, None]).sample
        return found


class _Steered(nn.Module):
    """A transformer of diffusers, which holds its classes itself."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, index: Tensor, label: Tensor) -> Tensor:
        """Shapes: x (N, C, h, w), index and label (N,); result as x."""
        found: Tensor = self.transformer(x, index, class_labels=label).sample
        return found


def peer_of(network: nn.Module, conditions: ClassConditioning, side: int) -> nn.Module:
    """diffusers' class of the same network with the same weights."""
    import diffusers

    from ldm.interop.exported import grouped_unet

    table = conditions.embedding.weight.detach()
    if isinstance(network, DiT):
        config = dit_weights.diffusers_config(network, side, len(table) - 1)
        theirs = getattr(diffusers, config.pop("_class_name"))(**config)
        theirs.load_state_dict(dit_weights.diffusers_state(network, table))
        return _Steered(theirs)
    config = unet_config(network, side)  # type: ignore[arg-type]
    name = config.pop("_class_name")
    theirs = getattr(diffusers, name, None) or getattr(grouped_unet, name)
    unet = theirs(**config)
    unet.load_state_dict(diffusers_unet_state(network))  # type: ignore[arg-type]
    return _Told(unet, nn.Embedding.from_pretrained(table.clone(), freeze=False))


def _peer_step(
    call: Callable[..., Tensor], module: nn.Module, levels: int, data: ResidentLatents, batch: int, precision: str
) -> Call:
    """As diffusers' examples train; `call` is the compiled `module`."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    device = data.all.device
    scheduler: Any = DDPMScheduler(num_train_timesteps=levels)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    average = EMAModel(module.parameters(), decay=0.9999, foreach=True)
    module.train()

    def step() -> None:
        indices = torch.randint(LATENTS, (batch,), device=device)
        clean, label = data.all[indices], data.labels[indices]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, levels, (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            predicted = call(scheduler.add_noise(clean, noise, timesteps), timesteps, label)
        F.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.step(module.parameters())

    return step


def _done(step: Call, device: str) -> Call:
    """The step, to its end on the device."""

    def call() -> None:
        step()
        wait_for(device)

    return call
