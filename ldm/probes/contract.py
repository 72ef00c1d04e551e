"""What every probe offers, and how images enter one."""

from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ldm.data.contract import ImageCache, Indices


class Probe(Protocol):
    """A network that recognises one kind of condition in an image, and how its answers are counted.

    `metric` names the score that `ldm.metrics.task` makes of the counts, `side` the size at which the network sees the
    image, or the box of it, that it is asked about, `answers` what it can say. Targets are one tensor, images first.
    """

    metric: ClassVar[str]

    @property
    def network(self) -> nn.Module: ...

    @property
    def side(self) -> int: ...

    @property
    def answers(self) -> tuple[str, ...]: ...

    def usable(self, images: ImageCache) -> list[int]:
        """The images of a set that the probe can be trained with and asked about."""
        ...

    def targets(self, images: ImageCache, indices: Indices) -> Tensor:
        """The conditions that these images are annotated with.

        Shapes: indices (N,); result (N, ...), as each probe states.
        """
        ...

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """The training loss of images (N, 3, H, W) in [-1, 1] with their targets (N, ...): a scalar, ()."""
        ...

    def counts(self, images: Tensor, targets: Tensor) -> NDArray[Any]:
        """What the network finds in images (N, 3, H, W) in [-1, 1], counted image by image.

        Shapes: targets (N, ...); result (N, ...), as each probe states.
        """
        ...


def resized(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) at `side` x `side`, bilinear and antialiased, in channels_last."""
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return images.contiguous(memory_format=torch.channels_last)
