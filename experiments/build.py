"""From stage configs to objects of the library: the only place that knows both."""

from __future__ import annotations

import functools
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments import custom, published, trials
from experiments.conditions import BuildContext, Encode, tau_theta
from experiments.data_facts import Vocabulary
from experiments.tables import options_of_denoiser
from ldm.conditioning import Conditioning
from ldm.data.contract import ImageCache
from ldm.diffusion import DenoisingModel, Guidance, Schedule, make_schedule
from ldm.diffusion.times import UNIFORM, TimeDensity, make_times
from ldm.errors import UserError
from ldm.first_stage.alignment import Alignment, AlignmentTerm
from ldm.first_stage.build import FIRST_STAGES, build_first_stage, build_first_stage_loss, options_in
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.discriminator import PatchDiscriminator, layers_for, smallest_side_for
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.losses import FirstStageLoss, OwnLoss
from ldm.first_stage.perceptual import PerceptualLoss, load_perceptual_loss, smallest_image
from ldm.first_stage.shapings import shapings_of
from ldm.first_stage.tiled import Tiling
from ldm.metrics.clip_score import load_clip_score
from ldm.metrics.extractors import check_extractor, load_extractor
from ldm.metrics.features import Extractor
from ldm.metrics.perceptual import perceptual_distances
from ldm.parts import checked
from ldm.probes import Probe, build_probe
from ldm.randomness import derived_seed
from ldm.samplers import Sampler, build_sampler, shifted, time_grid
from ldm.training import precision as precision_rule
from ldm.training.representation import GROUP as REPRESENTATION
from ldm.training.representation import Representation, RepresentationTerm, check_shown

NESTED = "nested"
"""The setting of a first stage from which others are cut; a resolved group has it only where it is one of them."""

AUTO = "auto"
"""The value of guidance.scale and of trainer.learning_rate that asks for a stage of its own to find it."""


def command_line() -> str:
    """The command that started this process, to be repeated."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def resolve_device(policy: str) -> str:
    """ "cpu" or "cuda". Raises UserError for another; whether it is there is asked where it is used."""
    if policy == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if policy not in ("cpu", "cuda"):
        raise UserError(f"device={policy} is none of auto, cpu, cuda")
    return policy


def prepare_device(device: str) -> None:
    """Raises UserError for a GPU that is not there; float32 means float32, so TF32 is off."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch finds no GPU here; use device=cpu, or install a CUDA build of torch")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def resolve_precision(policy: str, device: str) -> str:
    """See `ldm.training.precision`; raises UserError for an unknown policy."""
    try:
        return precision_rule.resolve_precision(policy, device)
    except ValueError as error:
        raise UserError(str(error)) from error


def first_stage(ae: Mapping[str, Any], resolution: int) -> FirstStage:
    """A first stage with its initial weights, a function of `ae.seed`, or the one that was given."""
    if published.is_given(ae):
        return published.first_stage(ae)
    torch.manual_seed(derived_seed(ae["seed"], "first_stage"))
    if custom.is_custom(ae):
        return custom.first_stage(ae, resolution)
    architecture = ae.get("architecture", {})
    return build_first_stage(
        regulariser=ae["regulariser"],
        factor=ae["f"],
        channels=ae["channels"],
        ch=architecture.get("ch", 0),
        ch_mult=architecture.get("ch_mult", ()),
        num_res_blocks=architecture.get("num_res_blocks", 0),
        resolution=resolution,
        attn_sides=architecture.get("attention_sides") or (),
        mid_attention=architecture.get("mid_attention", True),
        dropout=architecture.get("dropout", 0.0),
        options=options_in(ae),
        initialisation=architecture.get("initialisation", "reference"),
        is_nested=NESTED in ae,
        family=architecture.get("family", "reference"),
    )


def whole(ae: Mapping[str, Any]) -> Mapping[str, Any]:
    """The resolved group of the first stage that is trained: of nested channels all, whichever of them are used."""
    return {**ae, "channels": ae[NESTED][-1]} if NESTED in ae else ae


def is_trained(ae: Mapping[str, Any]) -> bool:
    """Whether a resolved group `ae` is one to train: neither the identity nor given."""
    return "training" in ae


def is_drawn(ae: Mapping[str, Any]) -> bool:
    """Whether latents of a resolved group `ae` are draws from posteriors, as the class of its regulariser says."""
    if custom.is_custom(ae):
        return bool(getattr(custom.load(ae["target"], "ae.target").part, "is_drawn", False))
    named = FIRST_STAGES.get(ae["regulariser"])  # tiny autoencoders, which are given, have none of these
    return named is not None and named.is_drawn


def tiling(samples: Mapping[str, Any]) -> Tiling | None:
    """The tiles that samples are decoded in; None where they are decoded whole."""
    return None if samples["tile"] is None else Tiling(samples["tile"], samples["overlap"])


def perceptual_loss(loss: Mapping[str, Any]) -> PerceptualLoss | None:
    """The perceptual term that `ae.loss.perceptual` names. Raises UserError for an unknown name or missing weights."""
    path = loss["perceptual_path"]
    return load_perceptual_loss(loss["perceptual"], Path(path) if path else None)


def first_stage_loss(ae: Mapping[str, Any], perceptual: PerceptualLoss | None) -> FirstStageLoss | OwnLoss:
    """The loss of a resolved group `ae`, with the penalties and the reduction of its regulariser."""
    if custom.is_custom(ae):
        return custom.first_stage_loss(ae, perceptual)
    loss = ae["loss"]
    weights = loss["perceptual_weight"], loss["discriminator"]["weight"]
    return build_first_stage_loss(ae["regulariser"], options_in(ae), perceptual, *weights)


def alignment(ae: Mapping[str, Any], channels: int) -> AlignmentTerm | None:
    """What aligns latents of so many channels, with initial weights that are a function of `ae.seed`; None where off.

    Raises: UserError where the teacher's weights cannot be had.
    """
    found = [each for each in shapings_of(ae) if isinstance(each, Alignment)]
    if not found:
        return None
    torch.manual_seed(derived_seed(ae["seed"], "alignment"))
    return AlignmentTerm(found[0], channels, found[0].load_teacher())


def discriminator(ae: Mapping[str, Any], resolution: int) -> PatchDiscriminator | None:
    """The discriminator with its initial weights, a function of `ae.seed`; None where it never takes part."""
    settings = ae["loss"]["discriminator"]
    if not _takes_part(settings):
        return None
    torch.manual_seed(derived_seed(ae["seed"], "discriminator"))
    layers = settings["layers"] or layers_for(resolution)
    return PatchDiscriminator(settings["channels"], layers, settings["norm"])


def _takes_part(discriminator: Mapping[str, Any]) -> bool:
    return bool(discriminator["start"] < 1 and discriminator["weight"] != 0)


def smallest_latent(ae: Mapping[str, Any], resolution: int) -> int:
    """The smallest side of latents whose images the networks of the loss of a first stage in training can take."""
    settings, pixels = ae["loss"]["discriminator"], smallest_image(ae["loss"]["perceptual"])
    if _takes_part(settings):
        pixels = max(pixels, smallest_side_for(settings["layers"] or layers_for(resolution)))
    return math.ceil(pixels / ae["f"])


def encoder_of(first_stage: FirstStage, scale: LatentScale) -> Encode:
    """What brings images to normalised latents, without drawing from posteriors."""
    return lambda image: scale.normalise(first_stage.latent(first_stage.pack(first_stage.encode(image))))


def conditioning(
    settings: Mapping[str, Any],
    known: Vocabulary,
    ae: Mapping[str, Any],
    device: str = "cpu",
    encode: Encode | None = None,
) -> Conditioning:
    """tau_theta of a resolved group `conditioning`, for data with that vocabulary and a first stage with that f.

    `encode` is needed where inpainting is to run, not where networks are only built. Raises: UserError for what cannot
    be built.
    """
    context = BuildContext(known, ae["f"], ae["channels"], device, encode or _no_encoder)
    return (published.conditioning if published.is_given(settings) else tau_theta)(settings, context)


def _no_encoder(image: torch.Tensor) -> torch.Tensor:
    raise ValueError("this conditioning was built to be counted, without a first stage")


def denoiser(settings: Mapping[str, Any], channels: int, side: int, conditions: Conditioning) -> nn.Module:
    """The network for latents of `channels` and `side`, or the one that was given."""
    if published.is_given(settings):
        return published.denoiser(settings)
    options = options_of_denoiser(settings)
    told = {"tokens": conditions.tokens} if getattr(options, "counts_tokens", False) else {}
    return options.build(
        in_channels=channels + conditions.concat_channels,
        out_channels=channels,
        latent_side=side,
        context_dim=conditions.context_dim,
        **told,
    )


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The noise schedule. Raises UserError for an unknown name, or betas where it has none."""
    if published.is_given(settings):
        return published.schedule(settings)
    shift = settings.get("shift", 1.0)
    return make_schedule(settings["schedule"], settings["beta_start"], settings["beta_end"], shift)


def times(settings: Mapping[str, Any]) -> TimeDensity:
    """How often training draws each noise level, of a resolved group `diffusion`. Raises UserError for what is not."""
    if "times" not in settings:
        return UNIFORM
    return make_times(settings["times"], *(settings[f"times_{key}"] for key in ("mean", "std", "unbiased")))


def denoising_model(
    config: Mapping[str, Any],
    ae: Mapping[str, Any],
    side: int,
    known: Vocabulary,
    device: str,
    encode: Encode | None = None,
) -> tuple[DenoisingModel, Conditioning]:
    """The model of a diffusion stage's config with its initial weights, a function of `seed`, and its conditioning.

    `ae` is the resolved group of its first stage (f and channels are read), `side` the latent's.
    """
    torch.manual_seed(derived_seed(config["seed"], "diffusion"))
    conditions = conditioning(config["conditioning"], known, ae, device, encode)
    network = denoiser(config["denoiser"], ae["channels"], side, conditions)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = precision_rule.autocast_dtype(config["precision"])
    diffusion = config["diffusion"]
    weighting = diffusion.get("weighting", "plain")
    output = diffusion.get("output")
    model = DenoisingModel(network, schedule(diffusion), diffusion["target"], dtype, weighting, output)
    return model, conditions.to(device)


def representation(
    trainer: Mapping[str, Any],
    seed: int,
    network: nn.Module,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
) -> RepresentationTerm | None:
    """What aligns a denoiser's hidden features, with initial weights that are a function of `seed`; None where off.

    Its teacher computes in `dtype` (None: float32). Raises: UserError where the teacher's weights cannot be had.
    """
    options = _representation(trainer)
    if options is None:
        return None
    torch.manual_seed(derived_seed(seed, "representation"))
    term = RepresentationTerm(options, network, options.load_teacher())
    term.place(device, dtype or torch.float32)
    return term


def step_of_training(
    trainer: Mapping[str, Any], network: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None
) -> Callable[[Callable[[], torch.Tensor]], None]:
    """Both passes of images, given what calls the network and sums what it gives, to be counted or timed.

    Shapes: images (N, 3, H, W).
    """
    term = representation(trainer, 0, network, images.device, dtype)

    def step(called: Callable[[], torch.Tensor]) -> None:
        if term is None:
            called().backward()
            return
        with term.watched():
            output = called()
        (output + term(images).sum()).backward()

    return step


def _representation(trainer: Mapping[str, Any]) -> Representation | None:
    given = trainer.get("representation")
    return None if given is None else checked(Representation, given, REPRESENTATION)


def sampler(settings: Mapping[str, Any], noise_schedule: Schedule) -> Sampler:
    """The sampler that `sampler=` chose. Raises UserError for an unknown name, or an option that is not allowed."""
    if custom.is_custom(settings):
        return custom.sampler(settings, noise_schedule)
    return build_sampler(settings["name"], noise_schedule, settings)


def guidance(settings: Mapping[str, Any]) -> Guidance:
    """Classifier-free guidance of a resolved `guidance` group."""
    low, high = settings.get("interval") or (0.0, 1.0)
    return Guidance(settings["scale"], (low, high), settings.get("rescale", 0.0))


def extractor(settings: Mapping[str, Any], device: str) -> Extractor:
    """The network that judges, loaded once a process. Raises UserError where its weights cannot be had."""
    if custom.is_custom(settings):
        return custom.extractor(settings, device)
    return _extractor(settings["name"], settings["weights"], settings["precision"], device)


@functools.lru_cache
def _extractor(name: str, weights: str | None, precision: str, device: str) -> Extractor:
    dtype = precision_rule.autocast_dtype(precision) or torch.float32
    return load_extractor(name, Path(weights).expanduser() if weights else None, device, dtype)


PROBE_SETTINGS = ("side", "width", "images", "batch", "learning_rate")
"""What a scale says of every probe: sizes and training; all else are arguments that only one kind has."""


def probe(kind: str, settings: Mapping[str, Any], images: ImageCache, seed: int, device: str) -> Probe:
    """The probe of a kind with its initial weights, a function of the seed.

    Raises: UserError where these images cannot train it.
    """
    options = {key: value for key, value in settings.items() if key not in PROBE_SETTINGS}
    found = build_probe(kind, settings["side"], settings["width"], images, seed, options)
    found.network.to(device)
    return found


@functools.lru_cache
def check_task_weights(clip: str | None, lpips_path: str | None) -> None:
    """Raises UserError where the weights of these judges cannot be had."""
    if clip is not None:
        load_clip_score(Path(clip).expanduser(), "cpu")
    perceptual_distances(lpips_path)


@functools.lru_cache
def check_extractor_weights(name: str, weights: str | None) -> None:
    """Raises UserError where an extractor's weights cannot be had."""
    check_extractor(name, Path(weights).expanduser() if weights else None)


@functools.lru_cache
def check_perceptual_weights(perceptual: str, perceptual_path: str | None) -> None:
    """Raises UserError where the perceptual loss's weights cannot be had."""
    perceptual_loss({"perceptual": perceptual, "perceptual_path": perceptual_path})


@functools.lru_cache
def _check_teacher(options: Alignment | Representation) -> None:
    options.load_teacher()


def check_teacher_weights(config: Mapping[str, Any]) -> None:
    """Raises UserError where the weights of a teacher of latents or of hidden features cannot be had."""
    for each in (*shapings_of(config["ae"]), _representation(config["trainer"])):
        if isinstance(each, Alignment | Representation):
            _check_teacher(each)


def check_networks(config: Mapping[str, Any], known: Vocabulary) -> None:
    """Builds the networks of a resolved config without memory, and tries the parts that are the user's own.

    Raises: UserError where their sizes do not fit, or a part breaks its contract.
    """
    ae, resolution, side = config["ae"], config["data"]["resolution"], config["data"]["resolution"] // config["ae"]["f"]
    if custom.is_custom(ae):
        _try_first_stage(json.dumps(ae, sort_keys=True), resolution)
    conditions, network = _networks_of(config, known)
    if custom.is_custom(config["denoiser"]):
        where = f"denoiser.target={config['denoiser']['target']}"
        trials.denoiser(network, conditions, ae["channels"], side, where)
    if (aligned := _representation(config["trainer"])) is not None:
        check_shown(network, aligned.teacher)
        _try_representation(config["trainer"], network, conditions, (ae["channels"], side, side), resolution)
    if config["guidance"]["scale"] != 1 and "milestone" not in config["guidance"]:
        published.check_null(conditions)
    levels = schedule(config["diffusion"])
    times(config["diffusion"]).weights(levels.steps)
    found, grid = sampler(config["sampler"], levels), time_grid_of(config["sampler"], levels)
    if custom.is_custom(config["sampler"]):
        trials.sampler(found, grid, f"sampler.target={config['sampler']['target']}")
    metrics = config["metrics"]
    if custom.is_custom(metrics):
        trials.extractor(custom.extractor(metrics, "cpu"), f"metrics.target={metrics['target']}")
    for extra, measure in zip(metrics["extra"], custom.measures(metrics["extra"]), strict=True):
        trials.measure(measure, f"metrics.extra={extra['target']}")


def _try_representation(
    trainer: Mapping[str, Any],
    network: nn.Module,
    conditions: Conditioning,
    shape: tuple[int, int, int],
    resolution: int,
) -> None:
    """Raises: UserError where the hidden features that a network shows are not what it says."""
    with torch.device("meta"):
        x, index, images = torch.empty(1, *shape), torch.empty(1), torch.empty(1, 3, resolution, resolution)
        given = conditions.placeholder(1, shape[1:])
    step_of_training(trainer, network, images)(lambda: network(x, index, given.context, given.concat).sum())


def _networks_of(config: Mapping[str, Any], known: Vocabulary) -> tuple[Conditioning, nn.Module]:
    """Conditioning and denoiser without memory, after the first stage; cells of a sweep that share them have them once.

    Those of files and of the user's own, which may change, are built anew. Raises: UserError where their sizes do not
    fit.
    """
    groups = {name: config[name] for name in ("ae", "conditioning", "denoiser")}
    if "seed" in groups["ae"]:
        groups["ae"] = {**groups["ae"], "seed": 0}  # there are no weights that could differ
    own = any(custom.is_custom(group) or published.is_given(group) for group in groups.values())
    build = _built.__wrapped__ if own else _built
    found: tuple[Conditioning, nn.Module] = build(json.dumps(groups), config["data"]["resolution"], known)
    return found


@functools.lru_cache(maxsize=64)
def _built(groups: str, resolution: int, known: Vocabulary) -> tuple[Conditioning, nn.Module]:
    ae, conditions, network = json.loads(groups).values()
    with torch.device("meta"):
        first_stage(ae, resolution)
        found = conditioning(conditions, known, ae)
        return found, denoiser(network, ae["channels"], resolution // ae["f"], found)


@functools.lru_cache
def _try_first_stage(settings: str, resolution: int) -> None:
    ae = json.loads(settings)
    loss = first_stage_loss(ae, None) if is_trained(ae) else None
    trials.first_stage(first_stage(ae, resolution), loss, ae, resolution)


def time_grid_of(settings: Mapping[str, Any], noise_schedule: Schedule) -> torch.Tensor:
    """The noise levels that a sampler visits. Raises UserError for an unknown spacing or end, or too many steps."""
    times = time_grid(settings["spacing"], settings["steps"], settings["final"], noise_schedule)
    shift = settings.get("shift")
    return times if shift is None else shifted(times, noise_schedule, shift)


def parameters(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


def first_stage_parameters(model: FirstStage, discriminator: PatchDiscriminator | None) -> dict[str, int]:
    """Parameters of the networks that a user runs, of what lies between them, and of the discriminator.

    A first stage of another program may hold its encoder and decoder at any depth.
    """
    counts = dict.fromkeys(("encoder", "decoder", "bottleneck"), 0)
    for name, parameter in model.named_parameters():
        place = next((part for part in name.split(".") if part in ("encoder", "decoder")), "bottleneck")
        counts[place] += parameter.numel()
    return {**counts, "discriminator": parameters(discriminator) if discriminator else 0}
