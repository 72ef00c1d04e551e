"""The images of a config: opened without decoding for planning, decoded once into the store for stages."""

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import custom
from experiments.conditions import DataFacts, Vocabulary, larger_maps, vocabulary_of
from experiments.console import reporting, say
from experiments.store import Store
from ldm.data.cache import build_cache
from ldm.data.contract import ImageCache, ImageSource, Split, UnusableImage
from ldm.data.sources import open_splits
from ldm.errors import UserError
from ldm.records import is_store

LOOKED_AT = 8
"""Images that are decoded before anything runs, to see whether they are large enough for larger samples."""


def splits(data: Mapping[str, Any], store: Store, size: tuple[int, int] | None = None) -> dict[Split, ImageSource]:
    """Training and held-out images, not yet decoded, at another (height, width) where `size` is given.

    Raises: UserError where they cannot be had.
    """
    memo = store.root / "data" / "checksums.json"
    if custom.is_custom(data):
        return custom.splits(data, size, memo)
    settings = {key: value for key, value in data.items() if value is not None}
    for key in ("path", "captions", "boxes", "semantic", "palette"):
        if key in settings:
            settings[key] = Path(settings[key]).expanduser()
    return open_splits(**settings, size=size, memo=memo)


def data_facts(data: Mapping[str, Any], store: Store) -> DataFacts:
    """What planning needs to know of the images, without decoding them."""
    return _data_facts(json.dumps(data, sort_keys=True), store.root)


@functools.lru_cache
def _data_facts(data: str, root: Path) -> DataFacts:
    found = splits(json.loads(data), Store(root, is_read_only=True))
    near = _near_store(json.loads(data).get("path"), root)
    train, heldout = found["train"], found["heldout"]
    for split, source in found.items():
        custom.check_images(json.loads(data), cache_folder(root, split, source))
    return DataFacts(
        train.fingerprint,
        heldout.fingerprint,
        len(train),
        len(heldout),
        tuple(train.classes),
        train.annotations,
        heldout.annotations,
        (*near, *dict.fromkeys(note for source in found.values() for note in getattr(source, "notes", ()))),
    )


def _near_store(path: str | None, root: Path) -> list[str]:
    """What is said where the images and a store lie within each other."""
    if path is None:
        return []
    place, store = Path(path).expanduser().resolve(), root.resolve()
    if place in store.parents:
        return [f"the store {root} lies inside data.path={path}; nothing in it is read as an image"]
    above = next((folder for folder in place.parents if is_store(folder)), None)
    return [] if above is None else [f"data.path={path} lies inside the store {above}"]


def cache_folder(root: Path, split: Split, source: ImageSource) -> Path:
    """Where the store in that folder keeps the decoded images of a source."""
    return root / "data" / f"{split}-{source.fingerprint[:16]}"


def vocabulary(images: ImageCache, annotations: Iterable[str]) -> Vocabulary:
    """How many classes of each kind an image set has, of these annotations."""
    return vocabulary_of(len(images.classes), images.annotations, annotations)


def check_larger_images(config: Mapping[str, Any], store: Store) -> None:
    """Raises UserError where the images cannot give the maps of larger samples, as a few of them show."""
    size = larger_maps(config)
    if size is None:
        return
    source = splits(config["data"], store, size)[config["samples"]["conditions"]]
    unusable = []
    tried = range(0, len(source), math.ceil(len(source) / LOOKED_AT))
    for index in tried:
        try:
            source.item(index)
        except UnusableImage as error:
            unusable.append(error)
    if len(unusable) > source.max_skipped_fraction * len(tried):
        raise UserError(
            f"samples of {size[1]}x{size[0]} px need conditions of that size, and of {len(tried)} images looked at "
            f"{len(unusable)} cannot give them ({unusable[0]}); use smaller samples.height and samples.width"
        )


@dataclass(frozen=True)
class Images:
    """The images of a resolved group `data`, decoded with `workers` threads (None: all cores) into the store."""

    data: Mapping[str, Any]
    store: Store
    workers: int | None

    @property
    def resolution(self) -> int:
        """The side of the training images in pixels."""
        return int(self.data["resolution"])

    def open(self, split: Split, annotations: Iterable[str] = (), size: tuple[int, int] | None = None) -> ImageCache:
        """The decoded images of one split with these annotations; what the store's cache lacks is made first.

        With `size` (height, width) they are the images of that size, see `ldm.data.larger`.
        """
        found = splits(self.data, self.store, size)[split]
        folder = cache_folder(self.store.root, split, found)
        is_read_only = self.store.is_read_only
        if is_read_only and not (folder / "meta.json").exists():
            raise UserError(f"the {split} images are not decoded yet in {self.store.root}, which is only read here")
        waiting = functools.partial(say, "data  waits: another process decodes these images")
        # Where nothing can be written there is no claim to be had, nor anything to be decoded under it.
        with contextlib.nullcontext() if is_read_only else self.store.claim(f"data/{folder.name}", waiting):
            fresh = not (folder / "meta.json").exists()
            with reporting(f"data           {split} images", len(found)) as reporter:
                cache = build_cache(
                    found,
                    folder,
                    self.workers or os.cpu_count() or 1,
                    lambda done, _: reporter.advance_to(done),
                    annotations,
                    {custom.SOURCES: sources} if (sources := custom.sources_of(self.data)) else None,
                )
        if fresh:
            say(f"data           {len(cache):,} {split} images of {found.size[1]}x{found.size[0]} px decoded")
            for name, reason in cache.skipped[:10]:
                say(f"  skipped {name}: {reason}", style="yellow")
        return cache

    def fingerprints(self, split: Split, annotations: Iterable[str] = ()) -> list[str]:
        """What the content of a split's images and of these annotations hashes to."""
        facts = data_facts(self.data, self.store)
        images, known = {
            "train": (facts.train_fingerprint, facts.annotations),
            "heldout": (facts.heldout_fingerprint, facts.heldout_annotations),
        }[split]
        return [images, *(known[kind].fingerprint for kind in annotations)]

    def vocabulary(self, annotations: Iterable[str]) -> Vocabulary:
        """How many classes of each kind the training images have, of these annotations."""
        facts = data_facts(self.data, self.store)
        return vocabulary_of(len(facts.classes), facts.annotations, annotations)
