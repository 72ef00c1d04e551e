"""What all networks with public weights share: reading a weight file, its hash, freezing."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.pretrained.weight_files import contents

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors, .pth or .pt file, on the CPU; nothing in the file is executed.

    Raises: UserError where the file is missing, damaged, something else, or holds more than named tensors.
    """
    if not path.is_file():
        raise UserError(f"There is no weight file {path}: give the path of an existing .safetensors or .pth file.")
    loaded = contents(path)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"The weight file {path} does not hold named tensors only: give a plain state dictionary.")
    return dict(loaded)


def content_hash(weights: Mapping[str, Tensor], digits: int = 16) -> str:
    """A hexadecimal hash of names, shapes, types and values, the same for any file format and order."""
    state = hashlib.blake2b(digest_size=32)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:digits]


def freeze(module: AnyModule) -> AnyModule:
    """The module for inference, in channels_last: no gradient to its parameters, still one to its input."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.eval().requires_grad_(False)
