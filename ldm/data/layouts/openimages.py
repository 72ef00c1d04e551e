"""OpenImages as it is handed out: `train/`, `validation/` with images, and CSV files of boxes and of class names.

Boxes are those of `*train-annotations-bbox.csv` and `*validation-annotations-bbox.csv`, named by
`class-descriptions-boxable.csv`. Images have no classes; `test/` takes no part.
"""

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ldm.data.annotations.boxes import box_reader, find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.contract import Split
from ldm.data.files import open_files
from ldm.data.listing import Found, Listing, image_names, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError

SIDES: dict[str, Split] = {"train": "train", "validation": "heldout"}


def list_openimages(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """OpenImages. Raises: UserError where its folder of training images is missing."""
    files = open_files(path, memo)
    sides = [(name, posixpath.basename(posixpath.dirname(name))) for name in image_names(files)]
    images = [(name, SIDES[folder]) for name, folder in sides if folder in SIDES]
    if not any(split == "train" for _, split in images):
        raise UserError(
            f"{path} holds no OpenImages: expected are train/ and validation/ with images, and "
            "train-annotations-bbox.csv; for other images with such CSV files use data=folder data.boxes=FILE."
        )
    has_both = any(split == "heldout" for _, split in images)
    found = [Found(name, posixpath.basename(name), split=split if has_both else None) for name, split in images]
    names = [name for name, _ in images]
    endings = tuple(f"{side}-annotations-bbox.csv" for side in SIDES)
    listed = [name for name in files.names if name.endswith(endings)]
    boxes = box_reader(files, files, listed, names) if listed and places.boxes is None else None
    annotations = {
        "captions": find_captions(files, names, places),
        "boxes": boxes or find_boxes(files, names, places),
    }
    return make_listing(files, found, annotations=annotations)


@dataclass(frozen=True, kw_only=True)
class OpenImages(FileOptions):
    """OpenImages."""

    title: ClassVar[str] = "data=openimages"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_openimages(self.path, self.places, memo), size, memo)
