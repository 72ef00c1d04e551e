"""Sizes of a cell's networks, counted on the meta device: nothing is computed, no weights are initialised."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import build
from experiments.call_memory import EXTRACT, FLOAT_BYTES, META, CallMemory, decode_sample
from experiments.conditions import Vocabulary, sample_size
from experiments.stage import Estimate, Machine, Settings
from ldm.conditioning import Conditioning
from ldm.first_stage.components import MOST_IMAGES, images_to_start_from, start_from_components
from ldm.first_stage.contract import Reconstruction, ShapableFirstStage, TrainableFirstStage
from ldm.first_stage.discriminator import PatchDiscriminator
from ldm.first_stage.losses import FirstStageLoss, discriminator_loss
from ldm.first_stage.shaping import LatentBatch, Views, views_at
from ldm.first_stage.shapings import shapings_of
from ldm.metrics.distribution import SINGLE, bytes_to_compare
from ldm.pretrained import lpips
from ldm.training.diffusion import matrices_of
from ldm.training.flops import count_flops
from ldm.training.peak_memory import peak_bytes

BF16_SHARE = 0.7
"""Of what passes in float32, under bf16: normalisations and gradients stay in float32. It was 0.63 to 0.80 in trainings
of five networks of `scale=cpu`."""

STEPS_LOOKED_AT = 16
"""Of a training whose steps differ by what they decode."""


@dataclass(frozen=True)
class Step:
    """A training's step: the work of one image, and what it holds in memory.

    `passing_bytes`: of a forward and backward pass of its images in float32, the most at a time: activations, which the
    backward pass replaces by gradients. `lasting`: numbers that stay: weights, what the optimisers know of them, their
    average, and the networks that judge or teach. `starting_bytes`: the most that setting the weights by images holds,
    where they are.
    """

    work: float
    passing_bytes: int = 0
    lasting: int = 0
    starting_bytes: int = 0


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
class ImageCounts:
    """Numbers of images, and what there is to say of them; None: not known.

    `samples` are made, `kept` of them as images; they are compared with `reference`. `resolution`: of training images.
    """

    samples: int
    kept: int
    resolution: int
    known: Vocabulary
    train: int | None = None
    heldout: int | None = None
    reference: int | None = None


@dataclass(frozen=True)
class Counts:
    """What the work of a cell's stages is estimated from: FLOPs, or seconds where they were timed (`forecast`).

    `calls`: of the network for one sample. `decode`: of decoding one sample. `train_images` None: not known.
    `milestones`: of the training, at which quality is measured. `memory`: of calls, `images`: that it depends on; None
    where only time is asked for.
    """

    first_stage: FirstStageCounts
    denoiser: DenoiserCounts
    calls: int
    decode: float
    train_images: int | None
    machine: Machine
    milestones: int = 0
    memory: CallMemory | None = None
    images: ImageCounts | None = None

    def sampling(self, calls: float) -> float:
        """Of one sample: so many network calls, and its decoding."""
        return calls * self.denoiser.call + self.decode

    def holding(self, batches: Mapping[str, int]) -> int | None:
        """Bytes of calls one after the other, each of so many images at a time."""
        return None if self.memory is None else self.memory.of(batches)

    def holding_samples(self, n: int, is_guided: bool = False, judges: Sequence[str] = (EXTRACT,)) -> int | None:
        """Bytes of making n samples that these calls judge, as many at a time as the machine's batch says."""
        batch = min(n, self.machine.batch)
        called = batch * self.memory.halves if self.memory and is_guided else batch
        return self.holding({"denoise": called, "decode_sample": batch, **dict.fromkeys(judges, batch)})

    @property
    def judges(self) -> tuple[str, ...]:
        """The calls of all extractors that see samples, the plan's own first."""
        return EXTRACT, *(self.memory.others if self.memory else ())

    def comparing(self, n: int, judge: str = EXTRACT) -> int | None:
        """Bytes of comparing a judge's features of n images with the reference's, on a CPU; None: not known."""
        if self.memory is None or self.images is None or self.images.reference is None:
            return None
        if judge not in self.memory.features or self.machine.device != "cpu":
            return None
        m, d = self.images.reference, self.memory.features[judge]
        return SINGLE * (n + m) * d + bytes_to_compare(n, m, d)


def most(*found: int | None) -> int | None:
    """The largest of these; None where one is not known."""
    known = [each for each in found if each is not None]
    return max(known) if len(known) == len(found) else None


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

    with torch.no_grad():
        call = count_flops(lambda: _called(network, conditions, 1, sampled_latent_shape(config, channels)))
    return DenoiserCounts(
        denoiser=build.parameters(network),
        conditioning=build.parameters(conditions) if is_known else None,
        call=call,
        step=denoiser_step(network, conditions, shape, config["trainer"], config["data"]["resolution"]),
    )


def denoiser_step(
    network: nn.Module, conditions: Conditioning, shape: tuple[int, int, int], trainer: Mapping[str, Any], side: int
) -> Step:
    """The step of a network on the meta device that is trained on latents of `shape`, of images of this side."""

    def step(n: int) -> None:
        network.zero_grad()
        passed = build.step_of_training(trainer, network, torch.empty(n, 3, side, side, device=META))
        passed(lambda: _called(network, conditions, n, shape).sum())

    aligned = build.representation(trainer, 0, network, META)
    averaged = nn.ModuleList([network, conditions])
    trained = [*averaged.parameters(), *(aligned.parameters() if aligned is not None else ())]
    matrices = matrices_of(network) if trainer["matrix_learning_rate"] else []
    frozen = [aligned.teacher] if aligned is not None else []
    return Step(
        work=count_flops(lambda: step(1)),
        passing_bytes=peak_bytes(lambda: step(images_at_once(trainer))),
        lasting=with_moments(trained, matrices) + _numbers([averaged, *frozen]),
    )


def _called(network: nn.Module, conditions: Conditioning, n: int, shape: tuple[int, int, int]) -> Tensor:
    with META:
        x, index, given = torch.empty(n, *shape), torch.empty(n), conditions.placeholder(n, shape[1:])
    output: Tensor = network(x, index, given.context, given.concat)
    return output


def sampled_latent_shape(config: Mapping[str, Any], channels: int) -> tuple[int, int, int]:
    """The latent's shape of a sample of `samples.height` x `samples.width`."""
    height, width = (side // config["ae"]["f"] for side in sample_size(config))
    return channels, height, width


def count_sample_decoding(config: Mapping[str, Any]) -> float:
    """FLOPs of decoding one sample of a resolved config, tile by tile where it has tiles."""
    with META:
        model = build.first_stage(config["ae"], config["data"]["resolution"])
        latent = torch.empty(sampled_latent_shape(config, model.channels)).unsqueeze(0)
    with torch.no_grad():
        return count_flops(lambda: decode_sample(config, model, latent))


def images_at_once(trainer: Mapping[str, Any]) -> int:
    """Images that go through a denoiser together in training, of a resolved group `trainer`."""
    return min(trainer["micro_batch"] or trainer["batch"], trainer["batch"])


TRAINING_BYTES, CALLING_BYTES = 700_000_000, 550_000_000
"""What a process on a CPU holds beside the tensors of a stage that trains a model, and of another: libraries, images,
buffers (docs/performance.md)."""


def process_bytes(estimate: Estimate) -> int | None:
    """Bytes, roughly, of a process that makes a stage on a CPU; None where those of its tensors are not known."""
    if estimate.memory is None:
        return None
    return estimate.memory + (CALLING_BYTES if estimate.batch is None else TRAINING_BYTES)


def training_bytes(step: Step | None, precision: str) -> int | None:
    """The most memory that a training's tensors take at a time."""
    if step is None:
        return None
    passing = step.passing_bytes * (BF16_SHARE if precision == "bf16" else 1.0)
    return round(step.lasting * FLOAT_BYTES + max(passing, step.starting_bytes))


def with_moments(weights: Iterable[Tensor], matrices: Sequence[Tensor] = ()) -> int:
    """Numbers in weights, and what optimisers keep of each: one in matrices, which Muon steps, else Adam's two."""
    return 3 * sum(weight.numel() for weight in weights) - sum(matrix.numel() for matrix in matrices)


def _numbers(networks: Iterable[object]) -> int:
    """Parameters of networks; a teacher that is no module has none."""
    return sum(build.parameters(network) for network in networks if isinstance(network, nn.Module))


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
    judges: list[nn.Module] = [perceptual.to(META, torch.float32)] if isinstance(perceptual, nn.Module) else []
    criterion = build.first_stage_loss(ae, perceptual)

    training, start = ae["training"], loss["discriminator"]["start"]
    steps = math.ceil(training["images"] / training["batch"])

    def step(image: Tensor, views: Views, adversary: PatchDiscriminator | None) -> None:
        trained.zero_grad()
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

    alignment = build.alignment(ae, model.channels)
    if alignment is not None:
        alignment.place(META, torch.float32)
    trained = nn.ModuleList(part for part in (model, discriminator, alignment) if part is not None)
    side = image.shape[-1] // model.factor
    smallest = build.smallest_latent(ae, image.shape[-1])

    def views_of(n: int) -> list[tuple[float, Views]]:
        return _views_of_training(ae, LatentBatch(n, model.channels, side, smallest), steps)

    def counted(adversary: PatchDiscriminator | None) -> float:
        return sum(share * count_flops(partial(step, image, each, adversary)) for share, each in views_of(1))

    before = min(1.0, math.ceil(start * steps) / steps) if discriminator is not None else 1.0
    phases = ((before, None), (1 - before, discriminator))
    work = sum(share * counted(adversary) for share, adversary in phases if share)
    adversary = discriminator if before < 1 else None
    images = image.expand(training["batch"], -1, -1, -1).contiguous()
    frozen = [*judges, *([alignment.teacher] if alignment is not None else [])]
    matrices = [weight for weight in model.parameters() if weight.ndim == 4]
    return Step(
        work,
        max(peak_bytes(partial(step, images, each, adversary)) for _, each in views_of(len(images))),
        with_moments(trained.parameters(), matrices if training.get("matrix_learning_rate") else []) + _numbers(frozen),
        _starting_bytes(ae, model, image.shape[-1]),
    )


def _starting_bytes(ae: Mapping[str, Any], model: TrainableFirstStage, resolution: int) -> int:
    """Of components, of as many images as are looked at where there are enough; 0 where weights are only drawn."""
    if ae.get("architecture", {}).get("initialisation") != "components":
        return 0
    with META:
        images = torch.empty(images_to_start_from(MOST_IMAGES, resolution, model.factor), 3, resolution, resolution)
    return peak_bytes(lambda: start_from_components(model, images, ae["seed"]))


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
