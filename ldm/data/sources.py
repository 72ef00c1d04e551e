"""Opens an image set by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.cifar10 import is_official, open_cifar10
from ldm.data.contract import SPLITS, ImageSource, Split
from ldm.data.emoji import EmojiScenes
from ldm.data.larger import LargerImages
from ldm.data.layouts.coco import list_coco
from ldm.data.layouts.faces import list_celebahq, list_ffhq
from ldm.data.layouts.folder import list_folder
from ldm.data.layouts.imagenet import list_imagenet
from ldm.data.layouts.lsun import list_lsun
from ldm.data.layouts.openimages import list_openimages
from ldm.data.layouts.places import list_places
from ldm.data.listing import Listing, check_declared, open_listing
from ldm.data.memo import ContentMemo
from ldm.errors import UserError, nearest

Layout = Callable[[Path, AnnotationPlaces, ContentMemo], Listing]

LAYOUTS: Mapping[str, Layout] = {
    "folder": list_folder,
    "cifar10": list_folder,
    "imagenet": list_imagenet,
    "lsun": list_lsun,
    "celebahq": list_celebahq,
    "ffhq": list_ffhq,
    "coco": list_coco,
    "openimages": list_openimages,
    "places": list_places,
}
"""What knows where things lie, of the sets that are files on the disk."""

SOURCES = ("emoji", *LAYOUTS)


def open_splits(
    name: str,
    resolution: int,
    *,
    size: tuple[int, int] | None = None,
    path: Path | None = None,
    seed: int = 0,
    n_train: int | None = None,
    n_heldout: int | None = None,
    heldout_fraction: float = 0.1,
    max_skipped_fraction: float = 0.1,
    category: str | None = None,
    classes: int | None = None,
    box_classes: int | None = None,
    semantic_classes: int | None = None,
    captions: Path | None = None,
    boxes: Path | None = None,
    semantic: Path | None = None,
    memo: Path | None = None,
) -> dict[Split, ImageSource]:
    """The training and the held-out images of a set, nothing decoded yet.

    `size` (height, width) asks for images of that size instead: the middle of larger squares, or of squares of the
    resolution side by side where a set has none larger (`emoji`, the official archive of CIFAR-10).
    `n_train` and `n_heldout` are the numbers of scenes of `emoji`, which needs them, and upper limits elsewhere.
    `category` is LSUN's. `classes`, `box_classes` and `semantic_classes` declare how many there are, so that networks
    can be counted without the data; a wrong declaration is an error when they are read. `captions`, `boxes` and
    `semantic` say where annotations lie that are not found by convention (docs/data.md); they are read when they are
    first asked for. `memo` is a JSON file in which content identities are remembered, so that a second call on an
    unchanged folder does not read it again.

    Raises: UserError for an unknown name and whatever the set itself finds wrong.
    """
    limits: dict[Split, int | None] = {"train": n_train, "heldout": n_heldout}
    if name not in SOURCES:
        raise UserError(f"There is no data={name}{nearest(name, SOURCES)} (there are {', '.join(SOURCES)}).")
    if resolution < 1:
        raise UserError(f"data.resolution={resolution} is no size of an image; give it a number of pixels.")
    if not 0 < heldout_fraction < 1:
        raise UserError(f"data.heldout_fraction={heldout_fraction} must lie between 0 and 1.")
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            raise UserError(f"data.n_{split}={limit} leaves no images; raise it, or leave it out for all of them.")
    if name == "emoji":
        scenes = {split: EmojiScenes(split, resolution, _required(limits[split], split), seed) for split in SPLITS}
        return _at_size(scenes, size)
    if path is None:
        raise UserError(f"data={name} needs data.path, the place of the images.")
    remembered = ContentMemo(memo)
    if name == "cifar10" and is_official(path):
        return _at_size(open_cifar10(path, resolution, limits, remembered), size)
    layout = partial(list_lsun, category=category) if name == "lsun" else LAYOUTS[name]
    listing = layout(path, AnnotationPlaces(captions, boxes, semantic), remembered)
    check_declared(classes, len(listing.classes), "labels", path)
    counts = {"boxes": box_classes, "semantic": semantic_classes}
    declared = {kind: count for kind, count in counts.items() if count is not None}
    side = resolution if size is None else max(size)
    opened = open_listing(listing, side, heldout_fraction, max_skipped_fraction, limits, declared, remembered)
    return _at_size(opened, size)


def _at_size(splits: Mapping[Split, ImageSource], size: tuple[int, int] | None) -> dict[Split, ImageSource]:
    return {split: source if size is None else LargerImages(source, size) for split, source in splits.items()}


def _required(count: int | None, split: Split) -> int:
    if count is None:
        raise UserError(f"data=emoji needs data.n_{split}, the number of {split} scenes.")
    return count
