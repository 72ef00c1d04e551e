"""LSUN as it is handed out: for each category and side an lmdb database of encoded images, or a folder made of it.

The databases are `<category>_train_lmdb/` and `<category>_val_lmdb/`, the folders `<category>_train/` and so on. One
category is read at a time, without classes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.archives import FilesIn, LmdbFiles, UnionFiles
from ldm.data.contract import Split
from ldm.data.files import DirectoryFiles, Files
from ldm.data.listing import Found, Listing, is_image_name, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError, nearest
from ldm.parts import option

SIDES: dict[str, Split] = {"train": "train", "val": "heldout"}
PLACE = re.compile(r"(?P<category>.+)_(?P<side>train|val)(_lmdb)?")


def list_lsun(path: Path, places: AnnotationPlaces, memo: ContentMemo, category: str | None = None) -> Listing:
    """One category of LSUN.

    Raises: UserError where `category` is not there, or is needed to choose among several.
    """
    if not path.is_dir():
        raise UserError(f"There is no folder {path}; set data.path to the one with LSUN's <category>_train_lmdb.")
    found: dict[str, dict[str, Path]] = {}
    for folder in sorted(path.iterdir()):
        match = PLACE.fullmatch(folder.name)
        if match and folder.is_dir():
            found.setdefault(match["category"], {}).setdefault(match["side"], folder)
    there = sorted(name for name, sides in found.items() if "train" in sides)
    if not there:
        raise UserError(
            f"{path} holds no <category>_train_lmdb or <category>_train; unpack LSUN's archives there, or use "
            "data=folder for other folders of images."
        )
    if category is None and len(there) > 1:
        raise UserError(f"{path} holds several categories; choose one: data.category={' or '.join(there)}.")
    if category is not None and category not in there:
        raise UserError(
            f"data.category={category} is not in {path}{nearest(category, there)} (there are {', '.join(there)})."
        )
    sides = found[category or there[0]]
    parts = {side: _images(folder, memo) for side, folder in sides.items()}
    images = [
        Found(name, name.partition("/")[2], split=SIDES[side] if len(parts) == 2 else None)
        for side, (_, names) in parts.items()
        for name in names
    ]
    return make_listing(UnionFiles(path, [files for files, _ in parts.values()]), images, notes=())


def _images(folder: Path, memo: ContentMemo) -> tuple[Files, list[str]]:
    """The place with a side's images, and their names, which begin with the folder's."""
    is_database = (folder / "data.mdb").exists()
    files = FilesIn(folder.name, LmdbFiles(folder, memo) if is_database else DirectoryFiles(folder, memo))
    return files, [name for name in files.names if is_database or is_image_name(name)]


@dataclass(frozen=True, kw_only=True)
class LSUN(FileOptions):
    """One category of LSUN."""

    title: ClassVar[str] = "data=lsun"

    category: str | None = option(None, help="the category, needed where there are several")

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_lsun(self.path, self.places, memo, self.category), size, memo)
