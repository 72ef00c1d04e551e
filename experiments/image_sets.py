"""Image sets that no stage made: files of a folder or a zip archive, an array of an .npz or .npy, a store's own."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.console import reporting, say
from experiments.saved_samples import IMAGES
from experiments.scoring import feature_file
from experiments.store import Store
from ldm.data.contract import UnusableImage
from ldm.data.decode import decode_image, upright_size
from ldm.data.files import READ_ERRORS, Files, open_files
from ldm.data.listing import image_names
from ldm.data.memo import ContentMemo
from ldm.errors import UserError
from ldm.metrics.features import Extractor, FeatureAccumulator, Features
from ldm.records import StageRecord, content_hash

ADM_ARRAY = "arr_0"
"""The array of an .npz of samples, as guided diffusion (Dhariwal and Nichol 2021) writes and reads them."""

MOST_UNUSABLE = 0.1
"""The share of files that may be broken or too small, as `data.max_skipped_fraction` allows by default."""

MOST_NAMED = 5

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageSet:
    """Images in a stated order. `sizes`: the (height, width) that occur; `hashed`: what their content hashes to.

    `take(index, side)` is image `index` as uint8 (H, W, 3), at that side where one is given, cut and resized as
    data=folder does. It raises UnusableImage for one that cannot be read.
    """

    path: Path
    n: int
    sizes: frozenset[Size]
    hashed: str
    take: Callable[[int, int | None], NDArray[np.uint8]]

    @property
    def side(self) -> int | None:
        """The side of its images, where all are squares of one size."""
        [(height, width), *others] = sorted(self.sizes)
        return None if others or height != width else height

    def batches(self, indices: Sequence[int], side: int, size: int) -> Iterator[Tensor]:
        """The chosen images as uint8 (<= size, 3, side, side); what cannot be used is left out and said.

        Raises: UserError where that is more than a tenth of them.
        """
        unusable: list[UnusableImage] = []

        def taken(index: int) -> NDArray[np.uint8] | None:
            try:
                return self.take(index, side)
            except UnusableImage as error:
                unusable.append(error)
                return None

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for first in range(0, len(indices), size):
                read = [image for image in pool.map(taken, indices[first : first + size]) if image is not None]
                if len(unusable) > MOST_UNUSABLE * len(indices):
                    raise UserError(f"{len(unusable)} images of {self.path} cannot be used: {_named(unusable)}")
                if read:
                    yield torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()
        if unusable:
            say(f"{self.path}: {len(unusable)} left out: {_named(unusable)}", style="yellow")


@dataclass(frozen=True)
class StoredSet:
    """What a store holds of an image set: its features, and the record of the stage that made them."""

    path: Path
    features: Features
    record: StageRecord

    @property
    def hashed(self) -> str:
        """What the images hash to; of samples, what made them."""
        found: str = self.record.facts.get("reference_fingerprint", self.record.identity)
        return found

    @property
    def side(self) -> int:
        """The side of the images that the network saw."""
        return int(self.record.environment["config"]["data"]["resolution"])

    @property
    def extractor(self) -> Mapping[str, Any]:
        """The settings of the extractor that saw them."""
        found: Mapping[str, Any] = self.record.config["extractor"]
        return found


def open_set(path: Path, extractor: str | None = None) -> ImageSet | StoredSet:
    """The image set at a path; of a store, its reference images in the eyes of that extractor.

    Raises: UserError where there is nothing that can be read.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}; give a folder, a zip archive, an .npz or .npy of images, or a store")
    if (path / "record.json").is_file():
        return _stored(path, Store(path.resolve().parents[1], is_read_only=True))
    if path.is_dir() and (path / "sweeps").is_dir() and (path / "claims").is_dir():
        return _reference_of(Store(path, is_read_only=True), extractor)
    if path.suffix in (".npz", ".npy"):
        return _array(path)
    return _files(open_files(path, ContentMemo(None)))


def _stored(path: Path, store: Store) -> ImageSet | StoredSet:
    """An artifact of a store: images where they were saved, else features."""
    record = store.record(path.resolve().parent.name, path.resolve().name)
    assert record is not None  # its file is there
    if (path / IMAGES).is_file():
        return _array(path / IMAGES)
    for name in ("reference.npz", feature_file()):
        if (path / name).is_file():
            return StoredSet(path, Features.load(path / name), record)
    raise UserError(
        f"{path} is a {record.stage} of a store, which holds neither images nor features; give a folder of samples or "
        f"reference in {store.root}"
    )


def _reference_of(store: Store, extractor: str | None) -> StoredSet:
    folders = [path.parent for path in store.records("reference")]
    found = [one for folder in folders if isinstance(one := _stored(folder, store), StoredSet)]
    fitting = [one for one in found if extractor in (None, one.extractor["name"])]
    if len(fitting) != 1:
        listed = "".join(
            f"\n  {one.path}  {one.extractor['name']}, {len(one.features):,} images ({one.record.config['reference']}) "
            f"of {one.side} px"
            for one in fitting or found
        )
        raise UserError(f"the store {store.root} has {len(fitting)} such sets of reference images: give one{listed}")
    return fitting[0]


def _files(files: Files) -> ImageSet:
    names = sorted(image_names(files), key=_natural)
    contents = files.identities(names)

    def size(name: str) -> Size | None:
        with files.open(name) as file:
            found = upright_size(file)
        return None if found is None else (found[1], found[0])

    def take(index: int, side: int | None) -> NDArray[np.uint8]:
        try:
            data = files.read(names[index])
        except READ_ERRORS as error:
            raise UnusableImage(names[index], f"cannot be read ({error})") from error
        assert side is not None
        return decode_image(data, side, names[index])

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        sizes = frozenset(one for one in pool.map(size, names) if one is not None)
    if not sizes:
        raise UserError(f"none of the {len(names)} images in {files.path} can be read")
    return ImageSet(files.path, len(names), sizes, content_hash([names, contents]), take)


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names count as numbers, so that sample_10 stands behind sample_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _array(path: Path) -> ImageSet:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            names = loaded.files
            if ADM_ARRAY not in names:
                raise UserError(
                    f"{path} holds {', '.join(sorted(names))} and no array {ADM_ARRAY} of images; moments (mu, sigma) "
                    "alone give no interval and no other metric, so give the images"
                )
            loaded = loaded[ADM_ARRAY]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an array of images: {error}") from error
    if loaded.dtype != np.uint8 or loaded.ndim != 4 or 3 not in (loaded.shape[3], loaded.shape[1]) or not len(loaded):
        raise UserError(
            f"{path} holds {loaded.dtype} {tuple(loaded.shape)}; images are uint8 (n, height, width, 3), n at least 1"
        )
    images = loaded if loaded.shape[3] == 3 else loaded.transpose(0, 2, 3, 1)
    height, width = images.shape[1:3]

    def take(index: int, side: int | None) -> NDArray[np.uint8]:
        if (height, width) != (side, side):
            raise UserError(
                f"{path} holds images of {width}x{height} px, which are not resized: save them at {side} px"
            )
        return np.ascontiguousarray(images[index])

    with path.open("rb") as file:
        hashed = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    return ImageSet(path, len(images), frozenset({(height, width)}), hashed, take)


def _named(unusable: Sequence[UnusableImage]) -> str:
    more = len(unusable) - MOST_NAMED
    return "; ".join(map(str, unusable[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")


def features_in(images: ImageSet, indices: Sequence[int], side: int, extractor: Extractor, batch: int) -> Features:
    """What an extractor sees in the chosen images, with progress shown."""
    collected, done = FeatureAccumulator(), 0
    with reporting(f"features       {images.path.name}", len(indices)) as reporter:
        for part in images.batches(indices, side, batch):
            collected.add(extractor(part))
            done += len(part)
            reporter.advance_to(done)
    return collected.result()
