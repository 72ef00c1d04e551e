"""What a denoiser is: options from which its network can be built."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn


class Denoiser(Protocol):
    """A denoiser's options, a frozen dataclass of them (`ldm.parts.option`).

    The network is called as `network(x, index, context=None, concat=None)`, with `context_mask` too where a condition's
    tokens differ in number. Shapes: x (N, C, h, w), index (N,), context (N, tokens, context_dim), concat (N, C', h, w)
    with C + C' = `in_channels`; result (N, `out_channels`, h, w), in x's dtype.

    Two things a class may say besides: `counts_tokens = True`, and `build` is also given `tokens`, the number of
    context tokens; `sizes`, by the values of its option `size`, what other options are then (unless they are given).
    """

    title: ClassVar[str]
    context_options: ClassVar[tuple[str, ...]]
    """Options that mean nothing to a model without context tokens; they are left at their defaults there."""

    @property
    def halvings(self) -> int:
        """How often the network halves the side of its input, which must be divisible by two as often."""
        ...

    def build(self, *, in_channels: int, out_channels: int, latent_side: int, context_dim: int | None) -> nn.Module:
        """The network with its initial weights, for latents of that side; `in_channels` counts x_t and maps.

        Raises: UserError for options that do not fit each other or the side.
        """
        ...


@runtime_checkable
class ChecksSide(Protocol):
    """What the options of a denoiser have besides where they say themselves which sides of latents suit them."""

    @property
    def divides(self) -> str:
        """What the sides must be divisible by, in words."""
        ...

    def check_side(self, latent_side: int) -> None:
        """Raises UserError for a side that does not suit them."""
        ...


@dataclass(frozen=True)
class Hidden:
    """A layer whose output is taken for a network's features: tokens (N, h w, width), or a map (N, width, h, w)."""

    layer: nn.Module
    width: int

    def tokens(self, output: Tensor) -> Tensor:
        """The output of the layer as tokens. Shapes: result (N, h w, width)."""
        return output if output.dim() == 3 else output.flatten(2).transpose(1, 2)


@runtime_checkable
class ShowsHidden(Protocol):
    """What a network has besides whose hidden features can be aligned with those of another one."""

    @property
    def hidden(self) -> Hidden:
        """The layer whose output is aligned, for latents that are square."""
        ...
