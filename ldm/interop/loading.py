"""Reads a published model whatever its format."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from torch import nn

from ldm.errors import UserError
from ldm.interop import autoencoder_file, compvis_checkpoint, diffusers_folder, dit_weights
from ldm.interop.contract import Loaded, check_taken, check_weights
from ldm.interop.tensors import read_weights

CHECKPOINTS = ("model.ckpt", "last.ckpt")
"""Names that CompVis gives its checkpoints; the first that is there is taken."""

READABLE = (
    "a CompVis checkpoint (model.ckpt or last.ckpt) with its yaml beside it, a diffusers folder, the weights "
    "of a diffusion transformer (one file), or those of an autoencoder (one file, .safetensors, .ckpt or .pth, or the "
    "two files of a tiny one)"
)

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def load(path: str | Path, weights: str = "auto") -> Loaded:
    """The model at `path`: a checkpoint file, or a folder that holds one and its yaml, or a diffusers folder.

    `weights`: "ema", an error where the file has none, "raw", or "auto", which is "ema" where there is one
    (`Loaded.weights` says what was taken).
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


def load_first_stage(path: str | Path, weights: str = "auto") -> Loaded:
    """The first stage at `path` alone, also where it is part of a whole model; `weights` as in `load`.

    Raises: as `load`."""
    check_weights(weights)
    place = Path(path).expanduser()
    file = _checkpoint(place)
    if file is not None and compvis_checkpoint.yaml_beside(file) is not None:
        with _buildable(file):
            found = compvis_checkpoint.read_first_stage(file, weights)
    elif file is not None or place.is_file():  # Stable Diffusion's files come without a yaml
        found = autoencoder_file.read(file or place, weights, is_part=True)
    else:
        is_pipeline = (place / "model_index.json").is_file()  # whose moving average is that of its denoiser
        found = _read(place, "auto" if is_pipeline else weights)
        found = dataclasses.replace(found, weights="raw") if is_pipeline else found
    return dataclasses.replace(found, first_stage=_for_use(found.first_stage), network=None, conditioning=None)


def files_of(path: str | Path) -> list[Path]:
    """The files that `load` reads at `path`, and perhaps some that lie with them. Raises: UserError where none are."""
    place = Path(path).expanduser()
    file = _checkpoint(place)
    if file is not None:
        beside = compvis_checkpoint.yaml_beside(file)
        return [file] if beside is None else [file, beside]
    if not place.exists():
        raise UserError(f"there is nothing at {place}; give {READABLE}")
    if place.is_dir():
        half = None if _is_diffusers(place) else autoencoder_file.tiny_half_in(place)
        if half is None:
            return sorted(entry for entry in place.rglob("*") if entry.is_file())
        place = half
    halves = (place.with_name(place.name.replace(*pair)) for pair in (("encoder", "decoder"), ("decoder", "encoder")))
    return sorted({place, *(half for half in halves if half.is_file())})


def _checkpoint(path: Path) -> Path | None:
    """The file of a CompVis checkpoint at `path`, or None where it is of another format."""
    if path.is_file():
        return path if compvis_checkpoint.yaml_beside(path) is not None else None
    return next((path / name for name in CHECKPOINTS if (path / name).is_file()), None)


def _is_diffusers(folder: Path) -> bool:
    return (folder / "model_index.json").is_file() or (folder / "config.json").is_file()


@contextlib.contextmanager
def _buildable(path: Path) -> Iterator[None]:
    """What is read here has a configuration, of which only the names are checked one by one, not all values.

    Raises: UserError where a value is such that nothing can be built of it.
    """
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, StopIteration) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise UserError(f"the configuration of {path} describes no network that can be built ({why})") from error


def _read(path: Path, weights: str) -> Loaded:
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give {READABLE}")
    file = _checkpoint(path)
    if file is not None:
        with _buildable(file):
            return compvis_checkpoint.read(file, weights)
    if path.is_file():
        state, taken = read_weights(path, weights)
        check_taken(path, weights, taken)
        if dit_weights.is_dit(state):
            found = dit_weights.model_of(path, state)
        else:
            found = autoencoder_file.model_of(path, state, weights, taken)
        return dataclasses.replace(found, weights=taken)
    if _is_diffusers(path):
        with _buildable(path):
            return diffusers_folder.read(path, weights)
    half = autoencoder_file.tiny_half_in(path)
    if half is not None:
        return autoencoder_file.read(half, weights)
    names = sorted(entry.name for entry in path.iterdir())
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "nothing"
    raise UserError(f"the folder {path} holds no model ({held}); give {READABLE}")


def _for_use(module: AnyModule | None) -> AnyModule | None:
    return None if module is None else module.eval().requires_grad_(False)
