"""What shapes the latents of a first stage in training, beside its regulariser.

Most say at each step which view of the latents is decoded, and of which view of their images the result should be. One
that is off takes no part, and no identity holds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ldm.randomness import generator


@dataclass(frozen=True)
class LatentBatch:
    """The shape of a batch of latents, (n, channels, side, side), and the smallest side whose images networks take.

    own: which of the n are at hand, where a batch is divided.
    """

    n: int
    channels: int
    side: int
    smallest: int = 1
    own: slice = field(default_factory=lambda: slice(None))

    @property
    def limit(self) -> str:
        """What is behind a refusal, that of the networks of the loss: nothing where they take any image."""
        return "" if self.smallest == 1 else f" and the networks of the loss take no less than {self.smallest}"


@dataclass(frozen=True)
class View:
    """A view of latents (N, C, h, w) and the same view of their images (N, 3, H, W); `side` is that of its latents."""

    latent: Callable[[Tensor], Tensor]
    image: Callable[[Tensor], Tensor]
    side: int


class LatentShaping(ABC):
    """One way to shape latents: a frozen dataclass whose fields are its options.

    name: of its axis in tables, and of its randomness. group: where its options stand under `ae`, None: beside the
    settings of all first stages.
    """

    name: ClassVar[str]
    group: ClassVar[str | None]

    @property
    @abstractmethod
    def value(self) -> str | None:
        """What tables call it as it is set; None where it is off."""

    @abstractmethod
    def check(self, latents: LatentBatch) -> None:
        """Raises: UserError where it cannot shape such latents."""


class ViewShaping(LatentShaping):
    """One that has views of latents and of their images decoded and compared."""

    @property
    @abstractmethod
    def weight(self) -> float | None:
        """Of the reconstruction from a view that is decoded beside the latents; None: it stands in their place."""

    @abstractmethod
    def view(self, latents: LatentBatch, draw: torch.Generator) -> View:
        """The view of a training step, all that is random in it drawn by `draw`."""


@dataclass(frozen=True)
class Views:
    """The views of a training step: those decoded in place of the latents, one after the other, and those beside them.

    beside: by the name of its term in the loss, the weight and the view.
    """

    in_place: Sequence[View]
    beside: dict[str, tuple[float, View]]

    def latent(self, latent: Tensor) -> Tensor:
        """What is decoded in place of a latent. Shapes: (N, C, h, w), the result of another side where one is."""
        for view in self.in_place:
            latent = view.latent(latent)
        return latent

    def image(self, image: Tensor) -> Tensor:
        """What the result should be. Shapes: (N, 3, H, W), the result of another side where the latent's is."""
        for view in self.in_place:
            image = view.image(image)
        return image

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of all latents that the step decodes, on which its cost depends."""
        return tuple(view.side for view in (*self.in_place, *(view for _, view in self.beside.values())))


def views_at(shapings: Collection[LatentShaping], latents: LatentBatch, seed: int, step: int) -> Views:
    """The views of training step `step`: a pure function of the seed and the step, and of no other shaping."""
    viewing = [each for each in shapings if isinstance(each, ViewShaping)]
    drawn = [(each, each.view(latents, generator(seed, each.name, step))) for each in viewing]
    return Views(
        [view for each, view in drawn if each.weight is None],
        {each.name: (each.weight, view) for each, view in drawn if each.weight is not None},
    )
