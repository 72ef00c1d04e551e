"""Samples that were kept as images, which other judges read instead of having them generated again."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.conditions import sample_size
from experiments.plan import Plan, Stage, identity, pixels_hash
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import StageRecord

IMAGES = "images.npy"


@dataclass(frozen=True)
class KeptImages:
    """The images of a finished samples stage, uint8 (n, 3, H, W), memory-mapped, and its record."""

    images: NDArray[np.uint8]
    record: StageRecord


def kept_images(stage: Stage, store: Store) -> KeptImages | None:
    """Images that this samples stage would generate to the last pixel, or None where no artifact holds them.

    Sample i depends on the seed and i alone, so the first of a larger set will do.
    """
    return _kept(stage, store, _alike(stage, _made(store)))


def _kept(stage: Stage, store: Store, alike: Sequence[StageRecord]) -> KeptImages | None:
    for record in alike:
        path = store.folder("samples", record.identity) / IMAGES
        if path.exists() and record.config["n_samples"] >= stage.config["n_samples"]:
            return KeptImages(np.load(path, mmap_mode="r", allow_pickle=False), record)
    return None


def sample_notes(plans: Sequence[Plan], store: Store) -> list[str]:
    """What these plans' sample sets will cost in disk, which are read from kept images, and which are made once more.

    Raises: UserError where kept images would not fit on the store's disk.
    """
    open_stages = {
        plan.stages["samples"].identity: plan
        for plan in plans
        if not store.is_complete("samples", plan.stages["samples"].identity)
    }
    notes, read, again, kept = [], 0, 0, [0]
    made = _made(store) if open_stages else {}
    for plan in open_stages.values():
        stage = plan.stages["samples"]
        if stage.config["keep"] == "images":
            height, width = sample_size(plan.config)
            kept.append(stage.config["n_samples"] * 3 * height * width)
        alike = _alike(stage, made)
        if _kept(stage, store, alike) is not None:
            read += 1
        elif alike:
            again += 1
    if read:
        notes.append(f"{_sets(read)} of images that earlier runs kept: nothing is generated again for them")
    if again:
        notes.append(
            f"{_sets(again)} once more, for another extractor or more images, since earlier ones were not "
            "kept as images (samples.keep=images keeps them); nothing is trained again"
        )
    if needed := sum(kept):
        # A set's batches lie beside it until it is whole.
        free, most = shutil.disk_usage(store.root).free, needed + max(kept)
        if most > free:
            raise UserError(
                f"samples.keep=images would take {_bytes(most)} in {store.root}, where {_bytes(free)} are free: choose "
                "another store=DIR, fewer metrics.n_samples, or samples.keep=features"
            )
        notes.append(
            f"samples.keep=images keeps {_bytes(needed)} of images, up to {_bytes(most)} while they are made; "
            f"{_bytes(free)} are free"
        )
    return notes


Made = Mapping[str, Sequence[StageRecord]]
"""Finished samples stages of this version of the code by the hash of their pixels."""


def _made(store: Store) -> Made:
    found: dict[str, list[StageRecord]] = {}
    for folder in sorted((store.root / "samples").glob("*")):
        record = store.record("samples", folder.name)
        if record is not None and _is_present(record):
            found.setdefault(pixels_hash(record.config, record.parents), []).append(record)
    return found


def _alike(stage: Stage, made: Made) -> list[StageRecord]:
    """The other stages that made the same pixels from the same i."""
    alike = made.get(pixels_hash(stage.config, stage.parents), ())
    return [record for record in alike if record.identity != stage.identity]


def _is_present(record: StageRecord) -> bool:
    """Whether this version of the code would make the same of the record's config."""
    try:
        return identity(record.stage, record.config, record.parents) == record.identity
    except UserError:  # the weights of its judge are gone
        return False


def _sets(n: int) -> str:
    return "1 sample set is made" if n == 1 else f"{n} sample sets are made"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"
