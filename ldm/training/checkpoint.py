"""Checkpoints and weights on disk: atomic, never executed when read, and of no use where they are damaged."""

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ldm.intact import write_atomically

DIGEST_BYTES = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes training state (tensors, numbers, strings and their dicts and lists) followed by the hash of its bytes.

    The checkpoint before it stays until the next one, so that there is one to go on from whatever happens.
    """

    def write(file: BinaryIO) -> None:
        torch.save(dict(state), file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        file.write(digest)

    write_atomically(path, write, keep=previous_of(path))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint that is whole, or None where there is none; damaged ones are removed, which is logged."""
    for each in (path, previous_of(path)):
        if not each.exists():
            continue
        content = each.read_bytes()
        state, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if hashlib.sha256(state).digest() == digest and (loaded := _loaded(state)) is not None:
            return loaded
        logger.warning("%s is damaged, or of an older version: it is discarded, and training goes on from before", each)
        each.unlink()
    return None


def _loaded(state: bytes) -> dict[str, Any] | None:
    """What was saved; None for what this program did not save, whatever its hash says. Nothing of it is run."""
    try:
        loaded = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    except Exception:  # torch raises exceptions of many kinds
        return None
    return loaded if isinstance(loaded, dict) else None


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes named tensors as safetensors in one atomic step."""
    # Not `save_file`, whose files only their owner may read.
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    write_atomically(path, lambda file: file.write(content))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads the named tensors of a safetensors file."""
    weights: dict[str, Tensor] = load_file(path)
    return weights
