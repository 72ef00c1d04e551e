"""ImageNet (ILSVRC2012) as it is handed out: tar archives, folders, or the challenge's tree, with labels of val/.

Training images lie in `train/<wnid>/`, in `ILSVRC2012_img_train.tar`, or in `train/<wnid>.tar`; validation images in
`val/<wnid>/`, or flat in `val/` or `ILSVRC2012_img_val.tar` with a list of their classes. Classes are the WordNet ids
(n01440764, ...), sorted, as everybody numbers them.
"""

import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from ldm.data.annotations.boxes import find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.lookup import AnnotationPlaces, read_text, shown
from ldm.data.archives import FilesIn, TarFiles, UnionFiles
from ldm.data.contract import Split
from ldm.data.files import Files, open_files
from ldm.data.listing import Found, Listing, image_names, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError
from ldm.lines import lines_of

SIDES: Mapping[str, Split] = {"train": "train", "val": "heldout"}
WNID = re.compile(r"n\d{8}")
VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}")

LISTS = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_synset_labels.txt",
    "val_map.txt",
    "val_labels.txt",
    "val.txt",
)
"""Files that tell the classes of validation images: an image and its wnid (or number of class) a line, or a wnid a line
in the order of images."""

GROUND_TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
"""The development kit's: a number of its own a line, and what WordNet id it stands for."""


def list_imagenet(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """ImageNet. Raises: UserError where there are no training images, or validation images of unknown class."""
    files = _with_archives(open_files(path, memo), memo)
    images = [(name, side) for name in image_names(files) if (side := _side(name)) is not None]
    wnid = {name: posixpath.basename(posixpath.dirname(name)) for name, _ in images}
    train = [name for name, side in images if side == "train"]
    if not train or not all(WNID.fullmatch(wnid[name]) for name in train):
        raise UserError(
            f"{path} holds no ImageNet: expected are training images in train/n01440764/ and so on, or "
            "ILSVRC2012_img_train.tar; for other folders of images use data=folder."
        )
    classes = tuple(sorted({wnid[name] for name in train}))
    flat = [name for name, side in images if side == "heldout" and not WNID.fullmatch(wnid[name])]
    if flat:
        wnid |= _validation_classes(files, flat, classes)
    number = {name: position for position, name in enumerate(classes)}
    unknown = next((name for name, _ in images if wnid[name] not in number), None)
    if unknown is not None:
        raise UserError(f"{unknown} in {path} is of class {wnid[unknown]}, of which there is no training image.")
    has_both = any(side == "heldout" for _, side in images)
    found = [
        Found(name, f"{wnid[name]}/{posixpath.basename(name)}", number[wnid[name]], side if has_both else None)
        for name, side in images
    ]
    names = [name for name, _ in images]
    annotations = {"captions": find_captions(files, names, places), "boxes": find_boxes(files, names, places)}
    return make_listing(files, found, classes, annotations)


def _side(name: str) -> Split | None:
    return next((SIDES[part] for part in name.split("/")[:-1] if part in SIDES), None)


def _with_archives(files: Files, memo: ContentMemo) -> Files:
    """The files, and those in the tar archives among them as if these were unpacked where they belong."""
    whole = {"ILSVRC2012_img_train.tar": "train", "ILSVRC2012_img_val.tar": "val"}
    tars: list[Files] = []
    if not files.path.is_dir():
        return files
    for name in files.names:
        at = PurePosixPath(name)
        if at.name in whole:
            tars.append(FilesIn(whole[at.name], TarFiles(files.path / name, memo)))
        elif at.suffix == ".tar" and at.parent.name == "train" and WNID.fullmatch(at.stem):
            tars.append(FilesIn(f"train/{at.stem}", TarFiles(files.path / name, memo)))
    return UnionFiles(files.path, [files, *tars]) if tars else files


def _validation_classes(files: Files, images: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The WordNet ids of validation images that lie in no folder of a class."""
    in_order = sorted(images, key=lambda name: PurePosixPath(name).name)
    lists = [name for name in files.names if PurePosixPath(name).name in LISTS]
    kit = [name for name in files.names if PurePosixPath(name).name == GROUND_TRUTH]
    if lists:
        source = min(lists, key=lambda name: LISTS.index(PurePosixPath(name).name))
        return _listed(files, source, in_order, classes)
    if kit:
        return _by_kit(files, kit[0], in_order)
    raise UserError(
        f"{files.path} has {len(images)} validation images outside of folders of classes, and nothing tells their "
        f"classes; put them in val/<wnid>/, or add one of {', '.join(LISTS)} or the unpacked development kit."
    )


def _listed(files: Files, source: str, in_order: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    by_stem = {PurePosixPath(name).stem: name for name in in_order}
    lines = [line for line in lines_of(read_text(files, source)) if line.strip() and not line.startswith("ImageId")]
    found: dict[str, str] = {}
    for position, line in enumerate(lines):
        image, wnid, words = VALIDATION_IMAGE.search(line), WNID.search(line), line.split()
        is_number = wnid is None and words[-1].isdecimal() and int(words[-1]) < len(classes)
        if image is None and (wnid is None or len(lines) != len(in_order)):
            raise UserError(
                f"{shown(files, source)}, line {position + 1}: expected is an image and its wnid, or, for each of the "
                f"{len(in_order)} validation images in order, a wnid."
            )
        if wnid is None and not is_number:
            raise UserError(
                f"{shown(files, source)}, line {position + 1}: has no wnid (n01440764) and no class number."
            )
        name = by_stem.get(image.group()) if image else in_order[position]
        if name is not None:
            found[name] = wnid.group() if wnid else classes[int(words[-1])]
    return _complete(found, files, source, in_order)


def _by_kit(files: Files, source: str, in_order: Sequence[str]) -> dict[str, str]:
    """By the development kit, whose numbers are not those of the sorted WordNet ids."""
    from scipy.io import loadmat

    mats = [name for name in files.names if PurePosixPath(name).name == SYNSETS]
    if not mats:
        raise UserError(f"{shown(files, source)} needs {SYNSETS} of the same development kit, which is not there.")
    synsets = loadmat(io.BytesIO(files.read(mats[0])), squeeze_me=True)["synsets"]
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    lines = read_text(files, source).split()
    if len(lines) < len(in_order) or not all(line.isdecimal() and int(line) in wnid for line in lines):
        raise UserError(f"{shown(files, source)} should hold a number from {SYNSETS} for each validation image.")
    # Images carry their line's number, so that a part of them can be used.
    by_number = [(name, int(PurePosixPath(name).stem[-8:])) for name in in_order if VALIDATION_IMAGE.search(name)]
    found = {name: wnid[int(lines[number - 1])] for name, number in by_number if number <= len(lines)}
    return _complete(found, files, source, in_order)


def _complete(found: dict[str, str], files: Files, source: str, in_order: Sequence[str]) -> dict[str, str]:
    missing = next((name for name in in_order if name not in found), None)
    if missing is not None:
        raise UserError(f"{shown(files, source)} does not tell the class of {missing}.")
    return found


@dataclass(frozen=True, kw_only=True)
class ImageNet(FileOptions):
    """ImageNet (ILSVRC2012)."""

    title: ClassVar[str] = "data=imagenet"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_imagenet(self.path, self.places, memo), size, memo)
