"""CIFAR-10 from the official archives (binary or Python version, packed or extracted), with the official split."""

import hashlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.data.contract import SPLITS, Annotation, Item, Split
from ldm.data.decode import DECODE_CODE, RESIZE_RULE, square
from ldm.data.larger import at_size
from ldm.data.layouts.folder import list_folder
from ldm.data.memo import ContentMemo, signature
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.errors import UserError
from ldm.records import content_hash

SIDE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREFIXES: dict[Split, str] = {"train": "data_batch", "heldout": "test_batch"}

ALLOWED = {
    (package + module, name): value
    for package in ("numpy.core.", "numpy._core.")
    for module, name, value in [("multiarray", "_reconstruct", np.empty(0).__reduce__()[0])]
} | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
"""All that the pickles of the Python version may name: what rebuilds a plain array."""


LARGEST_BATCH = 64 << 20
"""Bytes of a batch, at most; the official ones have 31 million."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays; whatever else they name is refused, so nothing can run."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin_bytes
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"refused to load {module_name}.{global_name}")
        return ALLOWED[module_name, global_name]


def _latin_bytes(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"refused to encode as {encoding!r}")
    return text.encode("latin1")


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (n, 32, 32, 3) and labels int64 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


class CifarArchive:
    """The batches of an official archive or of its extracted folder; pixels are read when first needed."""

    def __init__(self, path: Path, memo: ContentMemo) -> None:
        self.path = path
        self._memo = memo

    @cached_property
    def data(self) -> dict[Split, Labelled]:
        """Both splits, as the official batches give them."""
        files = _tar_members(self.path) if self.path.is_file() else _directory_members(self.path)
        splits = {}
        for split, prefix in PREFIXES.items():
            batches = [_batch(name, files[name], self.path) for name in sorted(files) if name.startswith(prefix)]
            if not batches:
                raise UserError(f"{self.path} holds no {prefix} of CIFAR-10; download the official archive again.")
            splits[split] = Labelled(
                np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])
            )
        return splits

    def digest(self, split: Split) -> str:
        """A hash of the split's images and labels, the same whatever the archive's version."""
        files = [self.path] if self.path.is_file() else _batch_files(self.path)
        key, sign = f"{split}:{os.path.abspath(self.path)}", signature(files)
        known = self._memo.recall(key, sign)
        if known is not None:
            return known
        for name in SPLITS:
            data = self.data[name]
            digest = hashlib.blake2b(data.images.tobytes(), digest_size=16)
            digest.update(data.labels.tobytes())
            self._memo.keep(f"{name}:{os.path.abspath(self.path)}", sign, digest.hexdigest())
        self._memo.save()
        return self._memo.recall(key, sign) or ""


class CifarImages:
    """One official split of CIFAR-10 as an `ImageSource`."""

    classes = CLASSES
    annotations: Mapping[str, Annotation] = MappingProxyType({})
    max_skipped_fraction = 0.0

    def __init__(self, archive: CifarArchive, split: Split, resolution: int, limit: int | None = None) -> None:
        if resolution > 2 * SIDE:
            raise UserError(
                f"CIFAR-10 is {SIDE} px; data.resolution={resolution} is over twice that, choose a smaller one."
            )
        self.resolution = resolution
        self.size = (resolution, resolution)
        self._archive = archive
        self._split = split
        self._limit = limit

    def __len__(self) -> int:
        return len(self._archive.data[self._split].labels[: self._limit])

    @property
    def fingerprint(self) -> str:
        """A hash of the split's content, the number taken of it, the resolution and the resize rule."""
        parts = (DECODE_CODE, RESIZE_RULE, self.resolution, self._limit, self._archive.digest(self._split))
        return content_hash(["cifar10", *parts])

    def name(self, index: int) -> str:
        """The name of image `index`."""
        return f"{self._split}-{index:05d}"

    def annotation(self, kind: str, index: int) -> NoReturn:
        """There is none."""
        raise KeyError(kind)

    def item(self, index: int) -> Item:
        """Image `index`, in the order of the official batches."""
        data = self._archive.data[self._split]
        image = np.array(square(Image.fromarray(data.images[index]), self.resolution))
        return Item(image, self.name(index), int(data.labels[index]))


def is_official(path: Path) -> bool:
    """Whether the path is a tar archive or a folder with the official batches."""
    return bool(_batch_files(path)) if path.is_dir() else path.is_file() and tarfile.is_tarfile(path)


def open_cifar10(
    path: Path, resolution: int, limits: dict[Split, int | None], memo: ContentMemo
) -> dict[Split, CifarImages]:
    """Both splits of an official archive or of its extracted folder."""
    archive = CifarArchive(path, memo)
    return {split: CifarImages(archive, split, resolution, limits.get(split)) for split in SPLITS}


def _is_batch(name: str) -> bool:
    return name.startswith(tuple(PREFIXES.values()))


def _batch_files(path: Path) -> list[Path]:
    """The batches in a folder or in one folder below it."""
    here = sorted(file for file in path.iterdir() if file.is_file() and _is_batch(file.name))
    return here or sorted(file for file in path.glob("cifar-10-batches-*/*") if file.is_file() and _is_batch(file.name))


def _directory_members(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in _batch_files(path)}


def _tar_members(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                content = archive.extractfile(member) if member.isfile() and _is_batch(name) else None
                if content is not None and member.size > LARGEST_BATCH:
                    raise UserError(f"{path} holds {name} of {member.size:,} bytes, which no batch of CIFAR-10 has.")
                if content is not None:
                    files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); download the CIFAR-10 archive again.") from error
    return files


def _batch(name: str, content: bytes, path: Path) -> Labelled:
    """One batch of either version: planes of red, green and blue, row by row.

    Raises: UserError where the content is not what the official description says.
    """
    damaged = f"{name} in {path} is not a batch of CIFAR-10"
    if name.endswith(".bin"):
        if not content or len(content) % (1 + 3 * SIDE**2):
            raise UserError(f"{damaged}: its {len(content)} bytes are no whole number of images.")
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * SIDE**2)
        planes, labels = records[:, 1:], records[:, 0].astype(np.int64)
    else:
        try:
            batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
            planes, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
        except Exception as error:  # a damaged pickle fails in any way
            raise UserError(f"{damaged} ({error}); download the archive again.") from error
    fits = planes.dtype == np.uint8 and planes.shape == (len(labels), 3 * SIDE**2)
    if not fits or not len(labels) or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise UserError(f"{damaged}: it should hold 3072 bytes and a label from 0 to 9 for each image.")
    images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Labelled(np.ascontiguousarray(images), labels)


@dataclass(frozen=True, kw_only=True)
class Cifar10(FileOptions):
    """CIFAR-10: the official archive or what was unpacked of it, or class folders like any other."""

    title: ClassVar[str] = "data=cifar10"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        if not is_official(self.path):
            return open_listed(self, list_folder(self.path, self.places, memo), size, memo)
        return at_size(open_cifar10(self.path, self.resolution, self.limits, memo), size)
