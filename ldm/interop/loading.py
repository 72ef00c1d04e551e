"""Reads a published model whatever its format."""

import dataclasses
from pathlib import Path
from typing import TypeVar

from torch import nn

from ldm.errors import UserError
from ldm.interop import autoencoder_file, compvis_checkpoint, diffusers_folder
from ldm.interop.contract import Loaded, check_weights

CHECKPOINTS = ("model.ckpt", "last.ckpt")
"""Names that CompVis gives its checkpoints; the first that is there is taken."""

READABLE = (
    "a CompVis checkpoint (model.ckpt or last.ckpt) with its yaml beside it, a diffusers folder, or the weights "
    "of an autoencoder (one file, .safetensors, .ckpt or .pth, or the two files of a tiny one)"
)

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def load(path: str | Path, weights: str = "auto") -> Loaded:
    """The model at `path`: a checkpoint file, or a folder that holds one and its yaml, or a diffusers folder.

    `weights`: "ema", an error where the file has none, "raw", or "auto", which is "ema" where there is one
    (`Loaded.weights` says what was taken). A file with a first stage only has no EMA to choose.
    Raises: UserError where there is nothing to read, or where it does not fit together.
    """
    check_weights(weights)
    found = _read(Path(path).expanduser(), weights)
    return dataclasses.replace(
        found,
        first_stage=_for_use(found.first_stage),
        network=_for_use(found.network),
        conditioning=_for_use(found.conditioning),
    )


def _read(path: Path, weights: str) -> Loaded:
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give {READABLE}")
    if path.is_file():
        if compvis_checkpoint.yaml_beside(path) is not None:
            return compvis_checkpoint.read(path, weights)
        return autoencoder_file.read(path)
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return compvis_checkpoint.read(path / name, weights)
    if (path / "model_index.json").is_file() or (path / "config.json").is_file():
        return diffusers_folder.read(path, weights)
    half = autoencoder_file.tiny_half_in(path)
    if half is not None:
        return autoencoder_file.read(half)
    names = sorted(entry.name for entry in path.iterdir())
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "nothing"
    raise UserError(f"the folder {path} holds no model ({held}); give {READABLE}")


def _for_use(module: AnyModule | None) -> AnyModule | None:
    return None if module is None else module.eval().requires_grad_(False)
