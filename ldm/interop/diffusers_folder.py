"""Folders as diffusers saves them: a model with its config.json, or a pipeline of several with its model_index.json.

Read from json and weights alone, without diffusers.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.conditioning import Conditioning, SuperResolutionConditioning
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.interop.contract import Loaded, RawConditioning, WeightsKind, check_taken
from ldm.interop.diffusers_autoencoder import wrapped_autoencoder
from ldm.interop.diffusers_conditioning import class_embedding, ldm_bert, transformers_text
from ldm.interop.diffusers_denoiser import GROUPED, classes_from_diffusers, unet_from_diffusers
from ldm.interop.diffusers_first_stage import build_diffusers_first_stage, load_diffusers_first_stage
from ldm.interop.diffusers_schedule import schedule_of, target_of
from ldm.interop.tensors import read_tensors
from ldm.interop.tiny_autoencoder import tiny_from_diffusers

CONFIG, INDEX, SCHEDULER_CONFIG = "config.json", "model_index.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of weight files without their suffix, of diffusers and of transformers."""

SUFFIXES = (".safetensors", ".bin")

_CODER = {"in_channels": 3, "out_channels": 3, "block_out_channels": (64,), "layers_per_block": 1, "sample_size": 32}
_CODER |= {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",), "norm_num_groups": 32}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "AutoencoderKL": {**_CODER, "latent_channels": 4, "scaling_factor": 0.18215},
    "VQModel": {**_CODER, "latent_channels": 3, "num_vq_embeddings": 256, "scaling_factor": 0.18215},
    "AutoencoderTiny": {"scaling_factor": 1.0},
    "UNet2DModel": {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "UNet2DConditionModel": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "cross_attention_dim": 1280,
    },
}
"""What these classes take where a config says nothing (files older than the option), beyond what their readers know."""

UNETS = ("UNet2DModel", "UNet2DConditionModel")
_ALL_UNETS = (*UNETS, *(GROUPED + name for name in UNETS))
FIRST_STAGES = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
_PARTS = ("vae", "vqvae", "unet", "scheduler", "bert", "text_encoder", "class_embedding")
_STATISTICS = ("latents_mean", "latents_std")
WEIGHTS_KIND = "_weights"
"""Where the index of an export says which weights its UNet has."""

AVERAGING = frozenset(
    ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
)
"""What diffusers' EMAModel writes of itself into the config of the network that it averages."""

_PASSED_OVER = ("tokenizer", "feature_extractor", "safety_checker", "image_encoder")
"""Parts of a pipeline that change neither its latents nor its samples for given tokens."""


def read(folder: Path, weights: str) -> Loaded:
    """The model or the pipeline in a folder; `weights` as in `ldm.interop.load` ("ema": from `unet_ema`, if there).

    Raises: UserError for a class or an option that this program has not, or weights that are missing or do not fit.
    """
    if (folder / INDEX).is_file():
        return _pipeline(folder, weights)
    config = _config(folder)
    kind = config["_class_name"]
    held: WeightsKind = "ema" if _is_average(folder) else "raw"
    if weights == "ema" and held != "ema":
        raise UserError(f"weights=ema, but {folder} holds one network and does not say of which weights; use raw")
    check_taken(folder, weights, held)
    told = f"diffusers {kind}"
    if kind in _ALL_UNETS:
        return Loaded(
            told,
            network=_unet(folder),
            conditioning=_raw(_classes(folder)),
            latent_shape=_latent_shape(config),
            weights=held,
        )
    scale, shift = latent_scale(config)
    return Loaded(told, _first_stage(folder), scale=scale, shift=shift, resolution=_resolution(config), weights=held)


def latent_scale(config: Mapping[str, Any]) -> tuple[float | Tensor, float | Tensor]:
    """Scale and shift of an autoencoder's config: z = (raw - shift) * scale.

    Shapes: numbers, or (C,) float64 where channels differ.
    Raises: UserError where the config gives only one of mean and standard deviation, or a shift beside a mean.
    """
    scale = config.get("scaling_factor")
    factor = 1.0 if scale is None else float(scale)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        raise UserError("the autoencoder's config gives one of latents_mean and latents_std: it needs both or neither")
    if mean is None:
        return factor, float(config.get("shift_factor") or 0.0)
    if config.get("shift_factor"):
        raise UserError("the autoencoder's config gives latents_mean and shift_factor: it can have one of them only")
    return factor / torch.tensor(std, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)


def _pipeline(folder: Path, weights: str) -> Loaded:
    index = _json(folder / INDEX)
    named = index.get("_class_name")
    pipeline = str(named[-1] if isinstance(named, list) else named)
    given = {name: part for name, part in index.items() if name[0] != "_" and name not in _STATISTICS}
    parts = {name: part for name, part in given.items() if isinstance(part, list) and part[-1]}
    foreign = sorted(parts.keys() - set(_PARTS) - set(_PASSED_OVER))
    if foreign:
        raise UserError(
            f"{folder / INDEX} names the part {foreign[0]} ({parts[foreign[0]][-1]}), which this program has not: it "
            f"reads {', '.join(_PARTS)}"
        )
    coder = next((name for name in ("vae", "vqvae") if name in parts), None)
    first_stage = None if coder is None else _first_stage(folder / coder)
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0
    resolution = None
    if coder is not None:
        config = _config(folder / coder)
        resolution = _resolution(config)
        # The super-resolution pipeline decodes what the network gives as it is.
        if pipeline != "LDMSuperResolutionPipeline":
            scale, shift = latent_scale({**_statistics(index), **config})
    else:
        scale, shift = latent_scale(_statistics(index))
    network, taken = _denoiser(folder, index, weights)
    shape = _latent_shape(_config(folder / "unet")) if network is not None else None
    schedule, target = _noise(folder / "scheduler") if "scheduler" in parts else (None, "eps")
    averaged = folder / "unet_ema"
    told = None if network is None else _classes(averaged if taken == "ema" and averaged.is_dir() else folder / "unet")
    return Loaded(
        source=f"diffusers {pipeline}",
        first_stage=first_stage,
        network=network,
        conditioning=_raw(told or _conditioning(folder, parts, pipeline, first_stage)),
        schedule=schedule,
        target=target,
        scale=scale,
        shift=shift,
        weights=taken,
        latent_shape=shape,
        resolution=resolution,
    )


def _statistics(index: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of latents by channel, where a pipeline's own index gives them."""
    return {name: index[name] for name in _STATISTICS if index.get(name) is not None}


def _denoiser(folder: Path, index: Mapping[str, Any], weights: str) -> tuple[nn.Module | None, WeightsKind]:
    """The network and which of its weights it has."""
    if "unet" not in index:
        return None, "raw"
    if (folder / "unet_ema").is_dir() and weights != "raw":
        return _unet(folder / "unet_ema"), "ema"
    held: WeightsKind = "ema" if index.get(WEIGHTS_KIND) == "ema" or _is_average(folder / "unet") else "raw"
    if weights not in ("auto", held):
        kind = "moving average" if held == "ema" else "plain weights"
        raise UserError(
            f"weights={weights}, but the UNet of {folder} has its {kind} and there is no unet_ema beside it: use "
            f"weights={held} or auto"
        )
    return _unet(folder / "unet"), held


def _noise(folder: Path) -> tuple[Schedule, str]:
    config = _json(folder / SCHEDULER_CONFIG)
    return schedule_of(config), target_of(config)


def _conditioning(
    folder: Path, parts: Mapping[str, Any], pipeline: str, first_stage: FirstStage | None
) -> Conditioning | None:
    """tau_theta of a pipeline; None where it has none, or where its network is conditioned on more than its text.

    Then whoever calls the network gives it the context and the maps.
    """
    if pipeline == "LDMSuperResolutionPipeline" and first_stage is not None:
        return SuperResolutionConditioning(first_stage.factor, first_stage.factor)
    unet = _config(folder / "unet") if "unet" in parts else {"in_channels": 0, "out_channels": 0}
    if unet["in_channels"] != unet["out_channels"]:
        return None
    readers: Mapping[str, Callable[[Path], Conditioning]] = {
        "class_embedding": lambda place: class_embedding(_json(place / CONFIG), weights_of(place)),
        "bert": lambda place: ldm_bert(_json(place / CONFIG), weights_of(place), folder / "tokenizer"),
        "text_encoder": lambda place: transformers_text(place, folder / "tokenizer"),
    }
    for name, reader in readers.items():
        if name in parts:
            return reader(folder / name)
    return None


def _first_stage(folder: Path) -> FirstStage:
    config = _config(folder)
    match config["_class_name"]:
        case "AutoencoderTiny":
            return tiny_from_diffusers(config, weights_of(folder))
        case "AutoencoderKL" | "VQModel":
            model = build_diffusers_first_stage(config)
            load_diffusers_first_stage(model, weights_of(folder))
            return model
    return wrapped_autoencoder(config, weights_of(folder))


def _unet(folder: Path) -> nn.Module:
    config = _config(folder)
    if config["_class_name"] not in _ALL_UNETS:
        raise UserError(
            f"{folder} holds a {config['_class_name']}, which this program has not: it reads {' and '.join(UNETS)}"
        )
    return unet_from_diffusers(config, weights_of(folder))


def _classes(folder: Path) -> Conditioning | None:
    """The classes that a UNet itself embeds."""
    config = _config(folder)
    return classes_from_diffusers(config, weights_of(folder)) if config.get("num_class_embeds") else None


def _raw(conditioning: Conditioning | None) -> RawConditioning | None:
    return None if conditioning is None else RawConditioning(conditioning)


def _latent_shape(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    size = config.get("sample_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return config["out_channels"], height, width


def _resolution(config: Mapping[str, Any]) -> int | None:
    size = config.get("sample_size")
    return size if isinstance(size, int) else None


def _config(folder: Path) -> dict[str, Any]:
    """A model's config with the defaults of its class. Raises: UserError where it names none."""
    config = _json(folder / CONFIG)
    if "_class_name" not in config:
        raise UserError(f"{folder / CONFIG} names no class of diffusers (_class_name): it looks like another program's")
    own = {key: value for key, value in config.items() if key not in AVERAGING}
    return {**DEFAULTS.get(config["_class_name"], {}), **own}


def _is_average(folder: Path) -> bool:
    return {"decay", "optimization_step"} <= _json(folder / CONFIG).keys()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} is missing or cannot be read ({error.strerror}), so the folder is no whole model"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no readable json ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no configuration (a json object)")
    return found


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model's folder: of one file, or of all that its index names; safetensors are preferred.

    Raises: UserError where there are none.
    """
    for suffix in SUFFIXES:
        for name in WEIGHTS:
            file = folder / f"{name}{suffix}"
            if file.is_file():
                return read_tensors(file)
            shards = file.with_name(f"{file.name}.index.json")
            if shards.is_file():
                files = sorted(set(_json(shards).get("weight_map", {}).values()))
                return {key: value for part in files for key, value in read_tensors(folder / part).items()}
    there = sorted(file.name for file in folder.glob("*") if file.suffix in SUFFIXES)
    held = f"; its {there[0]} is a variant: rename the one to be read" if there else ""
    raise UserError(f"{folder} holds no weights named {WEIGHTS[0]}.safetensors{held}")
