"""Decodes an image source once into memory-mapped files, and opens them again.

A cache folder holds images.npy, labels.npy, unseen.npy and names.json, with their hashes in hashes.json, against which
they are checked when it is opened, once a process; meta.json is written before the folder takes
its name by one rename when all of it lies on the disk, so that what a killed build leaves is never taken for a cache.
Annotations lie beside them as captions-<fingerprint>.json, boxes-<fingerprint>.json and semantic-<fingerprint>.npy:
those that the images carry from the start, others when they are first asked for, each by one rename of a finished file.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldm.data.contract import (
    Annotation,
    AnnotationValue,
    ImageCache,
    ImageSource,
    UnusableImage,
    annotation_file,
    carried,
)
from ldm.errors import UserError
from ldm.intact import check_file, file_hash
from ldm.records import read_sealed, sealed, write_json

CACHE_FORMAT = 1
META, HASHES = "meta.json", "hashes.json"
CHUNK = 32
"""Images a thread decodes between two reports of progress."""

logger = logging.getLogger(__name__)


def open_cache(folder: Path) -> ImageCache:
    """Opens a finished cache without reading its pixels.

    Raises: UserError where the folder holds no finished cache.
    """
    if not (folder / META).exists():
        raise UserError(f"There is no finished image cache in {folder}; build it again from the images.")
    meta = _read(folder, META)
    if meta["format"] != CACHE_FORMAT:
        raise UserError(f"The image cache in {folder} has format {meta['format']}, not {CACHE_FORMAT}; delete it.")
    hashes = _hashes(folder)
    for name in ("names.json", "images.npy", "labels.npy", "unseen.npy"):
        _check(folder, name, hashes)
    return ImageCache(
        folder=folder,
        fingerprint=meta["fingerprint"],
        resolution=meta["resolution"],
        classes=tuple(meta["classes"]),
        names=tuple(_read(folder, "names.json")),
        skipped=tuple((name, reason) for name, reason in meta["skipped"]),
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy"),
        unseen_objects=np.load(folder / "unseen.npy"),
        annotations={
            kind: Annotation(fingerprint, tuple(names))
            for kind, (fingerprint, names) in meta.get("annotations", {}).items()
        },
    )


def _read(folder: Path, name: str) -> Any:
    try:
        return read_sealed(folder / name)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / name} cannot be read ({error}); {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    return f"remove the folder {folder} to have the images decoded anew"


def _hashes(folder: Path) -> dict[str, str]:
    """The hashes of a cache's files; none for one from before these were kept."""
    return dict(_read(folder, HASHES)) if (folder / HASHES).exists() else {}


def _check(folder: Path, name: str, hashes: Mapping[str, str]) -> None:
    """Checks a file of a cache, once a process. Raises: UserError where it is damaged."""
    if name in hashes:
        check_file(folder / name, hashes[name], _remedy(folder))


def check_cache(folder: Path) -> None:
    """Checks all files of a finished cache. Raises: UserError that names the first damaged one."""
    _read(folder, META)
    hashes = _hashes(folder)
    for name in hashes:
        _check(folder, name, hashes)


def has_hashes(folder: Path) -> bool:
    """Whether a cache can be checked; those of older versions hold no hashes."""
    return (folder / HASHES).exists()


def build_cache(
    source: ImageSource,
    folder: Path,
    workers: int,
    report: Callable[[int, int], None] | None = None,
    annotations: Iterable[str] = (),
    beside: Mapping[str, Any] | None = None,
) -> ImageCache:
    """Decodes `source` into `folder` in `workers` threads, or opens what is already there.

    `annotations` are the kinds to be stored beside the images; a finished cache is given those it lacks without
    decoding its images again. Threads, because decoding and resizing run outside Python's lock. Several builders may
    run at once, also on several machines: each works in a folder of its own and the first to finish wins.
    `report(done, total)` is called in the calling thread. `beside`: JSON values by the name of the file that holds them
    in a cache that is made now; a finished one has them all.

    Raises: UserError where more images than the source allows must be skipped, where none is left, where an annotation
    is wrong, or where the folder holds the cache of another set.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    if not (folder / META).exists():
        with _working_folder(folder) as work:
            for name, value in (beside or {}).items():
                write_json(work / name, value)
            _fill(source, work, workers, report)
            names = sorted(path.name for path in work.iterdir() if path.name != META)
            write_json(work / HASHES, sealed({name: file_hash(work / name) for name in names}))
            _publish(work, folder)
    cache = open_cache(folder)
    if cache.fingerprint != source.fingerprint:
        raise UserError(f"{folder} holds the cache of another image set; delete it or choose another folder.")
    return _annotated(cache, source, annotations, workers, report)


def _annotated(
    cache: ImageCache,
    source: ImageSource,
    kinds: Iterable[str],
    workers: int,
    report: Callable[[int, int], None] | None,
) -> ImageCache:
    """The cache with these annotations of its images, which are stored first where they are not."""
    wanted = {kind: source.annotations[kind] for kind in kinds}
    for kind, annotation in wanted.items():
        file = annotation_file(kind, annotation)
        known = _hashes(cache.folder)
        if not (cache.folder / file).exists() or (known and file not in known):
            with _working_folder(cache.folder) as work:
                _write_annotation(cache, source, kind, work / file, workers, report)
                found = file_hash(work / file)
                os.replace(work / file, cache.folder / file)
                if known:
                    write_json(cache.folder / HASHES, sealed({**known, file: found}))
        _check(cache.folder, file, _hashes(cache.folder))
    return dataclasses.replace(cache, annotations={**cache.annotations, **wanted})


def _write_annotation(
    cache: ImageCache,
    source: ImageSource,
    kind: str,
    path: Path,
    workers: int,
    report: Callable[[int, int], None] | None,
) -> None:
    skipped = {name for name, _ in cache.skipped}
    kept = [index for index in range(len(source)) if source.name(index) not in skipped]
    values = _AnnotationFile(path, len(kept), source.size)

    def read(rows: range) -> None:
        for row in rows:
            values.put(row, source.annotation(kind, kept[row]))

    for done in _in_chunks(read, len(kept), workers):
        if report is not None:
            report(done, len(kept))
    values.finish(np.arange(len(kept)))


def _in_chunks(work: Callable[[range], None], n: int, workers: int) -> Iterator[int]:
    """Does the work for 0 to n - 1 in threads, and yields how much of it is done; what is left is dropped at an end."""

    def chunk(start: int) -> int:
        rows = range(start, min(start + CHUNK, n))
        work(rows)
        return len(rows)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        running = [pool.submit(chunk, start) for start in range(0, n, CHUNK)]
        done = 0
        try:
            for finished in as_completed(running):
                done += finished.result()
                yield done
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _AnnotationFile:
    """One kind of annotation of n images on its way to its file: label maps are mapped, others stay in memory."""

    def __init__(self, path: Path, n: int, size: tuple[int, int]) -> None:
        self._path = path
        is_mapped = path.suffix == ".npy"
        self._maps = np.lib.format.open_memmap(path, "w+", np.uint8, (n, *size)) if is_mapped else None
        self._values: list[Any] = [] if is_mapped else [None] * n

    def put(self, row: int, value: AnnotationValue) -> None:
        if self._maps is not None:
            self._maps[row] = value
        else:
            self._values[row] = [dataclasses.astuple(box) for box in value] if isinstance(value, tuple) else value

    def finish(self, kept: NDArray[np.int64]) -> None:
        """Writes the values of the rows `kept`, (m,)."""
        if self._maps is not None:
            _finish_array(self._maps, self._path, kept)
            return
        with self._path.open("w", encoding="utf-8") as file:
            json.dump([self._values[row] for row in kept], file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, named by its owner; whatever is left in it at the end is removed."""
    work = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    """Removes the working folders that killed builders of this machine left behind, of whatever cache."""
    for left in place.glob(f".*.{socket.gethostname()}.*.*"):
        owner = left.name.rsplit(".", 2)[1]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def _publish(work: Path, folder: Path) -> None:
    """Gives the finished working folder its name, unless another builder was faster."""
    try:
        os.rename(work, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not (folder / META).exists():
            shutil.rmtree(folder)
            os.rename(work, folder)


def _fill(source: ImageSource, work: Path, workers: int, report: Callable[[int, int], None] | None) -> None:
    n = len(source)
    images = np.lib.format.open_memmap(work / "images.npy", "w+", np.uint8, (n, *source.size, 3))
    names, labels, unseen = [""] * n, np.full(n, -1, np.int64), np.zeros(n, np.bool_)
    skipped: dict[int, UnusableImage] = {}
    annotations: dict[str, _AnnotationFile] = {}
    lock = threading.Lock()

    def file_of(kind: str) -> _AnnotationFile:
        with lock:
            if kind not in annotations:
                file = annotation_file(kind, source.annotations[kind])
                annotations[kind] = _AnnotationFile(work / file, n, source.size)
            return annotations[kind]

    def decode(rows: range) -> None:
        for index in rows:
            try:
                item = source.item(index)
            except UnusableImage as error:
                skipped[index] = error
                continue
            images[index] = item.image
            names[index], unseen[index] = item.name, item.unseen_objects
            labels[index] = -1 if item.label is None else item.label
            for kind, value in carried(item).items():
                file_of(kind).put(index, value)

    for done in _in_chunks(decode, n, workers):
        _check_skipped(skipped, n, source.max_skipped_fraction)
        if report is not None:
            report(done, n)

    kept = np.array([index for index in range(n) if index not in skipped], dtype=np.int64)
    if not len(kept):
        raise UserError(f"No usable image is left: {_listed(skipped)}.")
    for index in sorted(skipped):
        logger.info("Skipped %s", skipped[index])  # which the caller says
    _finish_array(images, work / "images.npy", kept)
    for file in annotations.values():
        file.finish(kept)
    np.save(work / "labels.npy", labels[kept])
    np.save(work / "unseen.npy", unseen[kept])
    write_json(work / "names.json", [names[i] for i in kept])
    write_json(
        work / META,
        sealed(
            {
                "format": CACHE_FORMAT,
                "fingerprint": source.fingerprint,
                "resolution": source.resolution,
                "classes": list(source.classes),
                "n": len(kept),
                "annotations": {
                    kind: [source.annotations[kind].fingerprint, source.annotations[kind].names] for kind in annotations
                },
                "skipped": [[skipped[i].name, skipped[i].reason] for i in sorted(skipped)],
            }
        ),
    )


def _finish_array(array: np.memmap, path: Path, kept: NDArray[np.int64]) -> None:
    """Flushes the mapped array; where images were skipped, replaces its file by one without their rows."""
    array.flush()
    if len(kept) == len(array):
        return
    fresh = path.with_suffix(".kept")
    dense = np.lib.format.open_memmap(fresh, "w+", array.dtype, (len(kept), *array.shape[1:]))
    for start in range(0, len(kept), 256):
        dense[start : start + 256] = array[kept[start : start + 256]]
    dense.flush()
    os.replace(fresh, path)


def _listed(skipped: dict[int, UnusableImage], most: int = 5) -> str:
    first = [str(skipped[index]) for index in sorted(skipped)[:most]]
    rest = len(skipped) - len(first)
    return "; ".join(first) + (f"; and {rest} more" if rest > 0 else "")


def _check_skipped(skipped: dict[int, UnusableImage], n: int, limit: float) -> None:
    current = dict(skipped)
    if len(current) > limit * n:
        raise UserError(
            f"{len(current)} of {n} images cannot be used, more than the {limit:.0%} allowed "
            f"(data.max_skipped_fraction): {_listed(current)}."
        )
