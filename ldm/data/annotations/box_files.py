"""Files that list boxes: COCO's JSON and OpenImages' CSV, read and checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldm.data.annotations.lookup import csv_rows, parsed_json, read_text, shown
from ldm.data.files import READ_ERRORS, Files
from ldm.errors import UserError

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")

ClassKey = int | str
"""COCO's category id, OpenImages' LabelName."""

T = TypeVar("T")


@dataclass(frozen=True)
class BoxFile:
    """What one file lists: class names by id, file names of images, and by box the image's number, class and corners.

    `corners` float64 (n, 4): x0, y0, x1, y1 in fractions of the whole image's sides. `aspects` are width over height of
    the images, where the file says it.
    """

    classes: Mapping[ClassKey, str]
    file_names: Sequence[str]
    aspects: Sequence[float] | None
    owners: NDArray[np.int64]
    labels: Sequence[ClassKey]
    corners: NDArray[np.float64]


def _coco(files: Files, source: str) -> BoxFile:
    where = shown(files, source)
    content = parsed_json(read_text(files, source), where)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{where} has no list '{key}'; expected is COCO's format: images, annotations, categories.")
    classes: dict[ClassKey, str] = dict(
        _each(content["categories"], f"{where}: categories", "id, name", lambda one: (int(one["id"]), str(one["name"])))
    )
    sizes = _each(
        content["images"],
        f"{where}: images",
        "id, file_name, width, height",
        lambda one: (_identifier(one["id"]), str(one["file_name"]), _positive(one["width"]), _positive(one["height"])),
    )
    number = {key: position for position, (key, *_) in enumerate(sizes)}

    def row(one: Mapping[str, Any]) -> tuple[int, int, list[float]] | None:
        if one.get("iscrowd"):
            return None
        image, label = one["image_id"], one["category_id"]
        if image not in number:
            raise KeyError(f"image_id {image} in images")
        if label not in classes:
            raise KeyError(f"category_id {label} in categories")
        x, y, w, h = map(float, one["bbox"])
        owner = number[image]
        _, _, width, height = sizes[owner]
        if not all(map(math.isfinite, (x, y, w, h))) or not (
            w >= 0 and h >= 0 and x < width and y < height and x + w >= 0 and y + h >= 0
        ):
            raise ValueError(f"bbox {one['bbox']} lies outside of an image of {width:g}x{height:g}")
        return owner, label, [x / width, y / height, (x + w) / width, (y + h) / height]

    expected = "image_id, category_id and bbox [x, y, width, height] in pixels"
    rows = [one for one in _each(content["annotations"], f"{where}: annotations", expected, row) if one is not None]
    return BoxFile(
        classes=classes,
        file_names=[name for _, name, _, _ in sizes],
        aspects=[width / height for _, _, width, height in sizes],
        owners=np.array([owner for owner, _, _ in rows], np.int64),
        labels=[label for _, label, _ in rows],
        corners=np.array([corners for _, _, corners in rows], np.float64),
    )


def _each(items: Sequence[Any], where: str, expected: str, read: Callable[[Any], T]) -> list[T]:
    """Reads each item of a list. Raises: UserError with the number of the first that is not what it should be."""
    found = []
    for position, item in enumerate(items):
        try:
            found.append(read(item))
        except KeyError as error:
            raise UserError(f"{where}[{position}] has no {error.args[0]}; expected is {expected}.") from error
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UserError(f"{where}[{position}]: {error}; expected is {expected}.") from error
    return found


def _identifier(value: Any) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError(f"{value} is no id")
    return value


def _positive(value: Any) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{value} is no size")
    return float(value)


def is_description(name: str) -> bool:
    return PurePosixPath(name).name.startswith("class-descriptions")


def descriptions(files: Files, sources: Sequence[str]) -> tuple[str, ...]:
    """OpenImages' list of class names, that of the classes that have boxes before others, for such sources."""
    if all(source.endswith(".json") for source in sources):
        return ()
    found = [name for name in files.names if is_description(name)]
    return tuple(sorted(found, key=lambda name: ("boxable" not in name, name))[:1])


def _openimages(files: Files, source: str) -> BoxFile:
    """Boxes by ImageID in fractions of the image's sides; IsGroupOf marks boxes that are left out."""
    import pandas as pd  # fourteen million rows; half a second to import, so only here

    where = shown(files, source)
    wanted = {**dict.fromkeys(COLUMNS[:2], str), **dict.fromkeys(COLUMNS[2:], float), "IsGroupOf": float}
    try:
        with files.open(source) as file:
            table = pd.read_csv(file, usecols=lambda column: column in wanted, dtype=wanted)
    except (*READ_ERRORS, ValueError) as error:
        raise UserError(f"{where} cannot be read ({error}); expected are columns {', '.join(COLUMNS)}.") from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"{where} has no column {missing[0]}; expected are {', '.join(COLUMNS)}.")
    corners = table[["XMin", "YMin", "XMax", "YMax"]].to_numpy()
    wrong = np.flatnonzero(~((corners >= -0.01) & (corners <= 1.01)).all(1))
    if len(wrong):
        raise UserError(
            f"{where}, row {wrong[0] + 1}: {corners[wrong[0]].tolist()} are no fractions; expected are XMin, YMin, "
            "XMax and YMax from 0 to 1."
        )
    unnamed = np.flatnonzero(table[["ImageID", "LabelName"]].isna().any(axis=1))
    if len(unnamed):
        raise UserError(f"{where}, row {unnamed[0] + 1}: has no ImageID or no LabelName.")
    owners, images = pd.factorize(table["ImageID"])
    is_kept = np.ones(len(table), bool) if "IsGroupOf" not in table else table["IsGroupOf"].to_numpy() != 1
    labels = table["LabelName"].to_numpy()[is_kept]
    lists = descriptions(files, [source])
    classes = _described(files, lists[0]) if lists else {key: key for key in sorted(set(labels))}
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise UserError(f"{where} holds LabelName {unknown[0]}, which {shown(files, lists[0])} does not describe.")
    return BoxFile(classes, [f"{image}.jpg" for image in images], None, owners[is_kept], labels, corners[is_kept])


def _described(files: Files, source: str) -> dict[ClassKey, str]:
    found: dict[ClassKey, str] = {}
    for line, row in csv_rows(read_text(files, source), shown(files, source)):
        if len(row) != 2:
            raise UserError(f"{shown(files, source)}, line {line}: expected is a label and its name, two columns.")
        found[row[0]] = row[1]
    found.pop("LabelName", None)
    return found


READERS: Mapping[str, Callable[[Files, str], BoxFile]] = {".json": _coco, ".csv": _openimages}
"""By suffix."""
