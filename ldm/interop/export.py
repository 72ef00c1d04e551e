"""Writes a trained model as a diffusers pipeline folder: autoencoder, denoiser, class table, scheduler, model card.

`python -m ldm.interop.export --help` says how to do it for a cell of a store.
"""

import json
import os
import runpy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.conditioning import ClassConditioning, Conditioning, Unconditional
from ldm.denoiser.dit import DiT
from ldm.denoiser.unet import UNet
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.interop.diffusers_conditioning import CLASS_TABLE
from ldm.interop.diffusers_denoiser import GROUPED, diffusers_unet_state, unet_config
from ldm.interop.diffusers_first_stage import KL_CLASS, first_stage_config, to_diffusers
from ldm.interop.diffusers_folder import CONFIG, INDEX, SCHEDULER_CONFIG, WEIGHTS, WEIGHTS_KIND
from ldm.interop.diffusers_schedule import ddim_config
from ldm.interop.dit_weights import diffusers_config, diffusers_state

FORMAT_OF = "0.31.0"
"""The version of diffusers from which on the folder is read."""

CARD = "README.md"
_CODE = "ldm.interop.exported"


@dataclass(frozen=True)
class TrainedModel:
    """What a pipeline is made of, the network and conditioning with their moving averages.

    `latent_side` is that of the training, `spacing` and `final` are the sampler's.
    """

    first_stage: FirstStage
    scale: LatentScale
    network: UNet | DiT
    conditioning: Conditioning
    schedule: Schedule
    target: str
    latent_side: int
    spacing: str = "trailing"
    final: str = "clean"


@dataclass(frozen=True)
class _Part:
    """One component: its folder's config and weights, and the file of code that its class needs, if any."""

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    code: str | None = None

    @property
    def entry(self) -> list[str]:
        """What model_index.json says of it."""
        return [self.code or "diffusers", self.config["_class_name"]]


def is_plain(model: TrainedModel) -> bool:
    """Whether diffusers' own LDMPipeline samples the model; else the folder carries code that it loads.

    Raises: UserError for a model that diffusers cannot be given.
    """
    return not isinstance(_index(model, _parts(model))["_class_name"], list)


def write_pipeline(folder: Path, model: TrainedModel, card: str) -> None:
    """Writes the pipeline and its model card.

    The folder appears whole, by one rename. Raises: UserError where it is there already, or for a model that diffusers
    cannot be given.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: give the folder of an export that is not")
    parts = _parts(model)
    index = _index(model, parts)
    scheduler = ddim_config(model.schedule, model.target, model.spacing, model.final)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        for name, part in parts.items():
            _write_part(temporary / name, part)
        _write_json(temporary / "scheduler" / SCHEDULER_CONFIG, scheduler)
        if isinstance(index["_class_name"], list):
            _write_code(temporary, index["_class_name"][0])
        (temporary / CARD).write_text(card, encoding="utf-8")
        _write_json(temporary / INDEX, index)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _parts(model: TrainedModel) -> dict[str, _Part]:
    """The components that have weights, by the names that diffusers' latent diffusion pipelines give them."""
    if not isinstance(model.conditioning, ClassConditioning | Unconditional):
        raise UserError(
            f"a model with {type(model.conditioning).__name__} cannot be exported: unconditional and class-conditional "
            "ones can"
        )
    parts = _denoiser_parts(model)
    if model.first_stage.factor > 1:
        resolution = model.latent_side * model.first_stage.factor
        coder = first_stage_config(model.first_stage, resolution)
        coder |= _coder_scale(model.scale, has_channels=coder["_class_name"] == KL_CLASS)
        parts["vqvae"] = _Part(coder, to_diffusers(model.first_stage.state_dict()))
    return parts


def _denoiser_parts(model: TrainedModel) -> dict[str, _Part]:
    """The network, and its class table where it does not hold that itself."""
    network, conditions = model.network, model.conditioning
    table = conditions.embedding.weight if isinstance(conditions, ClassConditioning) else None
    if isinstance(network, DiT):
        # Its class asks for classes always, and has a row for none of them.
        told = torch.zeros(2, 1) if table is None else table
        config = diffusers_config(network, model.latent_side, len(told) - 1)
        return {"transformer": _Part(config, diffusers_state(network, told))}
    config = unet_config(network, model.latent_side)
    code = "grouped_unet" if config["_class_name"].startswith(GROUPED) else None
    parts = {"unet": _Part(config, diffusers_unet_state(network), code)}
    if table is not None and isinstance(conditions, ClassConditioning):
        classes, dim = conditions.classes, table.shape[1]
        sizes = {"_class_name": "ClassEmbedding", "classes": classes, "dim": dim, "null_class": len(table) > classes}
        parts["class_embedding"] = _Part(sizes, {CLASS_TABLE: table}, "class_embedding")
    return parts


def _is_one_number(scale: LatentScale) -> bool:
    """Whether the scale is a single factor, which every pipeline of diffusers applies."""
    return bool((scale.shift == 0).all() and (scale.std == scale.std[0]).all())


def _coder_scale(scale: LatentScale, has_channels: bool) -> dict[str, Any]:
    """What the autoencoder's config says of the scale of latents; `has_channels`: it has a place for each channel's.

    The config of a VQModel has none: there such numbers stand in model_index.json.
    """
    if _is_one_number(scale):
        return {"scaling_factor": 1 / float(scale.std[0])}
    return {"scaling_factor": 1.0, **(_by_channel(scale) if has_channels else {})}


def _by_channel(scale: LatentScale) -> dict[str, Any]:
    return {"latents_mean": scale.shift.tolist(), "latents_std": scale.std.tolist()}


def _index(model: TrainedModel, parts: Mapping[str, _Part]) -> dict[str, Any]:
    """model_index.json: diffusers' LDMPipeline where it samples this model right, else the pipeline of the folder."""
    has_own_classes = parts.keys() == {"unet", "vqvae"} and not any(part.code for part in parts.values())
    entries = {name: part.entry for name, part in parts.items()}
    common = {"_diffusers_version": FORMAT_OF, WEIGHTS_KIND: "ema"}
    index: dict[str, Any] = {**common, **entries, "scheduler": ["diffusers", "DDIMScheduler"]}
    if has_own_classes and _is_one_number(model.scale):
        return {"_class_name": "LDMPipeline", **index}
    absent = {name: [None, None] for name in ("unet", "transformer", "vqvae", "class_embedding") if name not in parts}
    coder = parts["vqvae"].config if "vqvae" in parts else {}
    is_told = "latents_std" in coder or (coder and _is_one_number(model.scale))
    pipeline_scale = {} if is_told else _by_channel(model.scale)
    return {"_class_name": ["latent_diffusion", "LatentDiffusionPipeline"], **index, **absent, **pipeline_scale}


def _write_part(folder: Path, part: _Part) -> None:
    _write_json(folder / CONFIG, {**part.config, "_diffusers_version": FORMAT_OF})
    weights = {name: value.detach().cpu().contiguous() for name, value in part.weights.items()}
    save_file(weights, folder / f"{WEIGHTS[0]}.safetensors", metadata={"format": "pt"})
    if part.code is not None:
        _write_code(folder, part.code)


def _write_code(folder: Path, module: str) -> None:
    """Copies a module that diffusers loads from the folder."""
    file = f"{module}.py"
    (folder / file).write_text(resources.files(_CODE).joinpath(file).read_text(encoding="utf-8"), encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # The command reads configs and a store, which the library does not import.
    runpy.run_module("experiments.export", run_name="__main__")
