"""Image files before any is decoded: which there are, their classes, their side, and what annotates them."""

import functools
import hashlib
import json
import logging
import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ldm.data.contract import SPLITS, Annotation, AnnotationValue, Item, Split, UnusableImage
from ldm.data.decode import DECODE_CODE, IMAGE_SUFFIXES, RESIZE_RULE, decode_image
from ldm.data.files import READ_ERRORS, Files
from ldm.data.memo import ContentMemo
from ldm.errors import UserError
from ldm.records import content_hash

ANNOTATION_CODE = 1
"""Raised by hand whenever a change here or in annotations/ changes what is read of the same files."""

WORDS = {"captions": "captions", "boxes": "boxes", "semantic": "label maps"}
"""What the kinds of annotation are called."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileEntry:
    """One image: its name, the name without wrapping and split folders, its class, its content, and the given split."""

    name: str
    key: str
    label: int | None
    content: str
    split: Split | None


class AnnotationTable(Protocol):
    """One kind of annotation, read and checked, of the images of a listing, by their names."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes; see `ldm.data.contract.Annotation`."""
        ...

    def content(self, name: str) -> Any:
        """A JSON value that changes with the image's annotation; None where there is none."""
        ...

    def value(self, name: str, resolution: int) -> AnnotationValue:
        """The annotation of an image as its set gives it at that resolution."""
        ...


@dataclass(frozen=True)
class AnnotationReader:
    """A kind of annotation that is there: the files that hold it, and what reads and checks them.

    Raises (`load`): UserError where a file is not what it should be: which, the field, and what was expected.
    """

    files: Files
    sources: tuple[str, ...]
    load: Callable[[], AnnotationTable]

    def signature(self) -> list[int]:
        """What shows, without reading them, that the files have not changed."""
        stats = self.files.signature(self.sources)
        return [len(stats), int.from_bytes(hashlib.blake2b(str(stats).encode(), digest_size=6).digest(), "little")]


@dataclass(frozen=True)
class Listing:
    """All images of a set, and by kind what reads their annotations."""

    files: Files
    entries: tuple[FileEntry, ...]
    classes: tuple[str, ...]
    annotations: Mapping[str, AnnotationReader]


@dataclass(frozen=True)
class Found:
    """One image that a layout found; see `FileEntry`."""

    name: str
    key: str
    label: int | None = None
    split: Split | None = None


def make_listing(
    files: Files,
    found: Sequence[Found],
    classes: tuple[str, ...] = (),
    annotations: Mapping[str, AnnotationReader | None] = MappingProxyType({}),
) -> Listing:
    """The listing of these images, in the order of their keys; annotations that are None are not there."""
    contents = files.identities([one.name for one in found])
    entries = [
        FileEntry(one.name, one.key, one.label, content, one.split)
        for one, content in zip(found, contents, strict=True)
    ]
    readers = {kind: reader for kind, reader in annotations.items() if reader is not None}
    return Listing(files, tuple(sorted(entries, key=lambda entry: (entry.key, entry.name))), classes, readers)


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def image_names(files: Files) -> list[str]:
    """The images among the files. Raises: UserError where there are none."""
    found = [name for name in files.names if is_image_name(name)]
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{files.path} holds no images ({suffixes}); set data.path to some that does.")
    return found


def heldout_contents(contents: Sequence[str], fraction: float, place: object) -> frozenset[str]:
    """The contents that are held out: those whose hash, as a number in [0, 1), is under `fraction`.

    At least one, of eight different ones at least two, and never all.
    Raises: UserError where there are fewer than two different images.
    """
    ranked = sorted((_uniform(content), content) for content in set(contents))
    if len(ranked) < 2:
        raise UserError(f"{place} holds only one image; training and a held-out set need at least two.")
    least = 2 if len(ranked) >= 8 else 1
    count = sum(position < fraction for position, _ in ranked)
    return frozenset(content for _, content in ranked[: min(max(count, least), len(ranked) - 1)])


def _uniform(content: str) -> float:
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little") / 2**64


class AnnotationTables:
    """The annotations of a listing by kind, each read once, when it is first asked for, whichever thread asks."""

    def __init__(self, readers: Mapping[str, AnnotationReader]) -> None:
        self._readers = readers
        self._read: dict[str, AnnotationTable] = {}
        self._lock = threading.Lock()

    def __getitem__(self, kind: str) -> AnnotationTable:
        with self._lock:
            if kind not in self._read:
                self._read[kind] = self._readers[kind].load()
            return self._read[kind]


class FileImages:
    """One split of a listing, decoded on demand, as an `ImageSource`.

    `limit` keeps so many images, chosen by their content. `tables` gives the annotations of all the listing's images,
    `declared` the numbers of classes that "boxes" and "semantic" are said to have.
    Raises: UserError where the split has no image.
    """

    def __init__(
        self,
        listing: Listing,
        split: Split,
        resolution: int,
        heldout_fraction: float,
        max_skipped_fraction: float,
        limit: int | None,
        tables: AnnotationTables,
        declared: Mapping[str, int],
        memo: ContentMemo,
    ) -> None:
        self.resolution = resolution
        self.size = (resolution, resolution)
        self.classes = listing.classes
        self.max_skipped_fraction = max_skipped_fraction
        self._listing = listing
        self._tables = tables
        self._declared = declared
        self._memo = memo
        self._entries = _side(listing, split, heldout_fraction)
        if limit is not None:
            first = sorted(self._entries, key=lambda entry: (_uniform(f"limit/{entry.content}"), entry.key))[:limit]
            self._entries = sorted(first, key=lambda entry: (entry.key, entry.name))
        if not self._entries:
            raise UserError(f"{listing.files.path} gives no images for the {split} set; check its folders, data.path.")

    def __len__(self) -> int:
        return len(self._entries)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of decoding rule, resolution, classes, and of every image's path, content and class."""
        entries = [[entry.key, entry.content, entry.label] for entry in self._entries]
        return content_hash(["files", DECODE_CODE, RESIZE_RULE, self.resolution, list(self.classes), entries])

    @functools.cached_property
    def annotations(self) -> Mapping[str, Annotation]:
        """By kind what annotates these images; read and checked when it is asked for."""
        return ReadOnDemand(self._listing.annotations, self._annotation)

    def name(self, index: int) -> str:
        """The name of image `index`."""
        return self._entries[index].name

    def item(self, index: int) -> Item:
        """Image `index`, in the order of paths, without annotations."""
        entry = self._entries[index]
        try:
            data = self._listing.files.read(entry.name)
        except READ_ERRORS as error:
            raise UnusableImage(entry.name, f"cannot be read ({error})") from error
        return Item(decode_image(data, self.resolution, entry.name), entry.name, entry.label)

    def annotation(self, kind: str, index: int) -> AnnotationValue:
        """The annotation of image `index`, put through the image's own crop and resize."""
        return self._tables[kind].value(self._entries[index].name, self.resolution)

    def _annotation(self, kind: str) -> Annotation:
        annotation = self._read_annotation(kind)
        check_declared(self._declared.get(kind), len(annotation.names), kind, self._listing.files.path)
        return annotation

    def _read_annotation(self, kind: str) -> Annotation:
        reader = self._listing.annotations[kind]
        key = f"{kind} {ANNOTATION_CODE} {self.fingerprint} {os.path.abspath(reader.files.path)}"
        known = self._memo.recall(key, reader.signature())
        if known is not None:
            fingerprint, names = json.loads(known)
            return Annotation(fingerprint, tuple(names))
        table = self._tables[kind]
        contents = [table.content(entry.name) for entry in self._entries]
        self._check_missing(kind, contents)
        fingerprint = content_hash([kind, ANNOTATION_CODE, RESIZE_RULE, self.resolution, list(table.names), contents])
        self._memo.keep(key, reader.signature(), json.dumps([fingerprint, table.names]))
        self._memo.save()
        return Annotation(fingerprint, table.names)

    def _check_missing(self, kind: str, contents: Sequence[Any]) -> None:
        missing = [entry.name for entry, content in zip(self._entries, contents, strict=True) if content is None]
        if not missing:
            return
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        said = f"{len(missing)} of {len(contents)} images in {self._listing.files.path} have no {WORDS[kind]}"
        if len(missing) > self.max_skipped_fraction * len(contents):
            allowed = f"more than the {self.max_skipped_fraction:.0%} allowed (data.max_skipped_fraction)"
            raise UserError(f"{said}, {allowed}: {named}; add them, or remove these images.")
        logger.warning("%s, and are used with empty ones: %s", said, named)


class ReadOnDemand(Mapping[str, Annotation]):
    """Which kinds of annotation there are is known at once; each is read when it is first asked for."""

    def __init__(self, kinds: Mapping[str, object], read: Callable[[str], Annotation]) -> None:
        self._kinds = kinds
        self._read = functools.cache(read)

    def __getitem__(self, kind: str) -> Annotation:
        if kind not in self._kinds:
            raise KeyError(kind)
        return self._read(kind)

    def __contains__(self, kind: object) -> bool:
        return kind in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


DECLARATIONS = {"labels": "classes", "boxes": "box_classes", "semantic": "semantic_classes"}
"""The setting under `data` that declares how many classes there are of a kind."""


def check_declared(declared: int | None, there: int, kind: str, place: object) -> None:
    """Raises: UserError where a number of classes is declared that is not that of the data."""
    if declared is not None and declared != there:
        raise UserError(
            f"data.{DECLARATIONS[kind]}={declared} is declared, but {place} has {there}; set it to {there} or null, or "
            "look into data.path."
        )


def _side(listing: Listing, split: Split, fraction: float) -> list[FileEntry]:
    if any(entry.split is not None for entry in listing.entries):
        return [entry for entry in listing.entries if entry.split == split]
    heldout = heldout_contents([entry.content for entry in listing.entries], fraction, listing.files.path)
    return [entry for entry in listing.entries if (entry.content in heldout) == (split == "heldout")]


def open_listing(
    listing: Listing,
    resolution: int,
    heldout_fraction: float,
    max_skipped_fraction: float,
    limits: Mapping[Split, int | None],
    declared: Mapping[str, int],
    memo: ContentMemo,
) -> dict[Split, FileImages]:
    """Both splits of a listing; its annotations are read once for both."""
    tables = AnnotationTables(listing.annotations)
    return {
        split: FileImages(
            listing,
            split,
            resolution,
            heldout_fraction,
            max_skipped_fraction,
            limits.get(split),
            tables,
            declared,
            memo,
        )
        for split in SPLITS
    }
