"""Boxes with classes: COCO's JSON (images, annotations with bbox in pixels, categories) and OpenImages' CSV.

Boxes around crowds or groups are left out. A box goes through its image's crop: it is clipped, and left out where less
than `LEAST_LEFT` of it, or less than a pixel, remains.
"""

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ldm.data.annotations.box_files import READERS, BoxFile, ClassKey, descriptions, is_description
from ldm.data.annotations.image_box_files import files_of_images, read_boxes
from ldm.data.annotations.lookup import AnnotationPlaces, ImageFinder, check_some_found, located, shown
from ldm.data.contract import Box
from ldm.data.decode import central_square, upright_size
from ldm.data.files import READ_ERRORS, Files
from ldm.data.listing import AnnotationReader
from ldm.errors import UserError

LEAST_LEFT = 0.25
"""Share of a box that a cut must leave; it must also leave a pixel a side, or the box is dropped."""

CHECKED_SHAPES = 100
"""Images whose shape is compared with what the box file says of it, before anything runs."""

COCO_NAMES = ("annotations.json", "boxes.json", "_annotations.coco.json")


@dataclass(frozen=True)
class BoxTable:
    """Boxes as an `AnnotationTable`.

    `labels` int64 (n,), `corners` float64 (n, 4) in fractions of the whole image's sides; `spans` the part of both that
    is an image's; `aspects` width over height as files say it, each with its name.
    """

    files: Files
    spans: Mapping[str, tuple[int, int]]
    labels: NDArray[np.int64]
    corners: NDArray[np.float64]
    aspects: Mapping[str, Sequence[tuple[float, str]]]
    names: tuple[str, ...]

    def content(self, name: str) -> list[list[float]] | None:
        if name not in self.spans:
            return None
        part = slice(*self.spans[name])
        rows = zip(self.labels[part].tolist(), self.corners[part].round(6).tolist(), strict=True)
        return [[label, *corners] for label, corners in rows]

    def value(self, name: str, resolution: int) -> tuple[Box, ...]:
        """What the crop leaves of the image's boxes, largest first; empty where the image has none."""
        if name not in self.spans or self.spans[name][0] == self.spans[name][1]:
            return ()
        part = slice(*self.spans[name])
        width, height = self.checked_size(name) or (1, 1)  # an unreadable image is skipped anyway
        left, top, right, _ = central_square(width, height)
        scale, shift = np.array([width, height] * 2), np.array([left, top] * 2)
        whole = (self.corners[part] * scale - shift) / (right - left)
        kept = whole.clip(0.0, 1.0)
        sides, full = kept[:, 2:] - kept[:, :2], whole[:, 2:] - whole[:, :2]
        is_left = (sides.prod(1) >= LEAST_LEFT * full.prod(1)) & (sides * resolution >= 1.0).all(1)
        boxes = [
            Box(label, self.names[label], x0, y0, x1, y1, area)
            for label, (x0, y0, x1, y1), area in zip(
                self.labels[part][is_left].tolist(),
                kept[is_left].tolist(),
                sides[is_left].prod(1).tolist(),
                strict=True,
            )
        ]
        return tuple(sorted(boxes, key=lambda box: -box.area))

    def checked_size(self, name: str) -> tuple[int, int] | None:
        """The image's size. Raises: UserError where the box file speaks of an image of another shape."""
        try:
            with self.files.open(name) as file:
                size = upright_size(file)
        except READ_ERRORS:
            return None
        if size is None:
            return None
        width, height = size
        for aspect, source in self.aspects.get(name, ()):
            # At that aspect one of the sides would differ by more than the rounding of a resized copy.
            if abs(aspect * height - width) > 1.5 and abs(width / aspect - height) > 1.5:
                raise UserError(
                    f"{source}: {name} is said to be {aspect:.3f} times as wide as high, but it is {width}x{height}; "
                    "width, height and bbox are expected to be those of the image before any cropping."
                )
        return size


def find_boxes(files: Files, images: Sequence[str], places: AnnotationPlaces) -> AnnotationReader | None:
    """What reads the boxes: `data.boxes`, else JSON files in COCO's format with a usual name; None without them.

    Raises: UserError where data.boxes names nothing, or nothing that holds boxes.
    """
    if places.boxes is None:
        named = [name for name in files.names if is_coco_name(name)]
        return box_reader(files, files, named, images) if named else image_box_reader(files, files, images)
    place = located(files, places.boxes, "data.boxes")
    sources = sorted(place.below().values()) if place.is_folder else [place.name]
    sources = [name for name in sources if PurePosixPath(name).suffix.lower() in READERS and not is_description(name)]
    if place.is_folder:
        sources = [name for name in sources if is_coco_name(name) or "bbox" in PurePosixPath(name).name]
    if not sources and place.is_folder:
        reader = image_box_reader(files, place.files, images)
        if reader is not None:
            return reader
    if not sources:
        raise UserError(
            f"data.boxes={places.boxes} holds no boxes; expected is a .json file in COCO's format or a .csv file in "
            "that of OpenImages, or a folder of such (instances*.json, annotations.json, *bbox*.csv)."
        )
    return box_reader(files, place.files, sources, images)


def image_box_reader(files: Files, at: Files, images: Sequence[str]) -> AnnotationReader | None:
    """What reads files at `at` that list the boxes of one image each; None where there are none."""
    of_image = files_of_images(at, images)
    if not of_image:
        return None

    def load() -> BoxTable:
        listed = read_boxes(at, of_image)
        return _joined(files, images, {shown(at, ""): (listed, list(of_image))})

    return AnnotationReader(at, tuple(of_image.values()), load)


def is_coco_name(name: str) -> bool:
    """Whether a file is called as files in COCO's format usually are."""
    base = posixpath.basename(name)
    return base in COCO_NAMES or (base.startswith("instances") and base.endswith(".json"))


def box_reader(files: Files, at: Files, sources: Sequence[str], images: Sequence[str]) -> AnnotationReader:
    """What reads these files at `at` about the images in `files`."""
    return AnnotationReader(at, (*sources, *descriptions(at, sources)), partial(_table, files, at, sources, images))


def _table(files: Files, at: Files, sources: Sequence[str], images: Sequence[str]) -> BoxTable:
    """What all files say together: boxes of an image that several files list are joined, equal ones counted once."""
    finder = ImageFinder(images)
    classes: dict[ClassKey, str] = {}
    found: dict[str, tuple[BoxFile, list[str | None]]] = {}
    for source in sources:
        where = shown(at, source)
        listed = READERS[PurePosixPath(source).suffix.lower()](at, source)
        named = {name: key for key, name in classes.items()}
        for key, name in listed.classes.items():
            if classes.setdefault(key, name) != name:
                raise UserError(f"{where} calls category {key} '{name}', another file '{classes[key]}'.")
            if key not in named.values() and name in named:
                raise UserError(f"{where} has '{name}' as category {key}, another file as category {named[name]}.")
        folder = PurePosixPath(source).parent.as_posix()
        found[where] = listed, finder.find_all(listed.file_names, folder)
    check_some_found({where: (listed.file_names, of_image) for where, (listed, of_image) in found.items()})
    return _joined(files, images, found)


def _joined(files: Files, images: Sequence[str], found: Mapping[str, tuple[BoxFile, Sequence[str | None]]]) -> BoxTable:
    """Boxes of all images from what several files list, by the file."""
    classes: dict[ClassKey, str] = {}
    for listed, _ in found.values():
        classes |= listed.classes
    keys = sorted(classes) if all(isinstance(key, int) for key in classes) else list(classes)
    number = {key: position for position, key in enumerate(keys)}

    place = {name: position for position, name in enumerate(images)}
    listings = np.zeros(len(images), np.int64)
    aspects: dict[str, list[tuple[float, str]]] = defaultdict(list)
    owners, labels, corners = [], [], []
    for where, (listed, of_image) in found.items():
        places = np.array([-1 if image is None else place[image] for image in of_image], np.int64)
        listings[np.unique(places[places >= 0])] += 1
        if listed.aspects is not None:
            for image, aspect in zip(of_image, listed.aspects, strict=True):
                if image is not None:
                    aspects[image].append((aspect, where))
        owner = places[listed.owners]
        owners.append(owner[owner >= 0])
        labels.append(np.array([number[key] for key in listed.labels], np.int64)[owner >= 0])
        corners.append(listed.corners.reshape(-1, 4)[owner >= 0])
    owner, label, corner = np.concatenate(owners), np.concatenate(labels), np.concatenate(corners)
    kept = _once(owner, label, corner, listings > 1)
    kept = kept[np.argsort(owner[kept], kind="stable")]
    ends = np.searchsorted(owner[kept], np.arange(len(images) + 1))
    # A file without shapes of images lists boxes alone, so images that it does not name have none.
    has_none = any(listed.aspects is None for listed, _ in found.values())
    spans = {
        name: (int(ends[position]), int(ends[position + 1]))
        for name, position in place.items()
        if has_none or listings[position]
    }
    names = tuple(classes[key] for key in keys)
    table = BoxTable(files, spans, label[kept], corner[kept], aspects, names)
    for image in list(aspects)[:: max(1, len(aspects) // CHECKED_SHAPES)]:
        table.checked_size(image)
    return table


def _once(
    owners: NDArray[np.int64], labels: NDArray[np.int64], corners: NDArray[np.float64], is_joined: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The rows, in order, without those that repeat an earlier one of an image that several files list."""
    if not is_joined.any():
        return np.arange(len(owners))
    rows = np.column_stack([owners, labels, corners.round(6)])
    _, first = np.unique(rows, axis=0, return_index=True)
    is_first = np.zeros(len(owners), np.bool_)
    is_first[first] = True
    return np.flatnonzero(is_first | ~is_joined[owners])
