"""CelebA-HQ and FFHQ: faces without classes, in folders that only keep the number of files in one low.

Where two lists lie with the images (`*train*.txt` and `*val*.txt`, an image a line: the paper's splits are handed out
so), they are the split. Else FFHQ's images from number 60000 are held out, as its authors say, CelebA-HQ's by content.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from ldm.data.annotations.lookup import AnnotationPlaces, read_text, shown
from ldm.data.contract import Split
from ldm.data.files import Files
from ldm.data.layouts.folder import list_plain
from ldm.data.listing import FileEntry, Listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError
from ldm.lines import lines_of

FFHQ_HELDOUT = 60000
FFHQ_FOLDERS = ("images1024x1024", "images256x256", "thumbnails128x128")
"""The kinds of images FFHQ is handed out in, the first that is there is taken."""


def list_celebahq(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """CelebA-HQ. Raises: UserError where a list of its split names no image, or an image twice."""
    listing = list_plain(path, places, memo)
    return _listed_split(listing) or listing


def list_ffhq(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """FFHQ. Raises: UserError where a list of its split names no image, or an image twice."""
    listing = list_plain(path, places, memo)
    kinds = {kind: [entry for entry in listing.entries if kind in entry.name.split("/")] for kind in FFHQ_FOLDERS}
    entries = next((tuple(of_kind) for of_kind in kinds.values() if of_kind), listing.entries)
    listing = dataclasses.replace(listing, entries=entries)
    listed = _listed_split(listing)
    if listed is not None:
        return listed
    numbers = [PurePosixPath(entry.name).stem for entry in entries]
    if not all(number.isdecimal() for number in numbers) or max(map(int, numbers)) < FFHQ_HELDOUT:
        return listing
    sides: list[Split] = ["heldout" if int(number) >= FFHQ_HELDOUT else "train" for number in numbers]
    return _with_sides(listing, dict(zip((entry.name for entry in entries), sides, strict=True)))


def _listed_split(listing: Listing) -> Listing | None:
    """The split that lists give; images in neither take no part. None where there are no lists."""
    files = listing.files
    lists = [name for name in files.names if name.endswith(".txt")]
    train = [name for name in lists if "train" in PurePosixPath(name).name]
    heldout = [name for name in lists if "val" in PurePosixPath(name).name]
    if len(train) != 1 or len(heldout) != 1:
        return None
    by_stem = {PurePosixPath(entry.name).stem: entry for entry in listing.entries}
    sides: dict[str, Split] = {}
    for split, source in (("train", train[0]), ("heldout", heldout[0])):
        for entry in _named(files, source, by_stem):
            if entry.name in sides:
                raise UserError(f"{shown(files, source)} names {entry.name}, which was named before.")
            sides[entry.name] = "train" if split == "train" else "heldout"
    return _with_sides(listing, sides)


def _named(files: Files, source: str, by_stem: Mapping[str, FileEntry]) -> list[FileEntry]:
    """The images that a list names by their names without suffix, also behind the `imgHQ` of the original arrays."""
    stems = [PurePosixPath(line.strip()).stem for line in lines_of(read_text(files, source)) if line.strip()]
    found = [by_stem.get(stem) or by_stem.get(stem.removeprefix("imgHQ")) for stem in stems]
    missing = next((stem for stem, entry in zip(stems, found, strict=True) if entry is None), None)
    if missing is not None:
        raise UserError(f"{shown(files, source)} names {missing}, and there is no such image in {files.path}.")
    return [entry for entry in found if entry is not None]


def _with_sides(listing: Listing, sides: Mapping[str, Split]) -> Listing:
    entries = tuple(dataclasses.replace(entry, split=sides.get(entry.name)) for entry in listing.entries)
    return dataclasses.replace(listing, entries=entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CelebAHQ(FileOptions):
    """CelebA-HQ."""

    title: ClassVar[str] = "data=celebahq"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_celebahq(self.path, self.places, memo), size, memo)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFHQ(FileOptions):
    """Flickr-Faces-HQ."""

    title: ClassVar[str] = "data=ffhq"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_ffhq(self.path, self.places, memo), size, memo)
