"""Captions: a `.txt` file beside each image, or `metadata.jsonl`, `metadata.csv` with columns file_name and text.

The column may be called `caption` as well. Of several captions of one image the first is taken, of a `.txt` file the
first line that is not empty. An empty caption counts as none.
"""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ldm.data.annotations.image_box_files import is_yolo
from ldm.data.annotations.lookup import (
    AnnotationPlaces,
    ImageFinder,
    Place,
    check_some_found,
    located,
    parallel_files,
    read_text,
    shown,
    stem,
)
from ldm.data.files import Files
from ldm.data.listing import AnnotationReader
from ldm.errors import UserError
from ldm.lines import lines_of

METADATA = ("metadata.jsonl", "metadata.csv")
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
    """What reads the captions: `data.captions`, else metadata files among the images, else `.txt` files beside them.

    None where there are none. Raises: UserError where data.captions names nothing, or nothing that holds captions.
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
    if metadata:
        return listed_captions(files, metadata, images)
    texts = _texts(Place(files, "", is_folder=True))
    sidecars = {image: texts[stem(image)] for image in images if stem(image) in texts}
    if not sidecars or is_yolo(files, sidecars.values()):
        return None
    return AnnotationReader(files, tuple(sidecars.values()), partial(_sidecar_table, files, sidecars))


def listed_captions(files: Files, sources: Sequence[str], images: Sequence[str]) -> AnnotationReader:
    """What reads the captions of these images that such files list."""
    return AnnotationReader(files, tuple(sources), partial(_listed, files, sources, images))


def _beside(place: Place, images: Sequence[str]) -> AnnotationReader:
    sidecars = parallel_files(_texts(place), images, place)
    if not sidecars:
        raise UserError(f"data.captions={shown(place.files, place.name)} holds no .txt file named as an image is.")
    return AnnotationReader(place.files, tuple(sidecars.values()), partial(_sidecar_table, place.files, sidecars))


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
        folder = PurePosixPath(source).parent.as_posix()
        rows = list(READERS[PurePosixPath(source).suffix.lower()](read_text(files, source), shown(files, source)))
        file_names = [file_name for file_name, _ in rows]
        found = finder.find_all(file_names, folder)
        listed[shown(files, source)] = file_names, found
        for image, (_, caption) in zip(found, rows, strict=True):
            if image is not None and caption.strip():
                captions.setdefault(image, caption.strip())
    check_some_found(listed)
    return CaptionTable(captions)


def _jsonl(text: str, source: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{source}, line {number}: is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{source}, line {number}: a JSON object with file_name and text was expected.")
        yield _row(row, f"{source}, line {number}")


def _csv(text: str, source: str) -> Iterator[tuple[str, str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for row in rows:
        yield _row(row, f"{source}, line {rows.line_num}")


def _row(row: Mapping[Any, Any], where: str) -> tuple[str, str]:
    caption = next((column for column in COLUMNS if isinstance(row.get(column), str)), None)
    missing = "file_name" if not isinstance(row.get("file_name"), str) else "text (or caption)" if not caption else None
    if missing is not None:
        there = ", ".join(str(column) for column in row if column is not None) or "nothing"
        raise UserError(f"{where}: has no {missing}; expected file_name and text (or caption), there is {there}.")
    return row["file_name"], row[caption]


def _coco(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Captions in COCO's JSON: images with id and file_name, annotations with image_id and caption."""
    try:
        content = json.loads(text)
        files = {image["id"]: image["file_name"] for image in content["images"]}
        rows = [(files[one["image_id"]], one["caption"]) for one in content["annotations"]]
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}).") from error
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
