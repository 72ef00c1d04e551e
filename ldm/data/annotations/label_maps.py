"""Label maps: one picture for each image, whose pixel values, or colours of a palette, are the numbers of classes.

Values become 0 to K - 1 in their order, over both splits. 255 is void, whatever the other values are, and becomes the
last class; so does, in an image without a map, every pixel. Classes are named by `classes.txt` (line i names value i),
`classes.json` (a list, or an object from value to name; other values are void), else "class 7". Colours need a palette
(`data.palette`, or a file of one of the names in `PALETTES`): a line or an entry for each class with its name and its
red, green and blue; other colours are void.
"""

import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.data.annotations.lookup import (
    AnnotationPlaces,
    Place,
    located,
    parallel_files,
    parsed_json,
    read_text,
    shown,
    stem,
)
from ldm.data.decode import central_square, upright_size
from ldm.data.files import HASHING_THREADS, READ_ERRORS, Files
from ldm.data.listing import AnnotationReader, is_image_name
from ldm.data.picture_names import IMAGE_ENDING
from ldm.errors import UserError
from ldm.lines import lines_of
from ldm.records import content_hash

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "photos", "jpegimages", "leftimg8bit"})
# fmt: off
LABEL_FOLDERS = frozenset((
    "labels", "label", "labelmaps", "label_maps", "masks", "mask", "annotations", "segmentation", "segmentations",
    "segmentationclass", "semantic", "segmaps", "seg_maps", "gt", "groundtruth", "ground_truth", "gtfine",
))
# fmt: on
LABEL_SUFFIXES = (".png", ".gif", ".bmp", ".tif", ".tiff")
"""Formats that keep every value; JPEG does not."""

ENDINGS = ("_L", "_P", "_label", "_labels", "_mask", "_seg", "_gtFine_labelIds", "_gtFine_labelTrainIds")
"""What a label map's name may have behind the name of its image."""

PALETTES = ("palette.json", "palette.txt", "palette.csv", "label_colors.txt", "class_dict.csv", "labelmap.txt")
COLOUR = re.compile(r"(?<!\d)(\d{1,3})[ ,\t]+(\d{1,3})[ ,\t]+(\d{1,3})(?!\d)")
NAME_LISTS = ("classes.txt", "classes.json", "codes.txt")
VOID = 255
COUNTING_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Pillow's modes of one channel of whole numbers."""


@dataclass(frozen=True)
class LabelFiles:
    """Label maps by the names of their images, and all files in their folders, which are no images of the set.

    `palette`: the file that says what their colours mean, where one was named.
    """

    place: Place
    by_image: Mapping[str, str]
    apart: frozenset[str]
    palette: Place | None = None


@dataclass(frozen=True)
class Palette:
    """What the colours of label maps mean: their names in order, and their place in it by 65536 r + 256 g + b."""

    names: tuple[str, ...]
    numbers: Mapping[int, int]

    def values(self, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The numbers of classes of pixels, (H, W, 3) -> (H, W); colours that it does not have are void."""
        packed = colours.astype(np.int64) @ np.array([65536, 256, 1])
        there, inverse = np.unique(packed, return_inverse=True)
        return np.array([self.numbers.get(int(code), VOID) for code in there], np.uint8)[inverse.reshape(packed.shape)]


@dataclass(frozen=True)
class LabelMaps:
    """Label maps as an `AnnotationTable`; `lookup` uint8 (256,) is the class of each value."""

    files: Files
    by_image: Mapping[str, str]
    contents: Mapping[str, str]
    lookup: NDArray[np.uint8]
    names: tuple[str, ...]
    palette: Palette | None = None

    def content(self, name: str) -> str | None:
        return self.contents.get(name)

    def value(self, name: str, resolution: int) -> NDArray[np.uint8]:
        """The map's central square, nearest pixels: shape (resolution, resolution)."""
        if name not in self.by_image:
            return np.full((resolution, resolution), self.lookup[VOID])
        labels = Image.fromarray(_values(self.files, self.by_image[name], self.palette))
        size = (resolution, resolution)
        return self.lookup[np.asarray(labels.resize(size, Image.Resampling.NEAREST, box=central_square(*labels.size)))]


def find_label_files(files: Files, places: AnnotationPlaces) -> LabelFiles | None:
    """The label maps in `data.semantic`, else in folders beside those of the images; None where there are none.

    A folder `labels/` belongs to a folder `images/` beside it where at least one of its files is named as an image is.
    Raises: UserError where data.semantic names nothing, or nothing that holds label maps.
    """
    palette = None if places.palette is None else located(files, places.palette, "data.palette")
    if places.semantic is None:
        found_beside = _beside_images(files)
        return None if found_beside is None else replace(found_beside, palette=palette)
    place = located(files, places.semantic, "data.semantic")
    if not place.is_folder:
        raise UserError(f"data.semantic={places.semantic} is a file; expected is a folder or zip of label maps.")
    below = place.below()
    maps = {key: full for name, full in below.items() if _keeps_values(name) for key in _image_stems(name)}
    inside = frozenset(below.values()) if place.files is files else frozenset()
    images = [name for name in files.names if is_image_name(name) and name not in inside]
    found = parallel_files(maps, images, place)
    if not found:
        raise UserError(
            f"data.semantic={places.semantic} holds no label map ({', '.join(LABEL_SUFFIXES)}; JPEG changes values) "
            "that is named as an image is."
        )
    return LabelFiles(place, found, inside, palette)


def label_map_reader(files: Files, found: LabelFiles, images: Sequence[str]) -> AnnotationReader:
    """What reads the label maps of these images in `files`."""
    by_image = {image: found.by_image[image] for image in images if image in found.by_image}
    lists = _above_maps(found, NAME_LISTS)
    is_complete = len(by_image) == len(images)
    beside = _above_maps(found, PALETTES)
    colours = found.palette or (Place(found.place.files, beside[0], is_folder=False) if beside else None)
    palette = None if colours is None else read_palette(colours)
    load = partial(_table, files, found.place.files, by_image, lists, is_complete, palette)
    return AnnotationReader(found.place.files, (*by_image.values(), *lists, *beside), load)


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
            for above, _, below in _splits(stem(name), IMAGE_FOLDERS):
                images.update({(above, below): name, (above, IMAGE_ENDING.sub("", below)): name})
    found: dict[str, str] = {}
    folders: set[str] = set()
    for name in files.names:
        if not _keeps_values(name):
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


def _keeps_values(name: str) -> bool:
    return name.lower().endswith(LABEL_SUFFIXES)


def _above_maps(found: LabelFiles, wanted: Sequence[str]) -> tuple[str, ...]:
    """The file of one of these names nearest to the top, if any, in a folder above label maps."""
    folders = {str(folder) for name in found.by_image.values() for folder in PurePosixPath(name).parents}
    lists = [
        name
        for name in found.place.files.names
        if PurePosixPath(name).name in wanted and str(PurePosixPath(name).parent) in folders
    ]
    return tuple(sorted(lists, key=lambda name: (name.count("/"), name))[:1])


def _table(
    files: Files,
    maps: Files,
    by_image: Mapping[str, str],
    lists: Sequence[str],
    is_complete: bool,
    palette: Palette | None,
) -> LabelMaps:
    """Looks at every map: its values, and whether its shape is that of its image."""
    seen = np.zeros(256, np.bool_)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        checks = [pool.submit(_checked_values, files, image, maps, label, palette) for image, label in by_image.items()]
        for check in checks:
            seen[check.result()] = True
    named = _names(maps, lists[0]) if lists else dict(enumerate(palette.names)) if palette else None
    numbers = [int(value) for value in np.flatnonzero(seen) if value != VOID] if named is None else sorted(named)
    if lists and named is not None and lists[0].endswith(".txt"):
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
    if palette is not None:
        contents = {
            image: f"{content} {content_hash(sorted(palette.numbers.items()))}" for image, content in contents.items()
        }
    return LabelMaps(maps, by_image, contents, lookup, tuple(names), palette)


def _checked_values(files: Files, image: str, maps: Files, label: str, palette: Palette | None) -> NDArray[np.intp]:
    """The values in a label map. Raises: UserError where it is none, or of another shape than its image."""
    values = _values(maps, label, palette)
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


def _values(files: Files, name: str, palette: Palette | None) -> NDArray[np.uint8]:
    """The pixels of a label map, uint8 (H, W). Raises: UserError where they are no numbers of classes."""
    try:
        with Image.open(io.BytesIO(files.read(name))) as image:
            mode = image.mode
            if palette is not None:
                return palette.values(np.array(image.convert("RGB")))
            values = np.array(image)
    # What Pillow raises on damaged files, and on those that would not fit into memory.
    except (*READ_ERRORS, SyntaxError, ValueError, Image.DecompressionBombError, MemoryError) as error:
        raise UserError(f"{shown(files, name)} cannot be read as a label map ({error}).") from error
    if mode not in COUNTING_MODES:
        raise UserError(
            f"{shown(files, name)} has mode {mode}; expected is one channel whose values are the numbers of classes, "
            f"or a palette that says what its colours mean, data.palette=FILE (or {PALETTES[0]} above the maps)."
        )
    if values.max() > VOID or values.min() < 0:
        raise UserError(f"{shown(files, name)} holds the value {values.max()}; expected are numbers from 0 to 255.")
    return values.astype(np.uint8)


def read_palette(place: Place) -> Palette:
    """A palette: an object from name to [r, g, b] in a .json file, else a line for each class with name and colour.

    Raises: UserError where it holds no colours, more than 255, or one twice.
    """
    text, where = read_text(place.files, place.name), shown(place.files, place.name)
    if place.name.endswith(".json"):
        try:
            found = [(str(name), tuple(map(int, colour))) for name, colour in parsed_json(text, where).items()]
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{where}: expected is an object from name to [red, green, blue] ({error}).") from error
    else:
        matches = [(line, match) for line in lines_of(text) if (match := COLOUR.search(line))]
        found = [
            ((line[: match.start()] + line[match.end() :]).strip(" ,;:\t"), tuple(map(int, match.groups())))
            for line, match in matches
        ]
    numbers = {
        65536 * red + 256 * green + blue: number
        for number, (red, green, blue) in enumerate(colour for _, colour in found if len(colour) == 3)
    }
    if (
        not found
        or len(numbers) != len(found)
        or len(found) > VOID
        or not all(0 <= part <= 255 for _, colour in found for part in colour)
    ):
        raise UserError(
            f"{where}: expected are 1 to {VOID} classes, each with a colour of its own: red, green and blue from 0 to "
            "255."
        )
    return Palette(tuple(name or f"class {number}" for number, (name, _) in enumerate(found)), numbers)


def _names(files: Files, source: str) -> dict[int, str]:
    """Names by value."""
    text = read_text(files, source)
    if source.endswith(".txt"):
        return dict(enumerate(line.strip() for line in lines_of(text.strip())))
    expected = f"{shown(files, source)}: expected is a list of names, or an object from value (0 to 254) to name"
    content = parsed_json(text, shown(files, source))
    try:
        named = {
            int(value): name for value, name in (content.items() if isinstance(content, dict) else enumerate(content))
        }
    except (ValueError, TypeError) as error:
        raise UserError(f"{expected} ({error}).") from error
    if not named or not all(0 <= value < VOID and isinstance(name, str) for value, name in named.items()):
        raise UserError(f"{expected}.")
    return named
