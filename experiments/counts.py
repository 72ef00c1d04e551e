"""Sizes of a cell's networks, counted on the meta device: nothing is computed, no weights are initialised."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import build
from experiments.conditions import Vocabulary, sample_size
from experiments.stage import Estimate, Machine, Settings
from ldm.first_stage.contract import Reconstruction, ShapableFirstStage, TrainableFirstStage
from ldm.first_stage.discriminator import PatchDiscriminator
from ldm.first_stage.losses import FirstStageLoss, discriminator_loss
from ldm.first_stage.shaping import LatentBatch, Views, views_at
from ldm.first_stage.shapings import shapings_of
from ldm.first_stage.tiled import decode_tiled
from ldm.pretrained import lpips
from ldm.training.flops import count_flops

META = torch.device("meta")
FLOAT_BYTES = 4
STEPS_LOOKED_AT = 16
"""Of a training whose steps differ by what they decode."""

TRAINED_COPIES = 4
"""Weights, gradients and Adam's two moments; an EMA is one more."""


@dataclass(frozen=True)
class Step:
    """One training image's forward and backward pass: its work, and bytes kept for the backward pass in float32."""

    work: float
    activation_bytes: int


@dataclass(frozen=True)
class FirstStageCounts:
    """Sizes of a first stage; all zero at f = 1.

    `step` is averaged over the training, the discriminator taking part from its start; None where nothing is trained,
    or the perceptual network's weights are not on this machine. `encode` and `decode` are FLOPs an image.
    """

    parameters: Mapping[str, int]
    latent_shape: tuple[int, int, int]
    encode: float
    decode: float
    step: Step | None


@dataclass(frozen=True)
class DenoiserCounts:
    """Sizes of the denoiser and its conditioning; `call` = FLOPs of one call of the network for one sample of its size.

    The conditioning's parameters are None where what it can name is not known.
    """

    denoiser: int
    conditioning: int | None
    call: float
    step: Step


@dataclass(frozen=True)
class Counts:
    """What the work of a cell's stages is estimated from: FLOPs, or seconds where they were timed (`forecast`).

    `calls`: of the network for one sample. `decode`: of decoding one sample. `train_images` None: not known.
    `milestones`: of the training, at which quality is measured.
    """

    first_stage: FirstStageCounts
    denoiser: DenoiserCounts
    calls: int
    decode: float
    train_images: int | None
    machine: Machine
    milestones: int = 0

    def sampling(self, calls: float) -> float:
        """Of one sample: so many network calls, and its decoding."""
        return calls * self.denoiser.call + self.decode


def training_estimate(training: Settings, work: float | None, memory: int | None) -> Estimate:
    """The work of a training with these settings, given that of one image's step."""
    steps = math.ceil(training["images"] / training["batch"])
    seen = steps * training["batch"]
    return Estimate(seen, None if work is None else seen * work, training["batch"], memory)


def count_first_stage(ae: Mapping[str, Any], resolution: int) -> FirstStageCounts:
    """Counts of the first stage of a resolved `ae` group."""
    with META:
        model = build.first_stage(ae, resolution)
        image = torch.empty(1, 3, resolution, resolution)
        side = resolution // model.factor
        latent = torch.empty(1, model.channels, side, side)
    shape = (model.channels, side, side)
    if model.factor == 1:
        return FirstStageCounts(
            dict.fromkeys(("encoder", "decoder", "bottleneck", "discriminator"), 0), shape, 0, 0, None
        )
    with META:
        discriminator = build.discriminator(ae, resolution) if build.is_trained(ae) else None
    parameters = build.first_stage_parameters(model, discriminator)
    with torch.no_grad():
        encode = count_flops(lambda: model.encode(image))
        decode = count_flops(lambda: model.decode_counted(latent))
    step = None
    if build.is_trained(ae):
        with META:
            trained = build.first_stage(build.whole(ae), resolution)
        assert isinstance(trained, TrainableFirstStage)
        step = _first_stage_step(ae, trained, discriminator, image)
    return FirstStageCounts(parameters, shape, encode, decode, step)


def count_denoiser(
    config: Mapping[str, Any], shape: tuple[int, int, int], known: Vocabulary, is_known: bool = True
) -> DenoiserCounts:
    """Counts of the diffusion model of a resolved config, trained on latents of `shape`.

    With `is_known=False` the vocabulary is only a stand-in, and the conditioning's parameters are not told.
    """
    channels, side, _ = shape
    with META:
        conditions = build.conditioning(config["conditioning"], known, config["ae"])
        network = build.denoiser(config["denoiser"], channels, side, conditions)
        x, index, given = torch.empty(1, channels, side, side), torch.empty(1), conditions.placeholder(1, (side, side))
        shown = sampled_latent_shape(config, channels)
        sample, asked = torch.empty(1, *shown), conditions.placeholder(1, shown[1:])

    def called() -> Tensor:
        return network(x, index, given.context, given.concat)

    resolution = config["data"]["resolution"]
    step = build.step_of_training(config["trainer"], network, torch.empty(1, 3, resolution, resolution, device=META))
    with torch.no_grad():
        call = count_flops(lambda: network(sample, index, asked.context, asked.concat))
    return DenoiserCounts(
        denoiser=build.parameters(network),
        conditioning=build.parameters(conditions) if is_known else None,
        call=call,
        step=Step(
            work=count_flops(lambda: step(lambda: called().sum())),
            activation_bytes=_saved_bytes(called, _of(network)),
        ),
    )


def sampled_latent_shape(config: Mapping[str, Any], channels: int) -> tuple[int, int, int]:
    """The latent's shape of a sample of `samples.height` x `samples.width`."""
    height, width = (side // config["ae"]["f"] for side in sample_size(config))
    return channels, height, width


def count_sample_decoding(config: Mapping[str, Any]) -> float:
    """FLOPs of decoding one sample of a resolved config, tile by tile where it has tiles."""
    tiling = build.tiling(config["samples"])
    with META:
        model = build.first_stage(config["ae"], config["data"]["resolution"])
        latent = torch.empty(sampled_latent_shape(config, model.channels)).unsqueeze(0)
    decode = model.decode_counted
    with torch.no_grad():
        if tiling is None:
            return count_flops(lambda: decode(latent))
        return count_flops(lambda: list(decode_tiled(decode, latent, model.factor, tiling)))


def training_bytes(
    parameters: int, step: Step | None, images_at_once: int, precision: str, has_ema: bool
) -> int | None:
    """Rough memory of a training: weights, gradients, Adam, EMA in float32, activations in half of it under bf16."""
    if step is None:
        return None
    copies = TRAINED_COPIES + (1 if has_ema else 0)
    share = 0.5 if precision == "bf16" else 1.0
    return round(parameters * FLOAT_BYTES * copies + step.activation_bytes * images_at_once * share)


def lpips_file(network: str, path: str | None) -> Path:
    """Where LPIPS finds its convolution weights without a download; the file need not exist."""
    if path:
        return Path(path).expanduser()
    return Path(torch.hub.get_dir()) / "checkpoints" / lpips.trunk(network).url.rpartition("/")[2]


def _first_stage_step(
    ae: Mapping[str, Any], model: TrainableFirstStage, discriminator: PatchDiscriminator | None, image: Tensor
) -> Step | None:
    loss = ae["loss"]
    network = loss["perceptual"].removeprefix("lpips_")
    if network in lpips.TRUNKS and not lpips_file(network, loss["perceptual_path"]).is_file():
        return None
    perceptual = build.perceptual_loss(loss)
    networks = [model, *([perceptual] if isinstance(perceptual, nn.Module) else [])]
    if isinstance(perceptual, nn.Module):
        perceptual.to(META, torch.float32)
    criterion = build.first_stage_loss(ae, perceptual)

    training, start = ae["training"], loss["discriminator"]["start"]
    steps = math.ceil(training["images"] / training["batch"])

    def step(adversary: PatchDiscriminator | None, views: Views) -> None:
        result, seen = _passed(model, image, views), views.image(image)
        if adversary is not None:
            adversary.requires_grad_(False)
        terms = criterion.generator_terms(
            seen, result.image, result.regularisation, last_layer=model.last_layer, discriminator=adversary
        )
        total = terms.total
        for weight, view in views.beside.values():
            assert isinstance(criterion, FirstStageLoss)
            assert result.whole is not None
            again = model.decode_counted(view.latent(result.whole))
            total = total + weight * criterion.reconstruction(view.image(image), again)
        if alignment is not None:
            assert isinstance(model, ShapableFirstStage)
            assert result.whole is not None
            term, layer = alignment(result.whole, image), model.encoder_layer
            of_term = torch.autograd.grad(term, layer, retain_graph=True)[0]
            total = total + alignment.weight(terms.nll_gradient(result.image, layer), of_term) * term
        total.backward()
        if adversary is not None:
            adversary.requires_grad_(True)
            discriminator_loss(adversary(seen), adversary(result.image.detach())).backward()

    def forward() -> Tensor:
        result = model.forward_counted(image)
        return criterion.generator_terms(image, result.image, result.regularisation).total

    alignment = build.alignment(ae, model.channels)
    if alignment is not None:
        alignment.place(META, torch.float32)
    latents = LatentBatch(
        1, model.channels, image.shape[-1] // model.factor, build.smallest_latent(ae, image.shape[-1])
    )
    views = _views_of_training(ae, latents, steps)

    def counted(adversary: PatchDiscriminator | None) -> float:
        return sum(share * count_flops(partial(step, adversary, each)) for share, each in views)

    before = min(1.0, math.ceil(start * steps) / steps) if discriminator is not None else 1.0
    phases = ((before, None), (1 - before, discriminator))
    work = sum(share * counted(adversary) for share, adversary in phases if share)
    return Step(work, _saved_bytes(forward, _of(*networks)))


def _passed(model: TrainableFirstStage, image: Tensor, views: Views) -> Reconstruction:
    return (
        model.forward_counted(image, views.latent)
        if isinstance(model, ShapableFirstStage)
        else model.forward_counted(image)
    )


def _views_of_training(ae: Mapping[str, Any], latents: LatentBatch, steps: int) -> list[tuple[float, Views]]:
    """Views that cost differently, each with its share of the training, of which the first steps are looked at."""
    shapings = shapings_of(ae)
    looked_at = range(min(steps, STEPS_LOOKED_AT) if shapings else 1)
    drawn = [views_at(shapings, latents, ae["seed"], step) for step in looked_at]
    counts = Counter(views.sides for views in drawn)
    return [(counts[sides] / len(drawn), views) for sides, views in {each.sides: each for each in drawn}.items()]


def _of(*networks: nn.Module) -> set[int]:
    return {id(parameter) for network in networks for parameter in network.parameters()}


def _saved_bytes(forward: Callable[[], Tensor], parameters: set[int]) -> int:
    """Bytes of what autograd keeps of a forward pass, weights left out, every storage once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())
