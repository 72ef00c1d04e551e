"""COCO as it is handed out: `train2017/`, `val2017/` (or 2014), `annotations/`, unpacked or as the zip archives.

Boxes are those of `instances_*.json`, captions those of `captions_*.json`, label maps those of COCO-Stuff in
`stuffthingmaps/`. Images have no classes.
"""

import dataclasses
import posixpath
import re
from pathlib import Path
from typing import ClassVar

from ldm.data.annotations.boxes import box_reader, find_boxes
from ldm.data.annotations.captions import find_captions, listed_captions
from ldm.data.annotations.label_maps import LabelFiles, find_label_files, label_map_reader
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.archives import UnionFiles
from ldm.data.contract import Split
from ldm.data.files import Files, ZipFiles, open_files
from ldm.data.listing import Found, Listing, image_names, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError

SIDES: dict[str, Split] = {"train": "train", "val": "heldout"}
FOLDER = re.compile(r"(train|val)(2014|2017)")
MAPS = "stuffthingmaps"


def list_coco(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """COCO, of 2017 where both years are there. Raises: UserError where its folders are missing."""
    files = _with_archives(open_files(path, memo))
    labels = _label_files(files, places)
    apart = labels.apart if labels is not None else frozenset()
    folders = [(name, FOLDER.fullmatch(posixpath.basename(posixpath.dirname(name)))) for name in image_names(files)]
    images = [(name, match[1], match[2]) for name, match in folders if match and name not in apart]
    if not images:
        raise UserError(
            f"{path} holds no COCO: expected are train2017/ or val2017/ (or 2014), or both, with images, and "
            "annotations/; for other images with COCO's JSON use data=folder data.boxes=FILE."
        )
    year = max(year for _, _, year in images)
    images = [image for image in images if image[2] == year]
    has_both = {side for _, side, _ in images} == {"train", "val"}
    found = [Found(name, posixpath.basename(name), split=SIDES[side] if has_both else None) for name, side, _ in images]
    names = [name for name, _, _ in images]
    listed = {
        kind: [f for f in files.names if re.fullmatch(rf"{kind}_(train|val){year}\.json", posixpath.basename(f))]
        for kind in ("captions", "instances")
    }
    own_captions, own_boxes = listed["captions"] and not places.captions, listed["instances"] and not places.boxes
    annotations = {
        "captions": listed_captions(files, listed["captions"], names)
        if own_captions
        else find_captions(files, names, places),
        "boxes": box_reader(files, files, listed["instances"], names)
        if own_boxes
        else find_boxes(files, names, places),
        "semantic": None if labels is None else label_map_reader(files, labels, names),
    }
    return make_listing(files, found, annotations=annotations)


def _label_files(files: Files, places: AnnotationPlaces) -> LabelFiles | None:
    is_there = any(f"{MAPS}/" in name for name in files.names)
    if places.semantic is not None or not is_there:
        return find_label_files(files, places)
    return find_label_files(files, dataclasses.replace(places, semantic=Path(MAPS)))


def _with_archives(files: Files) -> Files:
    """The files, and those in the zip archives among them as if these were unpacked."""
    zips: list[Files] = [
        ZipFiles(files.path / name) for name in files.names if name.endswith(".zip") and files.path.is_dir()
    ]
    return UnionFiles(files.path, [files, *zips]) if zips else files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coco(FileOptions):
    """COCO 2017 or 2014."""

    title: ClassVar[str] = "data=coco"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_coco(self.path, self.places, memo), size, memo)
