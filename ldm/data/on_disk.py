"""Image sets that are files on the disk: the options they share, and how one is opened whose files have been listed."""

from dataclasses import dataclass
from pathlib import Path

from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.contract import ImageSource, Split
from ldm.data.decode import WHITE_16
from ldm.data.larger import at_size
from ldm.data.listing import Listing, check_declared, open_listing
from ldm.data.memo import ContentMemo
from ldm.parts import option

Splits = dict[Split, ImageSource]
Size = tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The options of all sets of files.

    `classes`, `box_classes` and `semantic_classes` declare how many there are, so that networks can be counted without
    the data; a wrong declaration is an error when they are read. `captions`, `boxes` and `semantic` say where
    annotations lie that are not found by convention (docs/data.md); they are read when they are first asked for.
    """

    path: Path = option(help="the place of the images")
    resolution: int = option(low=1, high=2**15, unit="pixels", help="side of the training images")
    n_train: int | None = option(None, low=1, unit="images", help="upper limit of the training images")
    n_heldout: int | None = option(None, low=1, unit="images", help="upper limit of the held-out images")
    heldout_fraction: float = option(0.1, above=0, below=1, help="share that is held out where nothing gives a split")
    max_skipped_fraction: float = option(0.1, low=0, high=1, help="share that may be unusable")
    classes: int | None = option(None, low=0, unit="classes", help="declared number of classes of images")
    box_classes: int | None = option(None, low=0, unit="classes", help="declared number of classes of boxes")
    semantic_classes: int | None = option(None, low=0, unit="classes", help="declared number of classes of label maps")
    captions: Path | None = option(None, help="file or folder of captions")
    boxes: Path | None = option(None, help="file or folder of boxes")
    semantic: Path | None = option(None, help="folder of label maps")
    palette: Path | None = option(None, help="file that says what the colours of label maps mean")

    @property
    def places(self) -> AnnotationPlaces:
        """Where annotations lie that are not found by convention."""
        return AnnotationPlaces(self.captions, self.boxes, self.semantic, self.palette)

    @property
    def limits(self) -> dict[Split, int | None]:
        """The most images of each split; None for all."""
        return {"train": self.n_train, "heldout": self.n_heldout}


def open_listed(
    options: FileOptions, listing: Listing, size: Size, memo: ContentMemo, white: int | None = None
) -> Splits:
    """Both splits of a set whose files have been listed, of another (height, width) where `size` is given.

    `white` is the 16-bit value shown as white.
    """
    check_declared(options.classes, len(listing.classes), "labels", options.path)
    counts = {"boxes": options.box_classes, "semantic": options.semantic_classes}
    declared = {kind: count for kind, count in counts.items() if count is not None}
    side = options.resolution if size is None else max(size)
    fractions = options.heldout_fraction, options.max_skipped_fraction
    opened = open_listing(listing, side, *fractions, options.limits, declared, memo, white or WHITE_16)
    return at_size(opened, size)
