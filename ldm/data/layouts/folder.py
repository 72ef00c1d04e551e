"""Any folder or zip archive of images as a labelled or unlabelled image set.

Hidden files, `__MACOSX` and files that are no images are ignored, as are folders that merely wrap all the others, and
label maps in a folder beside the images'. Where everything lies in `train/` (or `training/`) and a held-out folder
(`heldout`, `val`, `validation`, `valid` or `test`, the first that is there), that is the split; else an image is held
out by a hash of its content, so that equal files share a side. Where every image then lies in one of two or more
subfolders, those are the classes.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ldm.data.annotations.boxes import find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.label_maps import find_label_files, label_map_reader
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.contract import Split
from ldm.data.files import open_files
from ldm.data.listing import Found, Listing, image_names, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed

TRAIN_FOLDERS = ("train", "training")
HELDOUT_FOLDERS = ("heldout", "val", "validation", "valid", "test")


def list_folder(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """Finds the images, their classes, the split the folders give, if any, and what annotates them.

    Raises: UserError where there are no images.
    """
    files = open_files(path, memo)
    labels = find_label_files(files, places)
    apart = labels.apart if labels is not None else frozenset()
    names = [name for name in image_names(files) if name not in apart]
    splits, inner = given_split(unwrapped([tuple(name.split("/")) for name in names]))
    folders = {parts[0] for parts in inner if len(parts) > 1}
    labelled = all(len(parts) > 1 for parts in inner) and len(folders) > 1
    classes = tuple(sorted(folders)) if labelled else ()
    index = {name: number for number, name in enumerate(classes)}
    found = [
        Found(name, "/".join(parts), index[parts[0]] if labelled else None, split)
        for name, parts, split in zip(names, inner, splits, strict=True)
    ]
    part = [name for name, split in zip(names, splits, strict=True) if split is not None or not any(splits)]
    annotations = {
        "captions": find_captions(files, part, places),
        "boxes": find_boxes(files, part, places),
        "semantic": None if labels is None else label_map_reader(files, labels, part),
    }
    return make_listing(files, found, classes, annotations)


def list_plain(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """As `list_folder`, but folders that are no split mean nothing."""
    listing = list_folder(path, places, memo)
    entries = tuple(dataclasses.replace(entry, label=None) for entry in listing.entries)
    return dataclasses.replace(listing, entries=entries, classes=())


def unwrapped(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths without the leading folders that all of them share."""
    depth = 0
    for level in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return [path[depth:] for path in paths]


def given_split(paths: Sequence[tuple[str, ...]]) -> tuple[list[Split | None], list[tuple[str, ...]]]:
    """The side each path is given by its first folder, and the paths below; no side where the folders give none.

    Files in a held-out folder of lower rank (`test` beside `val`) take no part.
    """
    tops = {path[0] if len(path) > 1 else "" for path in paths}
    named = {top.lower(): top for top in tops}
    heldout = next((named[name] for name in HELDOUT_FOLDERS if name in named), None)
    train = next((named[name] for name in TRAIN_FOLDERS if name in named), None)
    if heldout is None or train is None or not set(named) <= {*TRAIN_FOLDERS, *HELDOUT_FOLDERS}:
        return [None] * len(paths), list(paths)
    sides: dict[str, Split] = {train: "train", heldout: "heldout"}
    return [sides.get(path[0]) for path in paths], unwrapped([path[1:] for path in paths])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(FileOptions):
    """Any folder or zip archive of images."""

    title: ClassVar[str] = "data=folder"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_folder(self.path, self.places, memo), size, memo)
