"""Files that list the boxes of one image each: VOC's XML and YOLO's text, which have the image's name."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from ldm.data.annotations.box_files import BoxFile, ClassKey
from ldm.data.annotations.lookup import read_text, shown, stem
from ldm.data.files import Files
from ldm.errors import UserError
from ldm.lines import lines_of, parsed_yaml

SUFFIXES = (".xml", ".txt")
FOLDERS = frozenset({"annotations", "xmls", "labels", "boxes"})
IMAGE_FOLDERS = frozenset({"images", "jpegimages", "imgs"})
YOLO_LINE = re.compile(r"\s*[0-9]{1,9}(?:\s+-?\d*\.?\d+(?:[eE][-+]?\d+)?){4}\s*")
NUMBER = re.compile(r"[0-9]{1,9}")
NAME_LISTS = ("classes.txt", "obj.names", "classes.names")
NAME_YAMLS = ("data.yaml", "dataset.yaml", "data.yml")


def files_of_images(files: Files, images: Sequence[str]) -> dict[str, str]:
    """The file of each image that has one, of one kind: XML before text; only text that holds YOLO's lines counts."""
    for suffix in SUFFIXES:
        by_key: dict[str, str] = {}
        for name in files.names:
            if name.lower().endswith(suffix):
                by_key.setdefault(_key(name), name)
        found = {image: by_key[key] for image in images if (key := _key(image)) in by_key}
        if found and (suffix == ".xml" or is_yolo(files, found.values())):
            return found
    return {}


def is_yolo(files: Files, names: Iterable[str]) -> bool:
    """Whether all lines of some text files, as the first that hold any show, are those of boxes."""
    for name in names:
        lines = [line for line in lines_of(read_text(files, name)) if line.strip()]
        if lines:
            return all(YOLO_LINE.fullmatch(line) for line in lines)
    return False


def _key(name: str) -> str:
    """A path without suffix and without folders that only say which of image and boxes it holds."""
    parts = PurePosixPath(stem(name)).parts
    return "/".join(part for part in parts[:-1] if part.lower() not in FOLDERS | IMAGE_FOLDERS) + "/" + parts[-1]


def read_boxes(files: Files, of_image: Mapping[str, str]) -> BoxFile:
    """The boxes of all images that have a file, as one list. Raises: UserError where one is not what it should be."""
    named = _names(files) if next(iter(of_image.values())).lower().endswith(".txt") else None
    owners, labels, corners = list[int](), list[ClassKey](), list[list[float]]()
    for position, source in enumerate(of_image.values()):
        rows = _voc(files, source) if named is None else _yolo(files, source)
        for label, box in rows:
            owners.append(position)
            labels.append(label)
            corners.append(box)
    keys = sorted(set(labels), key=lambda key: (isinstance(key, str), key))
    if named is None:
        classes: dict[ClassKey, str] = {key: str(key) for key in keys}
    else:
        classes = {key: named.get(int(key), f"class {key}") for key in (sorted(named) if named else keys)}
        classes |= {key: f"class {key}" for key in keys if key not in classes}
    return BoxFile(
        classes=classes,
        file_names=list(of_image),
        aspects=None,
        owners=np.array(owners, np.int64),
        labels=labels,
        corners=np.array(corners, np.float64).reshape(-1, 4),
    )


def _voc(files: Files, source: str) -> list[tuple[str, list[float]]]:
    text, where = read_text(files, source), shown(files, source)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{where} declares entities, which no file of boxes does: it is refused and not read.")
    try:
        root = ElementTree.fromstring(text)
        width, height = (_number(root, f"size/{side}") for side in ("width", "height"))
        if min(width, height) <= 0:
            raise ValueError(f"the size is {width:g}x{height:g}")
        found = list[tuple[str, list[float]]]()
        for one in root.iter("object"):
            x0, y0, x1, y1 = (_number(one, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax"))
            name = (one.findtext("name") or "").strip()
            if not name or not (x0 <= x1 and y0 <= y1):
                raise ValueError(f"object {len(found) + 1} has no name, or a box from {x0, y0} to {x1, y1}")
            # Pixels are counted from 1, ends included.
            found.append((name, [(x0 - 1) / width, (y0 - 1) / height, x1 / width, y1 / height]))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(
            f"{where}: {error}; expected is VOC's XML with size, and object with name and bndbox."
        ) from error
    return found


def _number(node: ElementTree.Element, path: str) -> float:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"there is no {path}")
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{path} is {number}")
    return number


def _yolo(files: Files, source: str) -> list[tuple[int, list[float]]]:
    found = []
    for number, line in enumerate(lines_of(read_text(files, source)), start=1):
        if not line.strip():
            continue
        if not YOLO_LINE.fullmatch(line):
            raise UserError(
                f"{shown(files, source)}, line {number}: expected are a class and x, y, width, height of its box in "
                "fractions of the image (YOLO)."
            )
        label, x, y, width, height = line.split()
        centre, half = (float(x), float(y)), (float(width) / 2, float(height) / 2)
        low, high = ([c + sign * h for c, h in zip(centre, half, strict=True)] for sign in (-1, 1))
        if not (min(*low) >= -0.01 and max(*high) <= 1.01):  # which infinities are not either
            raise UserError(f"{shown(files, source)}, line {number}: the box lies outside of the image.")
        found.append((int(label), [*low, *high]))
    return found


def _names(files: Files) -> dict[int, str]:
    """The classes by number that a list in the set names; empty without one."""
    for name in sorted(files.names, key=lambda name: (name.count("/"), name)):
        base = PurePosixPath(name).name
        if base in NAME_LISTS:
            return dict(enumerate(line.strip() for line in lines_of(read_text(files, name)) if line.strip()))
        if base in NAME_YAMLS:
            try:
                given = parsed_yaml(read_text(files, name))
            except ValueError:
                continue
            names = given.get("names") if isinstance(given, dict) else None
            if isinstance(names, list | dict):
                pairs = list(names.items() if isinstance(names, dict) else enumerate(names))
                # Texts and numbers alone: what refers to itself many times over has no end as a text.
                if not all(NUMBER.fullmatch(str(n)) and isinstance(word, str | int | float) for n, word in pairs):
                    raise UserError(f"{shown(files, name)}: names is neither a list of names nor one by their numbers.")
                return {int(number): str(word) for number, word in pairs}
    return {}
