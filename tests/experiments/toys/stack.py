"""A toy denoiser: a stack of convolutions, to which noise level and condition are added."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ldm.parts import option


class Stack(nn.Module):
    """As many 3x3 convolutions as `depth` says."""

    def __init__(self, in_channels: int, out_channels: int, width: int, depth: int, context_dim: int | None) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, width, 3, padding=1)
        self.level = nn.Linear(1, width)
        self.context = None if context_dim is None else nn.Linear(context_dim, width)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.leave = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        context: Tensor | None = None,
        concat: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction for x_t. Shapes: as `ldm.denoiser.contract` has them."""
        h = self.enter(x if concat is None else torch.cat([x, concat], dim=1))
        added = self.level(index.to(h.dtype).view(-1, 1) / 1000)
        if self.context is not None and context is not None:
            added = added + self.context(context).mean(dim=1)
        for layer in self.inner:
            h = h + layer(nn.functional.silu(h + added[:, :, None, None]))
        return self.leave(nn.functional.silu(h)).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """The options of a `Stack`."""

    title: ClassVar[str] = "the stack"
    context_options: ClassVar[tuple[str, ...]] = ()

    width: int = option(low=1, help="channels")
    depth: int = option(2, low=1, help="layers between the first and the last")

    @property
    def halvings(self) -> int:
        """It never changes the side."""
        return 0

    def build(self, *, in_channels: int, out_channels: int, latent_side: int, context_dim: int | None) -> Stack:
        """The network with its initial weights."""
        return Stack(in_channels, out_channels, self.width, self.depth, context_dim)
