"""Image files before any is decoded: which there are, their classes, their side, and what annotates them."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import posixpath
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ldm.data.contract import SPLITS, Annotation, AnnotationValue, Item, Split, UnusableImage
from ldm.data.decode import (
    DECODE_CODE,
    IMAGE_SUFFIXES,
    RESIZE_RULE,
    WHITE_16,
    brightest_16,
    decode_image,
    is_image_data,
)
from ldm.data.files import READ_ERRORS, Files
from ldm.data.memo import ContentMemo
from ldm.errors import UserError, nearest
from ldm.records import content_hash

ANNOTATION_CODE = 1
"""Raised by hand whenever a change here or in annotations/ changes what is read of the same files."""

LOOKED_AT = 8
"""Images that are decoded to see how many of 16 bits they use."""

HEAD_BYTES = 32
MOST_KINDS = 6

# fmt: off
NO_IMAGE_SUFFIXES = frozenset((
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".py", ".npy", ".npz",
    ".mat", ".pkl", ".pt", ".pth", ".ckpt", ".safetensors", ".zip", ".tar", ".gz", ".parquet", ".arrow", ".mp4", ".log",
))
# fmt: on
"""Files that are not opened to see whether they are images."""

SIXTEEN_BIT_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".pgm", ".pnm", ".jp2"})

SET_SUFFIXES = {".tar": "webdataset", ".parquet": "parquet"}
"""Suffixes of files that hold many images, and the image set that reads them."""

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
    """All images of a set, by kind what reads their annotations, and what the user should know of how it was read."""

    files: Files
    entries: tuple[FileEntry, ...]
    classes: tuple[str, ...]
    annotations: Mapping[str, AnnotationReader]
    notes: tuple[str, ...] = ()


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
    notes: Sequence[str] | None = None,
) -> Listing:
    """The listing of these images, in the order of their keys; annotations that are None are not there.

    Without `notes` it says what else lies in the place, for which every file whose suffix says nothing is looked into.
    """
    contents = files.identities([one.name for one in found])
    entries = [
        FileEntry(one.name, one.key, one.label, content, one.split)
        for one, content in zip(found, contents, strict=True)
    ]
    readers = {kind: reader for kind, reader in annotations.items() if reader is not None}
    if notes is None:
        images = image_names(files)
        beside = _beside_images(files, images)
        notes = [f"{files.path} holds {len(images):,} images{beside}, which are not read as images"] if beside else []
    entries.sort(key=lambda entry: (entry.key, entry.name))
    return Listing(files, tuple(entries), classes, readers, tuple(notes))


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


@functools.lru_cache(maxsize=8)
def image_names(files: Files) -> tuple[str, ...]:
    """The images among the files, by their suffix, or by their first bytes where it says nothing.

    Raises: UserError where there are none.
    """
    found = tuple(name for name in files.names if is_image_name(name) or _is_image_inside(files, name))
    if not found:
        raise UserError(
            f"{files.path} holds no images{_beside_images(files, ())}; set data.path to a place of JPEG, PNG, WebP, "
            "AVIF or other files that Pillow reads."
        )
    return found


def _is_image_inside(files: Files, name: str) -> bool:
    if posixpath.splitext(name)[1].lower() in NO_IMAGE_SUFFIXES:
        return False
    try:
        with files.open(name) as file:
            return is_image_data(file.read(HEAD_BYTES))
    except READ_ERRORS:
        return False


def _beside_images(files: Files, images: Sequence[str]) -> str:
    """The kinds of the files that are not read as images, with their numbers; "" where there are none."""
    read = frozenset(images)
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without suffix" for name in files.names if name not in read)
    usual = kinds.most_common(MOST_KINDS)
    rest = kinds.total() - sum(count for _, count in usual)
    said = ", ".join([*(f"{count:,} {kind}" for kind, count in usual), *([f"{rest:,} others"] if rest else [])])
    heic = " (.heic needs pip install pillow-heif)" if ".heic" in kinds else ""
    sets = "".join(f" (data={name} reads {suffix})" for suffix, name in SET_SUFFIXES.items() if suffix in kinds)
    return f", but {said}{heic}{sets}" if said else ""


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

    `limit` keeps so many images, chosen by their content; `white` is the 16-bit value shown as white. `tables` gives
    the annotations of all the listing's images, `declared` the numbers of classes that "boxes" and "semantic" are said
    to have.
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
        white: int = WHITE_16,
    ) -> None:
        self.resolution = resolution
        self.size = (resolution, resolution)
        self.classes = listing.classes
        self.max_skipped_fraction = max_skipped_fraction
        self.notes = listing.notes
        self._listing = listing
        self._tables = tables
        self._declared = declared
        self._memo = memo
        self._white = white
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
        stretched = [] if self._white == WHITE_16 else [self._white]
        rule = ["files", DECODE_CODE, RESIZE_RULE, self.resolution]
        return content_hash([*rule, list(self.classes), entries, *stretched])

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
        return Item(decode_image(data, self.resolution, entry.name, self._white), entry.name, entry.label)

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
        _check_classes(listing)
        return [entry for entry in listing.entries if entry.split == split]
    heldout = heldout_contents([entry.content for entry in listing.entries], fraction, listing.files.path)
    trained = {entry.label for entry in listing.entries if entry.content not in heldout}
    # A class of so few images that all would be held out is trained on.
    heldout -= {entry.content for entry in listing.entries if entry.label not in trained}
    return [entry for entry in listing.entries if (entry.content in heldout) == (split == "heldout")]


def _check_classes(listing: Listing) -> None:
    """Raises: UserError where held-out images have classes that no training image has."""
    train, heldout = ({entry.label for entry in listing.entries if entry.split == split} for split in SPLITS)
    strange = [listing.classes[label] for label in sorted(label for label in heldout - train if label is not None)]
    if strange:
        known = [listing.classes[label] for label in sorted(label for label in train if label is not None)]
        alike = next((name for name in known if name.lower() == strange[0].lower()), None)
        hint = nearest(strange[0], known) if alike is None else f", which differs from {alike} in its case alone"
        raise UserError(
            f"{listing.files.path}: {len(strange)} of the classes of held-out images have no training image, "
            f"{', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}{hint} (training has "
            f"{', '.join(known[:5])}{' ...' if len(known) > 5 else ''}); rename or remove them, or read the images "
            "without classes (data.folders=none for data=folder)."
        )


def open_listing(
    listing: Listing,
    resolution: int,
    heldout_fraction: float,
    max_skipped_fraction: float,
    limits: Mapping[Split, int | None],
    declared: Mapping[str, int],
    memo: ContentMemo,
    white: int = WHITE_16,
) -> dict[Split, FileImages]:
    """Both splits of a listing; its annotations are read once for both."""
    if white == WHITE_16:
        listing = dataclasses.replace(listing, notes=(*listing.notes, *_dark(listing)))
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
            white,
        )
        for split in SPLITS
    }


def _dark(listing: Listing) -> list[str]:
    """What is said where images of 16 bits use a small part of their range, as a few of them show."""
    step = max(1, len(listing.entries) // LOOKED_AT)
    brightest = 0
    for entry in listing.entries[::step]:
        if posixpath.splitext(entry.name)[1].lower() not in SIXTEEN_BIT_SUFFIXES:
            return []
        try:
            found = brightest_16(listing.files.read(entry.name))
        except READ_ERRORS:
            continue
        if found is None:
            return []
        brightest = max(brightest, found)
    if not 0 < brightest < WHITE_16 // 4:
        return []
    fitting = 2 ** brightest.bit_length() - 1
    return [
        f"the images have 16 bits a pixel and use values up to {brightest:,} of {WHITE_16:,}, so they come out nearly "
        f"black; data.white={fitting} shows {fitting:,} as white"
    ]
