"""What a denoiser is told besides x_t and its noise level, and what makes that of data fields (tau_theta)."""

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

    Shapes: `context` (N, tokens, width) for cross-attention, `concat` (N, C, h, w) beside x_t; None where not used.
    """

    context: Tensor | None = None
    concat: Tensor | None = None

    def cat(self, other: "Condition") -> "Condition":
        """This batch followed by `other`, for one batched call of the network.

        Raises: ValueError where the two are of different kinds or shapes.
        """
        return Condition(_joined(self.context, other.context, "context"), _joined(self.concat, other.concat, "concat"))

    def __getitem__(self, items: slice | Tensor) -> "Condition":
        """The condition of some items of the batch, chosen as in indexing a tensor's first axis."""
        return Condition(
            None if self.context is None else self.context[items],
            None if self.concat is None else self.concat[items],
        )


class Conditioning(nn.Module, ABC):
    """tau_theta: maps named data fields of a batch to a `Condition`; trained with the denoiser where it has weights.

    `context_dim` is the width of its tokens (None: it gives no tokens), `concat_channels` the number of channels of its
    map (0: it gives no map); the denoiser is built from both.
    """

    fields: tuple[str, ...]
    context_dim: int | None
    concat_channels: int

    @abstractmethod
    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The condition of a batch; of `fields` only those named by `self.fields` are read.

        Raises: UserError where a field is missing or holds what this conditioning cannot mean.
        """

    @abstractmethod
    def null(self, n: int, device: torch.device | str) -> Condition:
        """The null condition of `n` items: what `forward` gives for items that `drop` has masked."""

    @abstractmethod
    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with the items where `mask` is true replaced by the null condition (Ho and Salimans 2022).

        Shapes: mask (N,) of booleans. The given mapping and its tensors stay as they are.
        """


def field_of(fields: Mapping[str, Tensor], name: str) -> Tensor:
    """The data field `name`.

    Raises: UserError where the data has no such field.
    """
    if name not in fields:
        given = ", ".join(sorted(fields)) or "none"
        raise UserError(
            f"the conditioning needs the data field '{name}', which the data does not have (it has: {given}): "
            "choose another conditioning or data with this annotation"
        )
    return fields[name]


class Unconditional(Conditioning):
    """No condition at all: reads no field, gives neither tokens nor a map, and dropping changes nothing."""

    fields = ()
    context_dim = None
    concat_channels = 0

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The empty condition."""
        return Condition()

    def null(self, n: int, device: torch.device | str) -> Condition:
        """The empty condition."""
        return Condition()

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """The fields as they are."""
        return dict(fields)
