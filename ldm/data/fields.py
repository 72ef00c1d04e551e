"""What conditionings read of images, by name: labels, word pieces, boxes, label maps, low-resolution images, masks."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.contract import ImageCache, Indices
from ldm.data.degradation import Degradation
from ldm.data.masks import MASK_KINDS, draw_mask

Draw = Callable[[int], np.random.Generator]
"""Position in a batch -> the random numbers of that image; asked only by fields that are random."""

Tokenise = Callable[[Sequence[str]], Tensor]
"""Captions -> word pieces (N, L) of integers."""

FieldMaker = Callable[[ImageCache, NDArray[np.integer], Draw], Tensor]
"""(images, indices, draw) -> one field of these images, on the CPU."""


@dataclass(frozen=True)
class Fields:
    """The named fields of an image set's images; `makers` says how each is made."""

    images: ImageCache
    makers: Mapping[str, FieldMaker]

    def __call__(self, indices: Indices, draw: Draw) -> dict[str, Tensor]:
        """The fields of these images, on the CPU. Shapes: indices (N,); each field (N, ...), images first."""
        chosen = np.asarray(indices)
        return {name: make(self.images, chosen, draw) for name, make in self.makers.items()}


def label(images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
    """Class indices (N,)."""
    return torch.from_numpy(images.labels[indices])


def image(images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
    """The images themselves, (N, 3, H, W) in [-1, 1]."""
    return images.batch(indices)


def semantic(images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
    """Label maps (N, H, W), int64."""
    assert images.semantic is not None, "planning asks for the annotation first"
    return torch.from_numpy(images.semantic[indices].astype(np.int64))


@dataclass(frozen=True)
class WordPieces:
    """Tokenised captions (N, L)."""

    tokenise: Tokenise

    def __call__(self, images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
        """Word pieces of these images' captions. Shapes: indices (N,); result (N, L)."""
        assert images.captions is not None, "planning asks for the annotation first"
        return self.tokenise([images.captions[int(index)] for index in indices])


@dataclass(frozen=True)
class Boxes:
    """Bounding boxes (N, `most`, 5): class, x0, y0, x1, y1 in fractions of the sides; class -1 = none."""

    most: int

    def __call__(self, images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
        """The `most` largest boxes of these images. Shapes: indices (N,); result (N, most, 5)."""
        assert images.boxes is not None, "planning asks for the annotation first"
        padded = torch.full((len(indices), self.most, 5), -1.0)
        for row, index in zip(padded, indices, strict=True):
            largest = sorted(images.boxes[int(index)], key=lambda box: -box.area)[: self.most]
            for place, box in zip(row, largest, strict=False):
                place[:] = torch.tensor([box.label, box.x0, box.y0, box.x1, box.y1])
        return padded


@dataclass(frozen=True)
class LowResolution:
    """Degraded images (N, 3, H / scale, W / scale) in [-1, 1]."""

    degradation: Degradation

    def __call__(self, images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
        """These images, degraded. Shapes: indices (N,); result (N, 3, H / scale, W / scale)."""
        whole = images.batch(indices)
        return torch.stack([self.degradation(one, functools.partial(draw, at)) for at, one in enumerate(whole)])


@dataclass(frozen=True)
class Masks:
    """Inpainting masks (N, 1, H, W), 1 where to be filled in, each of a kind drawn evenly from `kinds`."""

    kinds: Sequence[str] = MASK_KINDS

    def __call__(self, images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
        """A mask for each of these images. Shapes: indices (N,); result (N, 1, H, W)."""
        height, width = images.images.shape[1:3]
        drawn = [draw_mask(draw(position), height, width, self.kinds) for position in range(len(indices))]
        return torch.from_numpy(np.stack(drawn)).unsqueeze(1)
