"""Checkpoints and weights on disk: atomic, and never executed when read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def _replace(temporary: Path, path: Path) -> None:
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes training state (tensors, numbers, strings and their dicts and lists) in one atomic step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(dict(state), temporary)
    _replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none."""
    if not path.exists():
        return None
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes named tensors as safetensors in one atomic step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)
    _replace(temporary, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads named tensors."""
    weights: dict[str, Tensor] = load_file(path)
    return weights
