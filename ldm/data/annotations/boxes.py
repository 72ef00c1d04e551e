"""Boxes with classes: COCO's JSON (images, annotations with bbox in pixels, categories) and OpenImages' CSV.

Boxes around crowds or groups are left out. A box goes through its image's crop: it is clipped, and left out where less
than `LEAST_LEFT` of it, or less than a pixel, remains.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ldm.data.annotations.box_files import READERS, BoxFile, ClassKey, descriptions, is_description
from ldm.data.annotations.lookup import AnnotationPlaces, ImageFinder, located, shown
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
    is an image's; `aspects` width over height and the file that says so.
    """

    files: Files
    spans: Mapping[str, tuple[int, int]]
    labels: NDArray[np.int64]
    corners: NDArray[np.float64]
    aspects: Mapping[str, tuple[float, str]]
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
        if size is not None and name in self.aspects:
            aspect, source = self.aspects[name]
            width, height = size
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
        return box_reader(files, files, named, images) if named else None
    place = located(files, places.boxes, "data.boxes")
    sources = sorted(place.below().values()) if place.is_folder else [place.name]
    sources = [name for name in sources if PurePosixPath(name).suffix.lower() in READERS and not is_description(name)]
    if place.is_folder:
        sources = [name for name in sources if is_coco_name(name) or "bbox" in PurePosixPath(name).name]
    if not sources:
        raise UserError(
            f"data.boxes={places.boxes} holds no boxes; expected is a .json file in COCO's format or a .csv file in "
            "that of OpenImages, or a folder of such (instances*.json, annotations.json, *bbox*.csv)."
        )
    return box_reader(files, place.files, sources, images)


def is_coco_name(name: str) -> bool:
    """Whether a file is called as files in COCO's format usually are."""
    base = posixpath.basename(name)
    return base in COCO_NAMES or (base.startswith("instances") and base.endswith(".json"))


def box_reader(files: Files, at: Files, sources: Sequence[str], images: Sequence[str]) -> AnnotationReader:
    """What reads these files at `at` about the images in `files`."""
    return AnnotationReader(at, (*sources, *descriptions(at, sources)), partial(_table, files, at, sources, images))


def _table(files: Files, at: Files, sources: Sequence[str], images: Sequence[str]) -> BoxTable:
    finder = ImageFinder(images)
    classes: dict[ClassKey, str] = {}
    found: list[tuple[BoxFile, list[str | None], str]] = []
    for source in sources:
        where = shown(at, source)
        listed = READERS[PurePosixPath(source).suffix.lower()](at, source)
        for key, name in listed.classes.items():
            if classes.setdefault(key, name) != name:
                raise UserError(f"{where} calls category {key} '{name}', another file '{classes[key]}'.")
        folder = PurePosixPath(source).parent.as_posix()
        found.append((listed, finder.find_all(listed.file_names, folder, where), where))
    keys = sorted(classes) if all(isinstance(key, int) for key in classes) else list(classes)
    number = {key: position for position, key in enumerate(keys)}

    spans: dict[str, tuple[int, int]] = {}
    aspects: dict[str, tuple[float, str]] = {}
    labels, corners, start = [], [], 0
    for listed, of_image, where in found:
        order = np.argsort(listed.owners, kind="stable")
        bounds = np.searchsorted(listed.owners[order], np.arange(len(of_image) + 1)) + start
        for position, image in enumerate(of_image):
            if image is None:
                continue
            spans[image] = (int(bounds[position]), int(bounds[position + 1]))
            if listed.aspects is not None:
                aspects[image] = (listed.aspects[position], where)
        labels.append(np.array([number[listed.labels[row]] for row in order], np.int64))
        corners.append(listed.corners[order].reshape(-1, 4))
        start += len(order)
    if any(listed.aspects is None for listed, _, _ in found):  # such a file lists boxes alone, so these have none
        spans = {**dict.fromkeys(images, (0, 0)), **spans}
    names = tuple(classes[key] for key in keys)
    table = BoxTable(files, spans, np.concatenate(labels), np.concatenate(corners), aspects, names)
    for image in list(aspects)[:: max(1, len(aspects) // CHECKED_SHAPES)]:
        table.checked_size(image)
    return table
