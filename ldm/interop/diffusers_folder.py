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
from ldm.interop import dit_weights
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
    dit_weights.DIFFUSERS_CLASS: {"in_channels": 4, "sample_size": 32},
}
"""What these classes take where a config says nothing (files older than the option), beyond what their readers know."""

UNETS = ("UNet2DModel", "UNet2DConditionModel")
_ALL_UNETS = (*UNETS, *(GROUPED + name for name in UNETS))
_NETWORKS = (*_ALL_UNETS, dit_weights.DIFFUSERS_CLASS)
FIRST_STAGES = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
DENOISERS = ("unet", "transformer")
"""Names of a pipeline's denoiser; with "_ema" behind it, of its moving average."""
_PARTS = ("vae", "vqvae", *DENOISERS, "scheduler", "bert", "text_encoder", "class_embedding")
_STATISTICS = ("latents_mean", "latents_std")
WEIGHTS_KIND = "_weights"
"""Where the index of an export says which weights its denoiser has."""

AVERAGING = frozenset(
    ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
)
"""What diffusers' EMAModel writes of itself into the config of the network that it averages."""

_PASSED_OVER = ("tokenizer", "feature_extractor", "safety_checker", "image_encoder")
"""Parts of a pipeline that change neither its latents nor its samples for given tokens."""


def read(folder: Path, weights: str) -> Loaded:
    """The model or the pipeline in a folder.

    `weights` as in `ldm.interop.load` ("ema": from `unet_ema` or `transformer_ema`, if there).
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
    if kind in _NETWORKS:
        network, classes = _network(folder)
        return Loaded(
            told,
            network=network,
            conditioning=_raw(classes),
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
    place, taken = _denoiser(folder, parts, index, weights)
    network, classes = (None, None) if place is None else _network(place)
    shape = None if place is None else _latent_shape(_config(place))
    schedule, target = _noise(folder / "scheduler") if "scheduler" in parts else (None, "eps")
    return Loaded(
        source=f"diffusers {pipeline}",
        first_stage=first_stage,
        network=network,
        conditioning=_raw(classes or _conditioning(folder, parts, pipeline, first_stage)),
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


def _denoiser(
    folder: Path, parts: Mapping[str, Any], index: Mapping[str, Any], weights: str
) -> tuple[Path | None, WeightsKind]:
    """The folder of the network and which of its weights it has."""
    name = next((name for name in DENOISERS if name in parts), None)
    if name is None:
        return None, "raw"
    averaged = folder / f"{name}_ema"
    if averaged.is_dir() and weights != "raw":
        return averaged, "ema"
    held: WeightsKind = "ema" if index.get(WEIGHTS_KIND) == "ema" or _is_average(folder / name) else "raw"
    if weights not in ("auto", held):
        kind = "moving average" if held == "ema" else "plain weights"
        raise UserError(
            f"weights={weights}, but the {'UNet' if name == 'unet' else name} of {folder} has its {kind} and there is "
            f"no {averaged.name} beside it: use weights={held} or auto"
        )
    return folder / name, held


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


def _network(folder: Path) -> tuple[nn.Module, Conditioning | None]:
    """The denoiser in a folder, and the classes that it embeds itself."""
    config = _config(folder)
    if config["_class_name"] not in _NETWORKS:
        raise UserError(
            f"{folder} holds a {config['_class_name']}, which this program has not: it reads "
            f"{', '.join(UNETS)} and {dit_weights.DIFFUSERS_CLASS}"
        )
    weights = weights_of(folder)
    if config["_class_name"] == dit_weights.DIFFUSERS_CLASS:
        return dit_weights.from_diffusers(config, weights)
    classes = classes_from_diffusers(config, weights) if config.get("num_class_embeds") else None
    return unet_from_diffusers(config, weights), classes


def _raw(conditioning: Conditioning | None) -> RawConditioning | None:
    return None if conditioning is None else RawConditioning(conditioning)


def _latent_shape(config: Mapping[str, Any]) -> tuple[int, int, int] | None:
    size = config.get("sample_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    # A diffusion transformer may give the variance beside what it predicts.
    channels = config["in_channels" if config["_class_name"] == dit_weights.DIFFUSERS_CLASS else "out_channels"]
    return channels, height, width


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
    except (ValueError, RecursionError) as error:
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
