"""What a denoiser is conditioned on besides x_t and its noise level, and what makes that of data fields (tau_theta)."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.errors import UserError


def _joined(first: Tensor | None, second: Tensor | None, name: str) -> Tensor | None:
    """Both along the batch axis, or None where both are None."""
    if first is None and second is None:
        return None
    if first is None or second is None or first.shape[1:] != second.shape[1:]:
        shapes = [None if part is None else tuple(part.shape) for part in (first, second)]
        raise ValueError(f"conditions of different kinds cannot share a batch: {name} {shapes[0]} and {shapes[1]}")
    return torch.cat([first, second])


@dataclass(frozen=True)
class Condition:
    """The condition of a batch, in the two ways a UNet can take it in (Rombach et al. 2022, section 3.3).

    Shapes: `context` (N, tokens, width) for cross-attention, of which only the tokens are seen where `context_mask`
    (N, tokens) is true (all where it is None); `concat` (N, C, h, w) beside x_t. None where not used.
    """

    context: Tensor | None = None
    concat: Tensor | None = None
    context_mask: Tensor | None = None

    def cat(self, other: "Condition") -> "Condition":
        """This batch followed by `other`, for one batched call of the network.

        Raises: ValueError where the two are of different kinds or shapes.
        """
        return Condition(*(_joined(getattr(self, name), getattr(other, name), name) for name in _PARTS))

    def __getitem__(self, items: slice | Tensor) -> "Condition":
        """The condition of some items of the batch, chosen as in indexing a tensor's first axis."""
        return Condition(*(None if part is None else part[items] for part in self._parts()))

    def _parts(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, name) for name in _PARTS)


_PARTS = tuple(field.name for field in dataclasses.fields(Condition))


class Conditioning(nn.Module, ABC):
    """tau_theta: maps named data fields of a batch to a `Condition`; trained with the denoiser where it has weights.

    `tokens` and `context_dim` are the number and width of its tokens (0 and None: it gives none), `concat_channels` the
    number of channels of its map (0: it gives none); the denoiser is built from them.
    """

    fields: tuple[str, ...]
    tokens: int
    context_dim: int | None
    concat_channels: int

    @abstractmethod
    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The condition of a batch; of `fields` only those named by `self.fields` are read.

        Shapes: each field (N, ...), one item an image; result as `Condition` says, with N items.
        Raises: UserError where a field is missing or holds values that this conditioning cannot read.
        """

    @abstractmethod
    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with the items where `mask` is true replaced by the null condition (Ho and Salimans 2022).

        The given mapping and its tensors stay as they are. Shapes: fields (N, ...), mask (N,) of booleans; result as
        fields.
        """

    def null(self, fields: Mapping[str, Tensor], n: int) -> Condition:
        """The null condition of a batch of `n` items: what `forward` gives where all of them are dropped.

        Shapes: fields (n, ...); result a `Condition` of n items.
        """
        everything = next(iter(fields.values())) if fields else torch.empty(0)
        return self(self.drop(fields, torch.ones(n, dtype=torch.bool, device=everything.device)))

    def placeholder(self, n: int, sides: tuple[int, int]) -> Condition:
        """A condition of the right shapes and unspecified values, for counting operations, also on the meta device.

        Shapes: `sides` (h, w) of the latent; context (n, tokens, context_dim), concat (n, concat_channels, h, w).
        """
        return Condition(
            None if self.context_dim is None else torch.empty(n, self.tokens, self.context_dim),
            None if self.concat_channels == 0 else torch.empty(n, self.concat_channels, *sides),
        )


def field_of(fields: Mapping[str, Tensor], name: str) -> Tensor:
    """The data field `name`, (N, ...), as it is.

    Raises: UserError where the data has no such field.
    """
    if name not in fields:
        given = ", ".join(sorted(fields)) or "none"
        raise UserError(
            f"the conditioning needs the data field '{name}', which the data does not have (it has: {given}): "
            "choose another conditioning or data with this annotation"
        )
    return fields[name]


def masked_items(value: Tensor, mask: Tensor, null: Tensor | float) -> Tensor:
    """`value`, (N, ...), with `null` in the items where `mask`, (N,), is true; result as `value`."""
    return torch.where(mask.view(-1, *[1] * (value.dim() - 1)), null, value)


class Unconditional(Conditioning):
    """No condition at all: reads no field, gives neither tokens nor a map, and dropping changes nothing."""

    fields = ()
    tokens = 0
    context_dim = None
    concat_channels = 0

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The empty condition, without tensors."""
        return Condition()

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """The fields as they are; `mask`, (N,), has no effect."""
        return dict(fields)
