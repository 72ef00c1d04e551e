"""The image sets by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.data.cifar10 import Cifar10
from ldm.data.contract import DataSource, ImageSource, Split
from ldm.data.emoji import EmojiSet
from ldm.data.layouts.coco import Coco
from ldm.data.layouts.faces import FFHQ, CelebAHQ
from ldm.data.layouts.folder import Folder
from ldm.data.layouts.imagenet import ImageNet
from ldm.data.layouts.lsun import LSUN
from ldm.data.layouts.openimages import OpenImages
from ldm.data.layouts.parquet import Parquet
from ldm.data.layouts.places import Places
from ldm.data.layouts.webdataset import WebDataset
from ldm.data.memo import ContentMemo
from ldm.parts import checked, look_up

SOURCES: Mapping[str, type[DataSource]] = {
    "emoji": EmojiSet,
    "folder": Folder,
    "cifar10": Cifar10,
    "imagenet": ImageNet,
    "lsun": LSUN,
    "celebahq": CelebAHQ,
    "ffhq": FFHQ,
    "coco": Coco,
    "openimages": OpenImages,
    "places": Places,
    "webdataset": WebDataset,
    "parquet": Parquet,
}


def open_splits(
    name: str, resolution: int, *, size: tuple[int, int] | None = None, memo: Path | None = None, **options: Any
) -> dict[Split, ImageSource]:
    """The training and the held-out images of a set, nothing decoded yet; `options` are the set's own.

    `size` (height, width) asks for images of that size instead: the middle of larger squares, or of squares of the
    resolution side by side where a set has none larger (`emoji`, the official archive of CIFAR-10). `memo` is a JSON
    file in which content identities are remembered, so that a second call on an unchanged folder does not read it
    again.

    Raises: UserError for an unknown name, an option that is not allowed, and whatever the set itself finds wrong.
    """
    source = checked(look_up(SOURCES, name, "data"), {"resolution": resolution, **options}, "data")
    return source.open(size, ContentMemo(memo))
