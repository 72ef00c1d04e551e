"""From stage configs to objects of the library: the only place that knows both."""

from __future__ import annotations

import bisect
import functools
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from experiments import published
from experiments.conditions import CONDITIONS, Vocabulary
from experiments.resolve import AUTO, denoiser_settings, options_of_denoiser
from ldm.conditioning import (
    ClassConditioning,
    CombinedConditioning,
    Conditioning,
    FrozenTextConditioning,
    InpaintingConditioning,
    LayoutConditioning,
    SemanticConditioning,
    SuperResolutionConditioning,
    TextConditioning,
    Unconditional,
)
from ldm.data import fields as data_fields
from ldm.data.contract import ImageCache
from ldm.data.degradation import Degradation
from ldm.data.fields import FieldMaker, Fields
from ldm.denoiser import UNetOptions
from ldm.diffusion import DenoisingModel, Guidance, Schedule, make_schedule
from ldm.diffusion.schedule import STEPS
from ldm.errors import UserError
from ldm.first_stage.build import build_first_stage
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.discriminator import PatchDiscriminator, layers_for
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.losses import FirstStageLoss
from ldm.first_stage.perceptual import PerceptualLoss, load_perceptual_loss
from ldm.first_stage.tiled import Tiling
from ldm.metrics.clip_score import load_clip_score
from ldm.metrics.extractors import check_extractor, load_extractor
from ldm.metrics.features import Extractor
from ldm.metrics.reconstruction import FeatureDistance, PerceptualDistance
from ldm.parts import defaults_of
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.text import PretrainedText, Tokeniser, bert_tokeniser, pretrained_text
from ldm.probes import Probe, build_probe
from ldm.randomness import derived_seed
from ldm.samplers import Sampler, asked_levels, build_sampler, time_grid
from ldm.training import precision as precision_rule
from ldm.training.flops import count_flops

if TYPE_CHECKING:
    pass

LOOKED_AT = 8
"""Images that are decoded before anything runs, to see whether they are large enough for larger samples."""


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
    architecture, codebook = ae.get("architecture", {}), ae.get("codebook", {})
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
        codes=codebook.get("codes") or 1,
        beta=codebook.get("beta", 0.25),
        legacy=codebook.get("legacy", False),
        initialisation=architecture.get("initialisation", "reference"),
    )


def is_trained(ae: Mapping[str, Any]) -> bool:
    """Whether a resolved group `ae` is one to train: neither the identity nor given."""
    return "training" in ae


def tiling(samples: Mapping[str, Any]) -> Tiling | None:
    """The tiles that samples are decoded in; None where they are decoded whole."""
    return None if samples["tile"] is None else Tiling(samples["tile"], samples["overlap"])


def perceptual_loss(loss: Mapping[str, Any]) -> PerceptualLoss | None:
    """The perceptual term that `ae.loss.perceptual` names. Raises UserError for an unknown name or missing weights."""
    path = loss["perceptual_path"]
    return load_perceptual_loss(loss["perceptual"], Path(path) if path else None)


def first_stage_loss(ae: Mapping[str, Any], perceptual: PerceptualLoss | None) -> FirstStageLoss:
    """The loss of a first stage: as in the reference, summed over pixels for a KL model and averaged for a VQ model."""
    weights = {"codebook": ae["codebook"]["weight"]} if ae["regulariser"] == "vq" else {"kl": ae["kl_weight"]}
    loss = ae["loss"]
    reduction: Literal["sum", "mean"] = "mean" if ae["regulariser"] == "vq" else "sum"
    return FirstStageLoss(perceptual, reduction, weights, loss["perceptual_weight"], loss["discriminator"]["weight"])


def discriminator(ae: Mapping[str, Any], resolution: int) -> PatchDiscriminator | None:
    """The discriminator with its initial weights, a function of `ae.seed`; None where it never takes part."""
    settings = ae["loss"]["discriminator"]
    if settings["start"] >= 1 or settings["weight"] == 0:
        return None
    torch.manual_seed(derived_seed(ae["seed"], "discriminator"))
    layers = settings["layers"] or layers_for(resolution)
    return PatchDiscriminator(settings["channels"], layers, settings["norm"])


Encode = Callable[[torch.Tensor], torch.Tensor]
"""image -> normalised latent, by a frozen first stage."""


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
    if published.is_given(settings):
        return published.conditioning(settings, known, ae["f"], encode or _no_encoder)
    parts = {kind: _part(kind, settings[kind], known, ae, device, encode) for kind in CONDITIONS if kind in settings}
    if len(parts) > 1:
        return CombinedConditioning(parts)
    return next(iter(parts.values()), Unconditional())


def _part(
    kind: str, settings: Mapping[str, Any], known: Vocabulary, ae: Mapping[str, Any], device: str, encode: Encode | None
) -> Conditioning:
    match kind:
        case "class":
            return ClassConditioning(known.classes, settings["dim"])
        case "text" if settings["encoder"]:
            text = _pretrained_text(settings, device)
            tokeniser = text.tokeniser
            return FrozenTextConditioning(
                text.encode, tokeniser.vocabulary, tokeniser.null, text.width, tokeniser.padding
            )
        case "text":
            tokeniser = _tokeniser(settings, device)
            return TextConditioning(tokeniser.vocabulary, tokeniser.null, settings["dim"], settings["depth"])
        case "layout":
            sizes = (settings["boxes"], settings["grid"], settings["dim"], settings["depth"])
            return LayoutConditioning(known.box_classes, *sizes)
        case "semantic":
            return SemanticConditioning(known.semantic_classes, settings["channels"], ae["f"])
        case "superres":
            return SuperResolutionConditioning(settings["scale"], ae["f"])
        case "inpaint":
            return InpaintingConditioning(encode or _no_encoder, ae["channels"], ae["f"])
    raise ValueError(f"no condition '{kind}'")


def _no_encoder(image: torch.Tensor) -> torch.Tensor:
    raise ValueError("this conditioning was built to be counted, without a first stage")


def _pretrained_text(settings: Mapping[str, Any], device: str) -> PretrainedText:
    with torch.device("cpu"):  # networks may be built without memory, the encoder never is
        return pretrained_text(Path(settings["encoder"]).expanduser(), settings["length"], device)


def _tokeniser(settings: Mapping[str, Any], device: str) -> Tokeniser:
    if settings["encoder"]:
        return _pretrained_text(settings, device).tokeniser
    return bert_tokeniser(settings["length"])


def fields(settings: Mapping[str, Any], images: ImageCache, device: str) -> Fields:
    """What the conditions of a resolved group `conditioning` read of an image set."""
    makers: dict[str, FieldMaker] = {}
    for kind in CONDITIONS:
        if kind in settings:
            makers |= _makers(kind, settings[kind], device)
    return Fields(images, makers)


def _makers(kind: str, settings: Mapping[str, Any], device: str) -> dict[str, FieldMaker]:
    match kind:
        case "class":
            return {"label": data_fields.label}
        case "text":
            return {"tokens": data_fields.WordPieces(_tokeniser(settings, device))}
        case "layout":
            return {"boxes": data_fields.Boxes(settings["boxes"])}
        case "semantic":
            return {"semantic": data_fields.semantic}
        case "superres":
            degradation = Degradation(settings["degradation"], settings["scale"])
            return {"low_resolution": data_fields.LowResolution(degradation)}
        case "inpaint":
            return {"image": data_fields.image, "mask": data_fields.Masks(tuple(settings["masks"]))}
    raise ValueError(f"no condition '{kind}'")


def denoiser(settings: Mapping[str, Any], channels: int, side: int, conditions: Conditioning) -> nn.Module:
    """The network for latents of `channels` and `side`, or the one that was given."""
    if published.is_given(settings):
        return published.denoiser(settings)
    return options_of_denoiser(settings).build(
        in_channels=channels + conditions.concat_channels,
        out_channels=channels,
        latent_side=side,
        context_dim=conditions.context_dim,
    )


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The noise schedule. Raises UserError for an unknown name, or betas where it has none."""
    if published.is_given(settings):
        return published.schedule(settings)
    shift = settings.get("shift", 1.0)
    return make_schedule(settings["schedule"], settings["beta_start"], settings["beta_end"], shift)


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
    model = DenoisingModel(network, schedule(diffusion), diffusion["target"], dtype, weighting)
    return model, conditions.to(device)


def sampler(settings: Mapping[str, Any], noise_schedule: Schedule) -> Sampler:
    """The sampler that `sampler=` chose. Raises UserError for an unknown name, or an option that is not allowed."""
    return build_sampler(settings["name"], noise_schedule, settings)


def guidance(settings: Mapping[str, Any]) -> Guidance:
    """Classifier-free guidance of a resolved `guidance` group."""
    low, high = settings.get("interval") or (0.0, 1.0)
    return Guidance(settings["scale"], (low, high), settings.get("rescale", 0.0))


def network_calls(config: Mapping[str, Any]) -> int:
    """Network evaluations (NFE) that one image costs under a resolved config, those of guidance counted twice.

    Of a scale that is still to be found: what it costs at most.
    """
    given = config["guidance"]
    settled = {**given, "scale": max(given["candidates"])} if given["scale"] == AUTO else given
    chosen, guides = sampler(config["sampler"], schedule(config["diffusion"])), guidance(settled)
    return sum(2 if guides.acts_at(t) else 1 for t in asked_levels(chosen, time_grid_of(config["sampler"])))


def steps_within(config: Mapping[str, Any], calls: int) -> int:
    """The most steps of the configured sampler, its spacing and guidance, that cost at most so many network calls.

    Raises: UserError for a number that is no budget, or not enough for a single step.
    """
    if not isinstance(calls, int) or calls < 1:
        raise UserError(f"sampler.nfe={calls} is not a whole number of network calls above 0")
    candidates = range(1, min(calls, STEPS) + 1)
    steps = bisect.bisect_right(
        candidates, calls, key=lambda n: network_calls({**config, "sampler": {**config["sampler"], "steps": n}})
    )
    if steps == 0:
        raise UserError(f"sampler.nfe={calls} is less than one step of sampler={config['sampler']['name']} costs here")
    return steps


def extractor(settings: Mapping[str, Any], device: str) -> Extractor:
    """The network that judges, loaded once a process. Raises UserError where its weights cannot be had."""
    return _extractor(settings["name"], settings["weights"], settings["precision"], device)


@functools.lru_cache
def _extractor(name: str, weights: str | None, precision: str, device: str) -> Extractor:
    dtype = precision_rule.autocast_dtype(precision) or torch.float32
    return load_extractor(name, Path(weights).expanduser() if weights else None, device, dtype)


def probe(kind: str, settings: Mapping[str, Any], images: ImageCache, seed: int, device: str) -> Probe:
    """The probe of a kind with its initial weights, a function of the seed.

    Raises: UserError where these images cannot train it.
    """
    options = {key: settings[key] for key in ("most",) if key in settings}
    found = build_probe(kind, settings["side"], settings["width"], images, seed, options)
    found.network.to(device)
    return found


def perceptual_distances(lpips_path: str | None) -> list[PerceptualDistance]:
    """What compares outputs with the images behind their conditions: feature distance, and LPIPS where given."""
    found: list[PerceptualDistance] = [FeatureDistance(efficientnet_lite.load("lite2"))]
    if lpips_path is not None:
        from ldm.pretrained import lpips

        found.append(lpips.load("alex", Path(lpips_path).expanduser()))
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
def check_weights(extractor_name: str, weights: str | None, perceptual: str, perceptual_path: str | None) -> None:
    """Raises UserError where the judge's or the perceptual loss's weights cannot be had."""
    check_extractor_weights(extractor_name, weights)
    perceptual_loss({"perceptual": perceptual, "perceptual_path": perceptual_path})


def check_networks(config: Mapping[str, Any], known: Vocabulary) -> None:
    """Builds the networks of a resolved config without memory; raises UserError where their sizes do not fit."""
    ae, resolution = config["ae"], config["data"]["resolution"]
    with torch.device("meta"):
        first_stage(ae, resolution)
        conditions = conditioning(config["conditioning"], known, ae)
        denoiser(config["denoiser"], ae["channels"], resolution // ae["f"], conditions)
    if config["guidance"]["scale"] != 1:
        published.check_null(conditions)
    schedule(config["diffusion"])
    sampler(config["sampler"], schedule(config["diffusion"]))
    time_grid_of(config["sampler"])


def time_grid_of(settings: Mapping[str, Any]) -> torch.Tensor:
    """The noise levels that a sampler visits. Raises UserError for an unknown spacing or end, or too many steps."""
    return time_grid(settings["spacing"], settings["steps"], settings["final"])


def parameters(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


SMALL_DENOISER_SHARE = 0.01
"""Of the FLOPs of the main training, what the small denoiser that looks at a latent space may spend."""


def small_denoiser_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A UNet without conditions, of two levels; of one four times as wide where the latent's side is under 4 or odd."""
    side = config["data"]["resolution"] // config["ae"]["f"]
    sizes = config["scale"]["small_denoiser"]
    settings = {**defaults_of(UNetOptions), **sizes, "channel_mult": [1, 2], "attention_sides": [], "num_heads": None}
    if side < 4 or side % 2:  # a level of side 1 needs channels, or its norms would leave nothing
        settings |= {"channel_mult": [1], "model_channels": 4 * sizes["model_channels"]}
    return settings


def images_of_small_denoiser(config: Mapping[str, Any], known: Vocabulary) -> int:
    """Images after which the small denoiser has spent its share of the main training's FLOPs, one batch at least."""
    ae, side, trainer = config["ae"], config["data"]["resolution"] // config["ae"]["f"], config["trainer"]
    each = _flops_of_training_image(_text(small_denoiser_settings(config)), "{}", ae["channels"], side, ae["f"], known)
    budget = SMALL_DENOISER_SHARE * trainer["images"] * flops_per_training_image(config, ae["f"], known)
    return max(int(trainer["batch"]), round(budget / each))


def flops_per_training_image(config: Mapping[str, Any], f: int, known: Vocabulary) -> float:
    """FLOPs of one training image's forward and backward pass at downsampling factor f, counted on the meta device.

    What the user set of the denoiser stands; the rest is the scale's for that f, so `config` is one not yet filled in.
    """
    if f == config["ae"]["f"]:
        channels = config["ae"]["channels"]
    else:
        channels = 3 if f == 1 else config["scale"]["first_stage"]["latent_channels"][f]
    settings, side = denoiser_settings(config, f), config["data"]["resolution"] // f
    return _flops_of_training_image(_text(settings), _text(config["conditioning"]), channels, side, f, known)


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


@functools.lru_cache
def _flops_of_training_image(
    settings: str, condition_settings: str, channels: int, side: int, f: int, known: Vocabulary
) -> float:
    """The same from groups as JSON: a sweep plans many cells of one network."""
    with torch.device("meta"):
        conditions = conditioning(json.loads(condition_settings), known, {"f": f, "channels": channels})
        network = denoiser(json.loads(settings), channels, side, conditions)
        x, index, given = torch.empty(1, channels, side, side), torch.empty(1), conditions.placeholder(1, (side, side))
    return count_flops(lambda: network(x, index, given.context, given.concat).sum().backward())
