"""Class labels in files beside the images: StyleGAN's dataset.json, and columns of metadata, for sets without folders.

`dataset.json` holds "labels", a list of [path, number]; `metadata.csv`, `metadata.jsonl` and `labels.csv` a column
`label`, `class` or `category` beside one of `file_name`, `filename`, `image`, `path` or `id`. A name without suffix
means the image of that name.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ldm.data.annotations.lookup import METADATA, ImageFinder, csv_table, json_rows, parsed_json, read_text, shown, stem
from ldm.data.files import Files
from ldm.errors import UserError

STYLEGAN = "dataset.json"
TABLES = (*METADATA, "labels.csv")
NAME_COLUMNS = ("file_name", "filename", "image", "path", "id")
LABEL_COLUMNS = ("label", "class", "category")


def class_labels(files: Files, images: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The class of each image that such files name, empty where none does, and notes on metadata that is not read.

    Raises: UserError for a file that cannot be read, or an image with two classes.
    """
    finder, by_stem = ImageFinder(images), {stem(name): name for name in images}
    found: dict[str, str] = {}
    notes = []
    for source in files.names:
        base = posixpath.basename(source)
        if base not in (STYLEGAN, *TABLES):
            continue
        folder, where = PurePosixPath(source).parent.as_posix(), shown(files, source)
        try:
            rows = list(_rows(read_text(files, source), base, where))
        except UserError as error:
            if base not in METADATA:
                raise
            notes.append(f"no classes are read from metadata: {error}")
            continue  # only captions need it, and say so where they are asked for
        for name, label in rows:
            image = finder.find(name, folder) or by_stem.get(posixpath.normpath(f"{folder}/{name}"))
            if image is not None and found.setdefault(image, label) != label:
                raise UserError(f"{where}: {name} has the class '{label}' here and '{found[image]}' before.")
    return found, notes


def classed(
    labels: Mapping[str, str], images: Sequence[str], order: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, int], list[str]]:
    """The classes, the number of each image's, and notes: no classes where an image has none.

    `order` is that of the classes, where it is declared.
    """
    without = [name for name in images if name not in labels]
    if without:
        said = f"no classes: {len(images) - len(without):,} of {len(images):,} images have one, but not {without[0]}"
        return (), {}, [said] if len(without) < len(images) else []
    used = {labels[name] for name in images}
    classes = tuple(name for name in order if name in used) if used <= set(order) else in_order(list(used))
    index = {name: number for number, name in enumerate(classes)}
    return classes, {name: index[label] for name, label in labels.items() if label in index}, []


def is_sharded(files: Files) -> bool:
    """Whether folders only keep the number of files in one low, as those of StyleGAN's data sets do."""
    return STYLEGAN in files.names


def in_order(classes: Sequence[str]) -> tuple[str, ...]:
    """Classes in the order of their numbers where they are numbers, else of their names."""
    are_numbers = all(name.isdecimal() for name in classes)
    return tuple(sorted(set(classes), key=lambda name: (int(name), "") if are_numbers else (0, name)))


def _rows(text: str, base: str, where: str) -> Iterator[tuple[str, str]]:
    if base == STYLEGAN:
        yield from _stylegan(text, where)
    elif base.endswith(".csv"):
        for _, row in csv_table(text, where):
            yield from _labelled(row)
    else:
        for _, row in json_rows(text, where):
            yield from _labelled(row if isinstance(row, dict) else {})


def _stylegan(text: str, where: str) -> Iterator[tuple[str, str]]:
    content = parsed_json(text, where)
    try:
        labels = content.get("labels") if isinstance(content, dict) else None
        for name, label in labels or ():
            yield str(name), str(label)
    except (ValueError, TypeError) as error:
        raise UserError(f'{where}: expected is "labels", a list of [path, number] ({error}).') from error


def _labelled(row: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    name = next((row[column] for column in NAME_COLUMNS if isinstance(row.get(column), str)), None)
    label = next((row[column] for column in LABEL_COLUMNS if isinstance(row.get(column), str | int)), None)
    if name and label is not None and str(label).strip():
        yield name, str(label).strip()
