"""Numbers that are none (NaN, infinite) end here: no image, feature, code or score is made of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ldm.errors import UserError


class NotFiniteError(UserError):
    """A network gave numbers that are none."""


def require_finite(values: Tensor, network: str, what: str = "images") -> Tensor:
    """The values as they are, of any shape (N, ...), images first.

    Raises: NotFiniteError, which names the network and how many of the images are concerned.
    """
    if not values.isfinite().all():
        bad = int((~values.isfinite()).reshape(len(values), -1).any(1).sum())
        raise NotFiniteError(
            f"{network} gives numbers that are none (NaN or infinite) for {bad} of {len(values)} {what}"
        )
    return values


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """The dotted names of the tensors in nested mappings and lists that hold numbers that are none."""
    if isinstance(state, Tensor):
        if not state.isfinite().all():
            yield name
        return
    inner = state if isinstance(state, Mapping) else dict(enumerate(state)) if isinstance(state, list | tuple) else {}
    for key, value in inner.items():
        yield from not_finite(value, f"{name}.{key}" if name else str(key))
