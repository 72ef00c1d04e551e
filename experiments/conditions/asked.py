"""The conditions that samples are given."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.contract import ImageCache
from ldm.data.fields import Fields
from ldm.metrics.task import shuffled_partners
from ldm.randomness import generator, numpy_generator


@dataclass(frozen=True)
class AskedConditions:
    """The conditions that samples are given: sample i that of image `indices[i]`, what is random in it by (seed, i).

    `said`: fields that are not those of images, a row a sample.
    """

    fields: Fields
    indices: Sequence[int]
    seed: int
    said: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, part: range) -> dict[str, Tensor]:
        """The fields of some samples, on the CPU."""
        chosen = np.asarray(self.indices[part.start : part.stop])
        of_images = self.fields(chosen, lambda item: numpy_generator(self.seed, "fields", part.start + item))
        return {**of_images, **{name: rows[part.start : part.stop] for name, rows in self.said.items()}}

    def originals(self, part: range) -> Tensor:
        """The images whose conditions these are, uint8 (n, 3, H, W)."""
        return self.fields.images.uint8(self.indices[part.start : part.stop])

    @functools.cached_property
    def partners(self) -> NDArray[np.int64]:
        """For each sample another one, whose condition it is asked about for the floor."""
        return shuffled_partners(len(self.indices), self.seed)


def drawn_images(total: int, n: int, seed: int) -> list[int]:
    """For each of n samples one of `total` images, drawn by (seed, i): conditions are as frequent as among these."""
    return [int(torch.randint(total, (), generator=generator(seed, "condition", i))) for i in range(n)]


@dataclass(frozen=True)
class GivenSample:
    """What one sample was given: its fields, without the axis of the batch, of image `index` of a set."""

    fields: Mapping[str, Tensor]
    images: ImageCache
    index: int
