"""What every image set offers before decoding (`ImageSource`) and after (`ImageCache`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.memo import ContentMemo
from ldm.memory import moved

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

Indices = Sequence[int] | range | NDArray[np.integer] | Tensor


class UnusableImage(Exception):  # noqa: N818 (its name is said to the user: what, not that it failed)
    """One image that cannot be used: broken, or too small; the cache skips it by name, up to the source's limit."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Box:
    """The visible extent of one object, in fractions of the image's sides.

    `label` indexes the source's classes, `name` says what it is, `area` is the visible part of the image's pixels.
    """

    label: int
    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    area: float


@dataclass(frozen=True)
class Annotation:
    """What a set has of all its images beside pixels and class: "captions", "boxes" or "semantic" (label maps).

    `fingerprint` names its content in one split. `names` are the classes of boxes, by `Box.label`, or of label maps, by
    value.
    """

    fingerprint: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One decoded image with all annotations of its set; None = the set has no such annotation.

    `image` uint8 (H, W, 3), `semantic` uint8 (H, W) with 0 = background and 1 + label elsewhere. `unseen_objects` marks
    held-out images that show objects no training image shows.
    """

    image: NDArray[np.uint8]
    name: str
    label: int | None = None
    caption: str | None = None
    boxes: tuple[Box, ...] | None = None
    semantic: NDArray[np.uint8] | None = None
    unseen_objects: bool = False


AnnotationValue = str | tuple[Box, ...] | NDArray[np.uint8]
"""One image's caption, boxes (largest first) or label map."""


def carried(item: Item) -> dict[str, AnnotationValue]:
    """The annotations that an item carries, by kind."""
    values = {"captions": item.caption, "boxes": item.boxes, "semantic": item.semantic}
    return {kind: value for kind, value in values.items() if value is not None}


class ImageSource(Protocol):
    """One split of an image set at one resolution, decoded on demand.

    `size` is (height, width) of its images: (`resolution`, `resolution`) but for those of `ldm.data.larger`.
    `fingerprint` names everything that can change pixels, labels or their order; `annotations`, by kind, have their
    own, so that first stages are shared by all conditionings: which kinds there are is known at once, but an annotation
    may be read and checked only when `annotations[kind]` is asked for (then it raises UserError). `classes` is empty
    where images have no label. `item` and `annotation` may be called from several threads; `item` raises
    `UnusableImage` for an image to be skipped, and more than `max_skipped_fraction` of those is an error. A source may
    also have `notes`: sentences on how it was read that the user should know.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def resolution(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def annotations(self) -> Mapping[str, Annotation]: ...

    @property
    def max_skipped_fraction(self) -> float: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def item(self, index: int) -> Item: ...

    def annotation(self, kind: str, index: int) -> AnnotationValue: ...


class DataSource(Protocol):
    """What opens an image set: a frozen dataclass of its options (`ldm.parts.option`), the keys under `data`.

    One of them is `resolution`, the side of the training images.
    """

    title: ClassVar[str]

    def open(self, size: tuple[int, int] | None, memo: ContentMemo) -> dict[Split, ImageSource]:
        """The training and the held-out images, nothing decoded yet; of another (height, width) where it is given.

        `memo` remembers content identities between calls. Raises: UserError for whatever is wrong with the set.
        """
        ...


def annotation_file(kind: str, annotation: Annotation) -> str:
    """The name under which a cache keeps an annotation."""
    return f"{kind}-{annotation.fingerprint[:16]}.{'npy' if kind == 'semantic' else 'json'}"


@dataclass(frozen=True)
class ImageCache:
    """A decoded image set in memory-mapped files; made by `ldm.data.cache`.

    `images` uint8 (N, H, W, 3); `labels` int64 (N,), all -1 where the set has no classes; `skipped` (name, reason) of
    the files left out; `unseen_objects` bool (N,); `annotations` those that are stored beside the images.
    """

    folder: Path
    fingerprint: str
    resolution: int
    classes: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    unseen_objects: NDArray[np.bool_]
    annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def semantic(self) -> NDArray[np.uint8] | None:
        """Memory-mapped label maps (N, H, W), or None where none are stored."""
        path = self._stored("semantic")
        return np.load(path, mmap_mode="r") if path else None

    @cached_property
    def captions(self) -> tuple[str, ...] | None:
        """One caption an image, or None where none are stored."""
        path = self._stored("captions")
        return tuple(json.loads(path.read_text(encoding="utf-8"))) if path else None

    @cached_property
    def boxes(self) -> tuple[tuple[Box, ...], ...] | None:
        """The boxes of every image, or None where none are stored."""
        path = self._stored("boxes")
        if path is None:
            return None
        return tuple(tuple(Box(*box) for box in boxes) for boxes in json.loads(path.read_text(encoding="utf-8")))

    def _stored(self, kind: str) -> Path | None:
        annotation = self.annotations.get(kind)
        return None if annotation is None else self.folder / annotation_file(kind, annotation)

    def uint8(self, indices: Indices) -> Tensor:
        """The images as they are stored: uint8 (n, 3, H, W)."""
        taken = np.ascontiguousarray(self.images[np.asarray(indices)].transpose(0, 3, 1, 2))
        return torch.from_numpy(taken)

    def batch(self, indices: Indices, flip: Tensor | None = None, device: torch.device | str = "cpu") -> Tensor:
        """The images as float32 (n, 3, H, W) in [-1, 1], mirrored left to right where `flip`, bool (n,), is set.

        They go to a GPU as they are stored, in a quarter of the bytes.
        """
        images = moved(self.uint8(indices), device).float().div_(127.5).sub_(1.0)
        if flip is None:
            return images
        return torch.where(moved(flip, device).view(-1, 1, 1, 1), images.flip(-1), images)
