"""Where annotation files lie, and which image an entry in them means."""

import csv
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.data.files import READ_ERRORS, DirectoryFiles, Files, open_files
from ldm.data.memo import ContentMemo
from ldm.errors import UserError
from ldm.lines import lines_of

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files of Hugging Face's image folders that say something of the images in theirs, a row each."""


@dataclass(frozen=True)
class AnnotationPlaces:
    """The files or folders that the user named by `data.captions`, `data.boxes`, `data.semantic` and `data.palette`."""

    captions: Path | None = None
    boxes: Path | None = None
    semantic: Path | None = None
    palette: Path | None = None


@dataclass(frozen=True)
class Place:
    """A file or folder `name` in `files`; the name of `files` itself is empty."""

    files: Files
    name: str
    is_folder: bool

    def below(self) -> dict[str, str]:
        """All files of a folder: their names by their path in it."""
        if not self.name:
            return {name: name for name in self.files.names}
        start = f"{self.name}/"
        return {name.removeprefix(start): name for name in self.files.names if name.startswith(start)}


def located(files: Files, given: Path, key: str) -> Place:
    """The file or folder that the setting `key` names: one among the images, else one on this machine.

    Raises: UserError where there is neither.
    """
    name = given.as_posix().strip("/")
    if not given.is_absolute():
        if name in files.names:
            return Place(files, name, is_folder=False)
        if name == "." or any(known.startswith(f"{name}/") for known in files.names):
            return Place(files, "" if name == "." else name, is_folder=True)
    if not given.exists():
        raise UserError(f"{key}={given} is neither in {files.path} nor a path on this machine.")
    memo = ContentMemo(None)
    if given.is_file() and given.suffix.lower() != ".zip":
        return Place(DirectoryFiles(given.absolute().parent, memo, deep=False), given.name, is_folder=False)
    return Place(open_files(given, memo), "", is_folder=True)


def read_text(files: Files, name: str) -> str:
    """A text file. Raises: UserError where it cannot be read or is not UTF-8."""
    try:
        return files.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(files, name)} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except READ_ERRORS as error:
        raise UserError(f"{shown(files, name)} cannot be read ({error}).") from error


def csv_rows(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with the lines they end at; empty ones are left out.

    Raises: UserError where one cannot be read.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            if row:
                yield rows.line_num, row
    except csv.Error as error:
        raise UserError(f"{where}, line {rows.line_num}: cannot be read as CSV ({error}).") from error


def csv_table(text: str, where: str) -> Iterator[tuple[int, dict[str, str]]]:
    """As `csv_rows`, by the names of columns that the first row gives."""
    rows = csv_rows(text, where)
    _, columns = next(rows, (0, []))
    for line, row in rows:
        yield line, dict(zip(columns, row, strict=False))


def json_rows(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines with the numbers of these lines; empty ones are left out.

    Raises: UserError where one is not JSON.
    """
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            yield number, parsed_json(line, f"{where}, line {number}:")


def parsed_json(text: str, where: str) -> Any:
    """The value in a JSON text. Raises: UserError where it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}).") from error


def shown(files: Files, name: str) -> str:
    """The file as it is said to the user."""
    return str(files.path / name)


def stem(name: str) -> str:
    """A path without its last suffix."""
    return posixpath.splitext(name)[0]


def parallel_files(by_stem: Mapping[str, str], images: Iterable[str], place: Place) -> dict[str, str]:
    """The file of each image that has one: of the image's path, or of as long an end of it as there is.

    Raises: UserError where that would give one file to two images.
    """
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for image in images:
        parts = stem(image).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        file = next((by_stem[end] for end in ends if end in by_stem), None)
        if file is None:
            continue
        if file in owner:
            raise UserError(
                f"{shown(place.files, file)} could belong to {owner[file]} and to {image}; expected are the images' "
                f"folders below {shown(place.files, place.name)} as well."
            )
        owner[file], found[image] = image, file
    return found


def check_some_found(listed: Mapping[str, tuple[Sequence[str], Sequence[str | None]]]) -> None:
    """Checks the file names in annotation files, and the images they mean, by the file.

    A file that means no image is that of another split, as long as another file does.
    Raises: UserError where there are file names and none is that of an image.
    """
    named = [(source, names[0]) for source, (names, _) in listed.items() if names]
    if named and all(image is None for _, found in listed.values() for image in found):
        source, first = named[0]
        raise UserError(
            f"{source}: no file name in it is that of one image (the first is '{first}'); expected are paths from the "
            "folder of that file."
        )


class ImageFinder:
    """Which image a file name in an annotation file means.

    It may be the path from the annotation file's own folder, the path from the top, or the end of one image's path.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._names = frozenset(images)
        by_base: Mapping[str, list[str]] = defaultdict(list)
        for name in self._names:
            by_base[posixpath.basename(name)].append(name)
        self._by_base = by_base

    def find_all(self, file_names: Sequence[str], folder: str) -> list[str | None]:
        """The image of each file name, None where no image is meant."""
        return [self.find(file_name, folder) for file_name in file_names]

    def find(self, file_name: str, folder: str) -> str | None:
        """The image's name, or None where no image, or more than one, can be meant."""
        wanted = posixpath.normpath(file_name.replace("\\", "/"))
        for candidate in (posixpath.normpath(f"{folder}/{wanted}"), wanted):
            if candidate in self._names:
                return candidate
        ending = [
            name
            for name in self._by_base.get(posixpath.basename(wanted), ())
            if name.endswith(f"/{wanted}") or name == wanted
        ]
        return ending[0] if len(ending) == 1 else None
