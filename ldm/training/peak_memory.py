"""Memory that a call takes, from the tensors that come and go in it: on the meta device, too, where it takes none."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Followed(TorchDispatchMode):
    """Sums the bytes of the storages that operations make, each from its making until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: set[int] = set()
        self._before: list[torch.UntypedStorage] = []  # kept, so that no other storage takes the place of one

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._before.append(storage)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.held)
        return result

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that tensors made in a call took at a time; what an operation takes inside is not seen."""
    with _Followed() as followed:
        call()
    return followed.most
