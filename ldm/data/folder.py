"""Any folder or zip archive of images as a labelled or unlabelled image set.

Hidden files, `__MACOSX` and files that are no images are ignored, as are folders that merely wrap all the others. Where
everything lies in `train/` and a held-out folder (`heldout`, `val`, `validation`, `valid` or `test`, the first that is
there), that is the split; else an image is held out by a hash of its content, so that equal files share a side. Where
every image then lies in one of two or more subfolders, those are the classes.
"""

import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from ldm.data.contract import SPLITS, Annotation, Item, Split, UnusableImage
from ldm.data.decode import DECODE_CODE, IMAGE_SUFFIXES, RESIZE_RULE, decode_image
from ldm.data.memo import ContentMemo, signature
from ldm.errors import UserError
from ldm.records import content_hash

HELDOUT_FOLDERS = ("heldout", "val", "validation", "valid", "test")
READ_BLOCK = 1 << 20
HASHING_THREADS = 8


class ImageFiles(Protocol):
    """A place with files: their names with content identities (crc32 and size), and their bytes."""

    def list(self) -> list[tuple[str, str]]: ...

    def read(self, name: str) -> bytes: ...


def is_image_name(name: str) -> bool:
    """Whether a relative path names a visible image file."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


class DirectoryFiles:
    """The image files below a directory, through symbolic links as well."""

    def __init__(self, root: Path, memo: ContentMemo) -> None:
        self._root = root
        self._memo = memo

    def list(self) -> list[tuple[str, str]]:
        names = sorted(self._names())
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            identities = list(pool.map(self._identity, names))
        self._memo.save()
        return list(zip(names, identities, strict=True))

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def _names(self) -> Iterator[str]:
        visited = set()
        for folder, folders, files in os.walk(self._root, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link back to a folder above
                folders.clear()
                continue
            visited.add(real)
            folders.sort()  # so that of two ways to one folder the same is always taken
            for file in files:
                name = (Path(folder) / file).relative_to(self._root).as_posix()
                if is_image_name(name) and (self._root / name).is_file():
                    yield name

    def _identity(self, name: str) -> str:
        path = self._root / name
        key, sign = os.path.abspath(path), signature([path])
        known = self._memo.recall(key, sign)
        if known is not None:
            return known
        crc, size = 0, 0
        with path.open("rb") as file:
            while block := file.read(READ_BLOCK):
                crc, size = zlib.crc32(block, crc), size + len(block)
        self._memo.keep(key, sign, _identity(crc, size))
        return _identity(crc, size)


class ZipFiles:
    """The image files in a zip archive; identities come from its directory, without reading the images."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._lock = threading.Lock()

    def list(self) -> list[tuple[str, str]]:
        infos = {info.filename: info for info in self._archive.infolist() if is_image_name(info.filename)}
        return [(name, _identity(infos[name].CRC, infos[name].file_size)) for name in sorted(infos)]

    def read(self, name: str) -> bytes:
        with self._lock:
            return self._archive.read(name)


def _identity(crc: int, size: int) -> str:
    return f"{crc:08x}-{size}"


@dataclass(frozen=True)
class FileEntry:
    """One image: its name, the name without wrapping and split folders, its class, its content, and the given split."""

    name: str
    key: str
    label: int | None
    content: str
    split: Split | None


@dataclass(frozen=True)
class Listing:
    """All images of a folder or zip archive, before any is decoded."""

    path: Path
    files: ImageFiles
    entries: tuple[FileEntry, ...]
    classes: tuple[str, ...]


def list_images(path: Path, memo: ContentMemo) -> Listing:
    """Finds the images below `path`, their classes, and the split the folders give, if any.

    Raises: UserError where the path is missing, neither a folder nor a zip archive, or without images.
    """
    if not path.exists():
        raise UserError(f"There is no {path}; set data.path to a folder or a zip archive of images.")
    if path.is_dir():
        files: ImageFiles = DirectoryFiles(path, memo)
    elif zipfile.is_zipfile(path):
        files = ZipFiles(path)
    else:
        raise UserError(f"{path} is neither a folder nor a zip archive; set data.path to one that holds images.")
    found = files.list()
    if not found:
        raise UserError(
            f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); set data.path to some that does."
        )
    splits, inner = _given_split(_unwrapped([PurePosixPath(name).parts for name, _ in found]))
    folders = {parts[0] for parts in inner if len(parts) > 1}
    labelled = all(len(parts) > 1 for parts in inner) and len(folders) > 1
    classes = tuple(sorted(folders)) if labelled else ()
    index = {name: number for number, name in enumerate(classes)}
    entries = [
        FileEntry(name, "/".join(parts), index[parts[0]] if labelled else None, content, split)
        for (name, content), parts, split in zip(found, inner, splits, strict=True)
    ]
    return Listing(path, files, tuple(sorted(entries, key=lambda entry: (entry.key, entry.name))), classes)


def _unwrapped(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths without the leading folders that all of them share."""
    depth = 0
    for level in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return [path[depth:] for path in paths]


def _given_split(paths: Sequence[tuple[str, ...]]) -> tuple[list[Split | None], list[tuple[str, ...]]]:
    """The side each path is given by its first folder, and the paths below; no side where the folders give none.

    Files in a held-out folder of lower rank (`test` beside `val`) take no part.
    """
    tops = {path[0] if len(path) > 1 else "" for path in paths}
    named = {top.lower(): top for top in tops}
    heldout = next((named[name] for name in HELDOUT_FOLDERS if name in named), None)
    if heldout is None or "train" not in named or not set(named) <= {"train", *HELDOUT_FOLDERS}:
        return [None] * len(paths), list(paths)
    sides: dict[str, Split] = {named["train"]: "train", heldout: "heldout"}
    return [sides.get(path[0]) for path in paths], _unwrapped([path[1:] for path in paths])


def heldout_contents(contents: Sequence[str], fraction: float, path: Path) -> frozenset[str]:
    """The contents that are held out: those whose hash, as a number in [0, 1), is under `fraction`.

    At least one, of eight different ones at least two, and never all.
    Raises: UserError where there are fewer than two different images.
    """
    ranked = sorted((_uniform(content), content) for content in set(contents))
    if len(ranked) < 2:
        raise UserError(f"{path} holds only one image; training and a held-out set need at least two.")
    least = 2 if len(ranked) >= 8 else 1
    count = sum(position < fraction for position, _ in ranked)
    return frozenset(content for _, content in ranked[: min(max(count, least), len(ranked) - 1)])


def _uniform(content: str) -> float:
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little") / 2**64


class FolderImages:
    """One split of a listing, decoded on demand, as an `ImageSource`.

    `limit` keeps so many images, chosen by their content.
    Raises: UserError where the split has no image.
    """

    def __init__(
        self,
        listing: Listing,
        split: Split,
        resolution: int,
        heldout_fraction: float,
        max_skipped_fraction: float,
        limit: int | None = None,
    ) -> None:
        self.resolution = resolution
        self.classes = listing.classes
        self.annotations: Mapping[str, Annotation] = {}
        self.max_skipped_fraction = max_skipped_fraction
        self._files = listing.files
        self._entries = _side(listing, split, heldout_fraction)
        if limit is not None:
            first = sorted(self._entries, key=lambda entry: (_uniform(f"limit/{entry.content}"), entry.key))[:limit]
            self._entries = sorted(first, key=lambda entry: (entry.key, entry.name))
        if not self._entries:
            raise UserError(f"{listing.path} gives no images for the {split} set; check its folders and data.path.")

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def fingerprint(self) -> str:
        """A hash of decoding rule, resolution, classes, and of every image's path, content and class."""
        entries = [[entry.key, entry.content, entry.label] for entry in self._entries]
        return content_hash(["files", DECODE_CODE, RESIZE_RULE, self.resolution, list(self.classes), entries])

    def item(self, index: int) -> Item:
        """Image `index`, in the order of paths."""
        entry = self._entries[index]
        try:
            data = self._files.read(entry.name)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise UnusableImage(entry.name, f"cannot be read ({error})") from error
        return Item(decode_image(data, self.resolution, entry.name), entry.name, entry.label)


def _side(listing: Listing, split: Split, fraction: float) -> list[FileEntry]:
    if any(entry.split is not None for entry in listing.entries):
        return [entry for entry in listing.entries if entry.split == split]
    heldout = heldout_contents([entry.content for entry in listing.entries], fraction, listing.path)
    return [entry for entry in listing.entries if (entry.content in heldout) == (split == "heldout")]


def open_folder(
    path: Path,
    resolution: int,
    heldout_fraction: float,
    max_skipped_fraction: float,
    limits: dict[Split, int | None],
    memo: ContentMemo,
) -> dict[Split, FolderImages]:
    """Both splits of a folder or zip archive of images, which is read through once."""
    listing = list_images(path, memo)
    return {
        split: FolderImages(listing, split, resolution, heldout_fraction, max_skipped_fraction, limits.get(split))
        for split in SPLITS
    }
