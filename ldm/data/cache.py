"""Decodes an image source once into memory-mapped files, and opens them again.

A cache folder holds images.npy, labels.npy, unseen.npy, names.json and, where the set has them, semantic.npy,
captions.json and boxes.json; meta.json is written last, and the folder takes its name by one rename when all of it lies
on the disk, so that what a killed build leaves is never taken for a cache.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldm.data.contract import ImageCache, ImageSource, Item, UnusableImage
from ldm.errors import UserError
from ldm.records import write_json

CACHE_FORMAT = 1
CHUNK = 32
"""Images a thread decodes between two reports of progress."""

logger = logging.getLogger(__name__)


def open_cache(folder: Path) -> ImageCache:
    """Opens a finished cache without reading its pixels.

    Raises: UserError where the folder holds no finished cache.
    """
    meta_path = folder / "meta.json"
    if not meta_path.exists():
        raise UserError(f"There is no finished image cache in {folder}; build it again from the images.")
    meta = json.loads(meta_path.read_text(encoding="utf-8"))
    if meta["format"] != CACHE_FORMAT:
        raise UserError(f"The image cache in {folder} has format {meta['format']}, not {CACHE_FORMAT}; delete it.")
    return ImageCache(
        folder=folder,
        fingerprint=meta["fingerprint"],
        resolution=meta["resolution"],
        classes=tuple(meta["classes"]),
        names=tuple(json.loads((folder / "names.json").read_text(encoding="utf-8"))),
        skipped=tuple((name, reason) for name, reason in meta["skipped"]),
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy"),
        unseen_objects=np.load(folder / "unseen.npy"),
    )


def build_cache(
    source: ImageSource, folder: Path, workers: int, report: Callable[[int, int], None] | None = None
) -> ImageCache:
    """Decodes `source` into `folder` in `workers` threads, or opens what is already there.

    Threads, because decoding and resizing run outside Python's lock. Several builders may run at once, also on several
    machines: each works in a folder of its own and the first to finish wins. `report(done, total)` is called in the
    calling thread.

    Raises: UserError where more images than the source allows must be skipped, where none is left, or where the folder
    holds the cache of another set.
    """
    if (folder / "meta.json").exists():
        return _opened_for(source, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    with _working_folder(folder) as work:
        _fill(source, work, workers, report)
        _publish(work, folder)
    return _opened_for(source, folder)


def _opened_for(source: ImageSource, folder: Path) -> ImageCache:
    cache = open_cache(folder)
    if cache.fingerprint != source.fingerprint:
        raise UserError(f"{folder} holds the cache of another image set; delete it or choose another folder.")
    return dataclasses.replace(cache, annotations=source.annotations)


@contextlib.contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, named by its owner; whatever is left in it at the end is removed."""
    work = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Removes the working folders that killed builders of this machine left behind."""
    for left in folder.parent.glob(f".{folder.name}.{socket.gethostname()}.*.*"):
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
        if not (folder / "meta.json").exists():
            shutil.rmtree(folder)
            os.rename(work, folder)


@dataclasses.dataclass
class _Annotations:
    """What is gathered beside the pixels, one entry a candidate image."""

    names: list[str]
    captions: list[str | None]
    boxes: list[list[tuple[object, ...]] | None]
    labels: NDArray[np.int64]
    unseen: NDArray[np.bool_]

    @staticmethod
    def empty(n: int) -> "_Annotations":
        return _Annotations([""] * n, [None] * n, [None] * n, np.full(n, -1, np.int64), np.zeros(n, np.bool_))

    def put(self, index: int, item: Item) -> None:
        self.names[index] = item.name
        self.captions[index] = item.caption
        self.boxes[index] = None if item.boxes is None else [dataclasses.astuple(box) for box in item.boxes]
        self.labels[index] = -1 if item.label is None else item.label
        self.unseen[index] = item.unseen_objects


def _fill(source: ImageSource, work: Path, workers: int, report: Callable[[int, int], None] | None) -> None:
    n, side = len(source), source.resolution
    images = np.lib.format.open_memmap(work / "images.npy", "w+", np.uint8, (n, side, side, 3))
    semantic = np.lib.format.open_memmap(work / "semantic.npy", "w+", np.uint8, (n, side, side))
    labelled = threading.Event()
    known = _Annotations.empty(n)
    skipped: dict[int, UnusableImage] = {}

    def decode(start: int) -> int:
        stop = min(start + CHUNK, n)
        for index in range(start, stop):
            try:
                item = source.item(index)
            except UnusableImage as error:
                skipped[index] = error
                continue
            images[index] = item.image
            known.put(index, item)
            if item.semantic is not None:
                semantic[index] = item.semantic
                labelled.set()
        return stop - start

    with ThreadPoolExecutor(max(1, workers)) as pool:
        running = [pool.submit(decode, start) for start in range(0, n, CHUNK)]
        done = 0
        try:
            for finished in as_completed(running):
                done += finished.result()
                _check_skipped(skipped, n, source.max_skipped_fraction)
                if report is not None:
                    report(done, n)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise

    kept = np.array([index for index in range(n) if index not in skipped], dtype=np.int64)
    if not len(kept):
        raise UserError(f"No usable image is left: {_listed(skipped)}.")
    for index in sorted(skipped):
        logger.warning("Skipped %s", skipped[index])
    _finish_array(images, work / "images.npy", kept, n)
    if labelled.is_set():
        _finish_array(semantic, work / "semantic.npy", kept, n)
    else:
        (work / "semantic.npy").unlink()
    np.save(work / "labels.npy", known.labels[kept])
    np.save(work / "unseen.npy", known.unseen[kept])
    write_json(work / "names.json", [known.names[i] for i in kept])
    for file, values in (("captions.json", known.captions), ("boxes.json", known.boxes)):
        taken = [values[i] for i in kept]
        if any(value is not None for value in taken):
            (work / file).write_text(json.dumps(taken), encoding="utf-8")
    write_json(
        work / "meta.json",
        {
            "format": CACHE_FORMAT,
            "fingerprint": source.fingerprint,
            "resolution": side,
            "classes": list(source.classes),
            "n": len(kept),
            "skipped": [[skipped[i].name, skipped[i].reason] for i in sorted(skipped)],
        },
    )


def _finish_array(array: np.memmap, path: Path, kept: NDArray[np.int64], n: int) -> None:
    """Flushes the mapped array; where images were skipped, replaces its file by one without their rows."""
    array.flush()
    if len(kept) == n:
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
