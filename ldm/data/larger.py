"""Images of another size than the training images, for the conditions of samples of that size.

The annotations of an image go the same way as its pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldm.data.annotations.boxes import LEAST_LEFT
from ldm.data.contract import Annotation, AnnotationValue, Box, ImageSource, Item, Split
from ldm.data.listing import ReadOnDemand
from ldm.records import content_hash

LARGER_CODE = 1
"""Raised by hand whenever a change here changes images or annotations."""


@dataclass(frozen=True)
class LargerImages:
    """The middle, `size` (height, width), of the source's images, or of as many side by side as that takes.

    An `ImageSource`. Image i is cut from a grid that begins with the source's image i, whose name, class and caption it
    has; the images that follow it fill the grid row by row. Where the source's images are large enough the grid is that
    image alone.
    """

    source: ImageSource
    size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of source images."""
        rows, columns = (math.ceil(part / side) for part, side in zip(self.size, self.source.size, strict=True))
        return rows, columns

    @property
    def resolution(self) -> int:
        """The source's."""
        return self.source.resolution

    @property
    def classes(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.classes

    @property
    def max_skipped_fraction(self) -> float:
        """The source's."""
        return self.source.max_skipped_fraction

    @property
    def fingerprint(self) -> str:
        """A hash of the source's and of the size."""
        return self._named(self.source.fingerprint)

    @property
    def annotations(self) -> Mapping[str, Annotation]:
        """The source's kinds, with fingerprints of their own."""
        given = self.source.annotations
        return ReadOnDemand(given, lambda kind: replace(given[kind], fingerprint=self._named(given[kind].fingerprint)))

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The name of image `index`."""
        return self.source.name(index)

    def item(self, index: int) -> Item:
        """Image `index` with the annotations that the source's items carry."""
        items = [self.source.item(place) for place in self._places(index)]
        boxes = [item.boxes for item in items if item.boxes is not None]
        maps = [item.semantic for item in items if item.semantic is not None]
        return replace(
            items[0],
            image=self._pixels([item.image for item in items]),
            boxes=self._boxes(boxes) if boxes else None,
            semantic=self._pixels(maps) if maps else None,
            unseen_objects=any(item.unseen_objects for item in items),
        )

    def annotation(self, kind: str, index: int) -> AnnotationValue:
        """The annotation of image `index`."""
        values = [self.source.annotation(kind, place) for place in self._places(index)]
        if kind == "boxes":
            return self._boxes([value for value in values if isinstance(value, tuple)])
        if kind == "semantic":
            return self._pixels([value for value in values if isinstance(value, np.ndarray)])
        return values[0]

    def _places(self, index: int) -> list[int]:
        rows, columns = self.grid
        return [(index + step) % len(self.source) for step in range(rows * columns)]

    def _corner(self) -> tuple[int, int]:
        """Top and left pixel of the cut in the grid."""
        top, left = (
            (number * side - part) // 2
            for number, side, part in zip(self.grid, self.source.size, self.size, strict=True)
        )
        return top, left

    def _pixels(self, squares: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        _, columns = self.grid
        top, left = self._corner()
        rows = [np.concatenate(squares[first : first + columns], 1) for first in range(0, len(squares), columns)]
        return np.concatenate(rows, 0)[top : top + self.size[0], left : left + self.size[1]]

    def _boxes(self, squares: Sequence[Sequence[Box]]) -> tuple[Box, ...]:
        """What the cut leaves of the boxes, largest first, in fractions of what it leaves of the grid."""
        _, columns = self.grid
        (top, left), (high, wide), (height, width) = self._corner(), self.source.size, self.size
        found = []
        for place, boxes in enumerate(squares):
            y, x = place // columns * high - top, place % columns * wide - left
            for box in boxes:
                whole = np.array([x + wide * box.x0, y + high * box.y0, x + wide * box.x1, y + high * box.y1])
                x0, y0, x1, y1 = whole.clip(0, [width, height] * 2).tolist()
                share = (x1 - x0) * (y1 - y0) / ((box.x1 - box.x0) * wide * (box.y1 - box.y0) * high)
                if share >= LEAST_LEFT and min(x1 - x0, y1 - y0) >= 1:
                    area = box.area * share * high * wide / (height * width)
                    found.append(Box(box.label, box.name, x0 / width, y0 / height, x1 / width, y1 / height, area))
        return tuple(sorted(found, key=lambda box: -box.area))

    def _named(self, fingerprint: str) -> str:
        return content_hash(["larger", LARGER_CODE, fingerprint, list(self.size)])


def at_size(splits: Mapping[Split, ImageSource], size: tuple[int, int] | None) -> dict[Split, ImageSource]:
    """The splits themselves, or their images of that (height, width)."""
    return {split: source if size is None else LargerImages(source, size) for split, source in splits.items()}
