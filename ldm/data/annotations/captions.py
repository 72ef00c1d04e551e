"""Captions: a `.txt` file beside each image, or `metadata.jsonl`, `metadata.csv` with columns file_name and text.

The column may be called `caption` as well. Without either, COCO's `captions_*.json` is read. Of several captions of one
image in a file the first is taken, of a `.txt` file the first line that is not empty. Files that disagree on an image
are refused. An empty caption counts as none.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ldm.data.annotations.image_box_files import is_yolo
from ldm.data.annotations.lookup import (
    METADATA,
    AnnotationPlaces,
    ImageFinder,
    Place,
    check_some_found,
    csv_table,
    json_rows,
    located,
    parallel_files,
    parsed_json,
    read_text,
    shown,
    stem,
)
from ldm.data.files import Files
from ldm.data.listing import AnnotationReader
from ldm.errors import UserError
from ldm.lines import lines_of

COCO_NAME = re.compile(r"captions_\w+\.json")
COLUMNS = ("text", "caption")


@dataclass(frozen=True)
class CaptionTable:
    """Captions by the names of images, as an `AnnotationTable`."""

    by_image: Mapping[str, str]
    names: tuple[str, ...] = ()

    def content(self, name: str) -> str | None:
        return self.by_image.get(name)

    def value(self, name: str, resolution: int) -> str:
        """The caption, empty where the image has none."""
        return self.by_image.get(name, "")


def find_captions(files: Files, images: Sequence[str], places: AnnotationPlaces) -> AnnotationReader | None:
    """What reads the captions: `data.captions`, metadata files among the images, `.txt` files beside them, or COCO's.

    The first that is there; None where there are none.
    Raises: UserError where data.captions names nothing, or nothing that holds captions.
    """
    if places.captions is not None:
        place = located(files, places.captions, "data.captions")
        if place.is_folder:
            return _beside(place, images)
        read = READERS.get(PurePosixPath(place.name).suffix.lower())
        if read is None:
            raise UserError(
                f"data.captions={places.captions} is no .jsonl, .csv or .json file and no folder of .txt files."
            )
        return listed_captions(place.files, (place.name,), images)
    metadata = tuple(name for name in files.names if posixpath.basename(name) in METADATA)
    if captioned := tuple(name for name in metadata if _has_captions(files, name)):
        return listed_captions(files, captioned, images)
    texts = _texts(Place(files, "", is_folder=True))
    sidecars = {image: texts[stem(image)] for image in images if stem(image) in texts}
    if sidecars and not is_yolo(files, sidecars.values()):
        return sidecar_captions(files, sidecars)
    coco = tuple(name for name in files.names if COCO_NAME.fullmatch(posixpath.basename(name)))
    # Metadata without captions is read where nothing else is there: its error names the columns that it has.
    return listed_captions(files, coco or metadata, images) if coco or metadata else None


def _has_captions(files: Files, name: str) -> bool:
    """Whether the first row of a metadata file has a caption, or it cannot be told."""
    try:
        text = read_text(files, name)
        if name.endswith(".csv"):
            row: Any = next(csv_table(text, name), (0, {}))[1]
        else:
            row = parsed_json(next((line for line in lines_of(text) if line.strip()), "{}"), name)
    except UserError:
        return True
    return not isinstance(row, dict) or not row or any(isinstance(row.get(column), str) for column in COLUMNS)


def listed_captions(files: Files, sources: Sequence[str], images: Sequence[str]) -> AnnotationReader:
    """What reads the captions of these images that such files list."""
    return AnnotationReader(files, tuple(sources), partial(_listed, files, sources, images))


def sidecar_captions(files: Files, sidecars: Mapping[str, str]) -> AnnotationReader:
    """What reads the captions from a text file for each image."""
    return AnnotationReader(files, tuple(sidecars.values()), partial(_sidecar_table, files, sidecars))


def _beside(place: Place, images: Sequence[str]) -> AnnotationReader:
    sidecars = parallel_files(_texts(place), images, place)
    if not sidecars:
        raise UserError(f"data.captions={shown(place.files, place.name)} holds no .txt file named as an image is.")
    return sidecar_captions(place.files, sidecars)


def _texts(place: Place) -> dict[str, str]:
    return {stem(name): full for name, full in place.below().items() if name.lower().endswith(".txt")}


def _sidecar_table(files: Files, sidecars: Mapping[str, str]) -> CaptionTable:
    lines = {image: lines_of(read_text(files, text)) for image, text in sidecars.items()}
    first = {image: next((line.strip() for line in of if line.strip()), "") for image, of in lines.items()}
    return CaptionTable({image: caption for image, caption in first.items() if caption})


def _listed(files: Files, sources: Sequence[str], images: Sequence[str]) -> CaptionTable:
    """The captions that some files list."""
    finder = ImageFinder(images)
    captions: dict[str, str] = {}
    listed = {}
    for source in sources:
        first: dict[str, str] = {}
        folder = PurePosixPath(source).parent.as_posix()
        rows = list(READERS[PurePosixPath(source).suffix.lower()](read_text(files, source), shown(files, source)))
        file_names = [file_name for file_name, _ in rows]
        found = finder.find_all(file_names, folder)
        listed[shown(files, source)] = file_names, found
        for image, (_, caption) in zip(found, rows, strict=True):
            if image is not None and caption.strip():
                first.setdefault(image, caption.strip())
        for image, caption in first.items():
            if captions.setdefault(image, caption) != caption:
                raise UserError(
                    f"{shown(files, source)}: {image} has the caption '{caption}' here and '{captions[image]}' in "
                    "another file; data.captions=FILE chooses one."
                )
    check_some_found(listed)
    return CaptionTable(captions)


def _jsonl(text: str, source: str) -> Iterator[tuple[str, str]]:
    for number, row in json_rows(text, source):
        if not isinstance(row, dict):
            raise UserError(f"{source}, line {number}: a JSON object with file_name and text was expected.")
        yield _row(row, f"{source}, line {number}")


def _csv(text: str, source: str) -> Iterator[tuple[str, str]]:
    for line, row in csv_table(text, source):
        yield _row(row, f"{source}, line {line}")


def _row(row: Mapping[Any, Any], where: str) -> tuple[str, str]:
    caption = next((column for column in COLUMNS if isinstance(row.get(column), str)), None)
    missing = "file_name" if not isinstance(row.get("file_name"), str) else "text (or caption)" if not caption else None
    if missing is not None:
        there = ", ".join(str(column) for column in row if column is not None) or "nothing"
        raise UserError(f"{where}: has no {missing}; expected file_name and text (or caption), there is {there}.")
    return row["file_name"], row[caption]


def _coco(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Captions in COCO's JSON: images with id and file_name, annotations with image_id and caption."""
    content = parsed_json(text, source)
    try:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [(files[one["image_id"]], one["caption"]) for one in content["annotations"]]
        for row in rows:
            if not all(isinstance(value, str) for value in row):
                raise TypeError(f"a text in place of {row}")
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{source}: {error} is missing or unknown; expected COCO's images (id, file_name) and annotations "
            "(image_id, caption)."
        ) from error
    yield from rows


READERS: Mapping[str, Callable[[str, str], Iterator[tuple[str, str]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".json": _coco,
}
"""By suffix, what yields file name and caption."""
