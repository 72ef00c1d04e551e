"""Label maps: one-channel PNGs whose pixel values are the numbers of classes, one for each image.

Values become 0 to K - 1 in their order, over both splits. 255 is void, whatever the other values are, and becomes the
last class; so does, in an image without a map, every pixel. Classes are named by `classes.txt` (line i names value i),
`classes.json` (a list, or an object from value to name; other values are void), else "class 7".
"""

import io
import json
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.data.annotations.lookup import AnnotationPlaces, Place, located, parallel_files, read_text, shown, stem
from ldm.data.decode import central_square, upright_size
from ldm.data.files import HASHING_THREADS, READ_ERRORS, Files
from ldm.data.listing import AnnotationReader, is_image_name
from ldm.errors import UserError

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "photos", "jpegimages"})
LABEL_FOLDERS = frozenset(
    {"labels", "label", "masks", "mask", "annotations", "segmentation", "segmentationclass", "semantic"}
)
ENDINGS = ("_L", "_P", "_label", "_labels", "_mask", "_seg")
"""What a label map's name may have behind the name of its image."""

NAME_LISTS = ("classes.txt", "classes.json", "codes.txt")
VOID = 255
COUNTING_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Pillow's modes of one channel of whole numbers."""


@dataclass(frozen=True)
class LabelFiles:
    """Label maps by the names of their images, and all files in their folders, which are no images of the set."""

    place: Place
    by_image: Mapping[str, str]
    apart: frozenset[str]


@dataclass(frozen=True)
class LabelMaps:
    """Label maps as an `AnnotationTable`; `lookup` uint8 (256,) is the class of each value."""

    files: Files
    by_image: Mapping[str, str]
    contents: Mapping[str, str]
    lookup: NDArray[np.uint8]
    names: tuple[str, ...]

    def content(self, name: str) -> str | None:
        return self.contents.get(name)

    def value(self, name: str, resolution: int) -> NDArray[np.uint8]:
        """The map's central square, nearest pixels: shape (resolution, resolution)."""
        if name not in self.by_image:
            return np.full((resolution, resolution), self.lookup[VOID])
        labels = Image.fromarray(_values(self.files, self.by_image[name]))
        size = (resolution, resolution)
        return self.lookup[np.asarray(labels.resize(size, Image.Resampling.NEAREST, box=central_square(*labels.size)))]


def find_label_files(files: Files, places: AnnotationPlaces) -> LabelFiles | None:
    """The label maps in `data.semantic`, else in folders beside those of the images; None where there are none.

    A folder `labels/` belongs to a folder `images/` beside it where at least one of its files is named as an image is.
    Raises: UserError where data.semantic names nothing, or nothing that holds label maps.
    """
    if places.semantic is None:
        return _beside_images(files)
    place = located(files, places.semantic, "data.semantic")
    if not place.is_folder:
        raise UserError(f"data.semantic={places.semantic} is a file; expected is a folder or zip of label maps.")
    below = place.below()
    maps = {key: full for name, full in below.items() if name.lower().endswith(".png") for key in _image_stems(name)}
    inside = frozenset(below.values()) if place.files is files else frozenset()
    images = [name for name in files.names if is_image_name(name) and name not in inside]
    found = parallel_files(maps, images, place)
    if not found:
        raise UserError(f"data.semantic={places.semantic} holds no .png file named as an image is.")
    return LabelFiles(place, found, inside)


def label_map_reader(files: Files, found: LabelFiles, images: Sequence[str]) -> AnnotationReader:
    """What reads the label maps of these images in `files`."""
    by_image = {image: found.by_image[image] for image in images if image in found.by_image}
    lists = _name_lists(found)
    is_complete = len(by_image) == len(images)
    load = partial(_table, files, found.place.files, by_image, lists, is_complete)
    return AnnotationReader(found.place.files, (*by_image.values(), *lists), load)


def _image_stems(name: str) -> list[str]:
    """Paths without suffix of the images that a label map of this name may belong to."""
    whole = stem(name)
    return [whole, *(whole.removesuffix(ending) for ending in ENDINGS if whole.endswith(ending))]


def _beside_images(files: Files) -> LabelFiles | None:
    """Label maps in a folder that stands beside a folder of images, anywhere in the path."""
    folders_there = {posixpath.dirname(name).lower() for name in files.names}
    if not any(LABEL_FOLDERS.intersection(folder.split("/")) for folder in folders_there):
        return None
    images: dict[tuple[str, str], str] = {}
    for name in files.names:
        if is_image_name(name):
            images.update({(above, below): name for above, _, below in _splits(stem(name), IMAGE_FOLDERS)})
    found: dict[str, str] = {}
    folders: set[str] = set()
    for name in files.names:
        if not name.lower().endswith(".png"):
            continue
        for candidate in _image_stems(name):
            for above, folder, below in _splits(candidate, LABEL_FOLDERS):
                if (above, below) in images:
                    found.setdefault(images[above, below], name)
                    folders.add(f"{above}{folder}/")
    if not found:
        return None
    apart = frozenset(name for name in files.names if name.startswith(tuple(folders)))
    return LabelFiles(Place(files, "", is_folder=True), found, apart)


def _splits(path: str, folders: frozenset[str]) -> list[tuple[str, str, str]]:
    """The path around each of its folders that has one of the names: what is above (with a slash), folder, below."""
    parts = path.split("/")
    return [
        ("".join(f"{part}/" for part in parts[:level]), parts[level], "/".join(parts[level + 1 :]))
        for level in range(len(parts) - 1)
        if parts[level].lower() in folders
    ]


def _name_lists(found: LabelFiles) -> tuple[str, ...]:
    """The list of class names nearest to the top, if any, in a folder above label maps."""
    folders = {str(folder) for name in found.by_image.values() for folder in PurePosixPath(name).parents}
    lists = [
        name
        for name in found.place.files.names
        if PurePosixPath(name).name in NAME_LISTS and str(PurePosixPath(name).parent) in folders
    ]
    return tuple(sorted(lists, key=lambda name: (name.count("/"), name))[:1])


def _table(
    files: Files, maps: Files, by_image: Mapping[str, str], lists: Sequence[str], is_complete: bool
) -> LabelMaps:
    """Looks at every map: its values, and whether its shape is that of its image."""
    seen = np.zeros(256, np.bool_)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        checks = [pool.submit(_checked_values, files, image, maps, label) for image, label in by_image.items()]
        for check in checks:
            seen[check.result()] = True
    named = _names(maps, lists[0]) if lists else None
    numbers = [int(value) for value in np.flatnonzero(seen) if value != VOID] if named is None else sorted(named)
    if named is not None and lists[0].endswith(".txt"):
        unnamed = [int(value) for value in np.flatnonzero(seen) if value not in named and value != VOID]
        if unnamed:
            raise UserError(
                f"{shown(maps, lists[0])} names the values 0 to {len(named) - 1}, but label maps hold {unnamed[0]}; "
                "add its name, or give classes.json, an object from value to name."
            )
    names = [named[number] if named is not None else f"class {number}" for number in numbers]
    void = len(numbers)
    lookup = np.full(256, void, np.uint8)
    lookup[numbers] = np.arange(void)
    if not is_complete or (lookup[seen] == void).any():
        names.append("void")
    contents = dict(zip(by_image, maps.identities(list(by_image.values())), strict=True))
    return LabelMaps(maps, by_image, contents, lookup, tuple(names))


def _checked_values(files: Files, image: str, maps: Files, label: str) -> NDArray[np.intp]:
    """The values in a label map. Raises: UserError where it is none, or of another shape than its image."""
    values = _values(maps, label)
    try:
        with files.open(image) as file:
            size = upright_size(file)
    except READ_ERRORS:
        size = None  # said, and skipped, when the images are decoded
    if size is not None:
        height, width = values.shape
        scale = max(width / size[0], height / size[1])
        if abs(width - scale * size[0]) > 1 or abs(height - scale * size[1]) > 1:
            raise UserError(
                f"{shown(maps, label)} is {width}x{height}; expected is the shape of its image {image}, "
                f"{size[0]}x{size[1]}, or the same at another scale."
            )
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256))


def _values(files: Files, name: str) -> NDArray[np.uint8]:
    """The pixels of a label map, uint8 (H, W). Raises: UserError where they are no numbers of classes."""
    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            mode = image.mode
            values = np.array(image)
    except (*READ_ERRORS, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise UserError(f"{shown(files, name)} cannot be read as a label map ({error}).") from error
    if mode not in COUNTING_MODES:
        raise UserError(
            f"{shown(files, name)} has mode {mode}; expected is one channel whose values are the numbers of classes."
        )
    if values.max() > VOID or values.min() < 0:
        raise UserError(f"{shown(files, name)} holds the value {values.max()}; expected are numbers from 0 to 255.")
    return values.astype(np.uint8)


def _names(files: Files, source: str) -> dict[int, str]:
    """Names by value."""
    text = read_text(files, source)
    if source.endswith(".txt"):
        return dict(enumerate(line.strip() for line in text.strip().splitlines()))
    expected = f"{shown(files, source)}: expected is a list of names, or an object from value (0 to 254) to name"
    try:
        content = json.loads(text)
        named = {
            int(value): name for value, name in (content.items() if isinstance(content, dict) else enumerate(content))
        }
    except (ValueError, TypeError) as error:
        raise UserError(f"{expected} ({error}).") from error
    if not named or not all(0 <= value < VOID and isinstance(name, str) for value, name in named.items()):
        raise UserError(f"{expected}.")
    return named
