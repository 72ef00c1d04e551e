"""Samples that were saved as images, which other extractors read instead of having them generated again."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.conditions import sample_size
from experiments.identity import hashed_settings, identity
from experiments.stage import Plan, PlannedStage, Settings, Stage
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import StageRecord, content_hash

IMAGES = "images.npy"

CHANGES_NO_PIXEL = ("extractor", "other_extractors", "keep", "clip_model", "lpips_weights")
"""Settings of a samples stage that say who looks at the samples, and what stays of them."""


def pixels_hash(stage: Stage, settings: Settings, parents: Mapping[str, str]) -> str:
    """What makes the pixels of sample i, of a samples stage's settings and the identities of its parents."""
    makers = {key: value for key, value in settings.items() if key not in (*CHANGES_NO_PIXEL, "n_samples")}
    made_by = {"model": parents["diffusion"]}
    if "averaging" in parents:
        made_by["averaging"] = parents["averaging"]
    if "tuning" in parents:  # another extractor may have found another guidance
        made_by["tuning"] = parents["tuning"]
    return content_hash({"config": hashed_settings(stage, makers), **made_by})


@dataclass(frozen=True)
class SavedImages:
    """The images of a finished samples stage, uint8 (n, 3, H, W), memory-mapped, and its record."""

    images: NDArray[np.uint8]
    record: StageRecord


def saved_images(stage: Stage, planned: PlannedStage, store: Path) -> SavedImages | None:
    """Images that this samples stage would generate to the last pixel, or None where no artifact holds them.

    Sample i depends on the seed and i alone, so the first of a larger set will do.
    """
    found = _kept(_alike(stage, planned, _made(stage, store)), planned, store / stage.name)
    if found is None:
        return None
    path = Store(store, is_read_only=True).file(found, IMAGES)
    return SavedImages(np.load(path, mmap_mode="r", allow_pickle=False), found)


def _kept(alike: Sequence[StageRecord], planned: PlannedStage, folder: Path) -> StageRecord | None:
    """The first whose images lie in the folder of samples, as many as are planned or more."""
    for record in alike:
        if (folder / record.identity / IMAGES).exists() and record.config["n_samples"] >= planned.settings["n_samples"]:
            return record
    return None


def sample_notes(stage: Stage, plans: Sequence[Plan], store: Path) -> list[str]:
    """What these plans' sample sets will cost in disk, which are read from saved images, and which are made once more.

    Raises: UserError where the images to be saved would not fit on the store's disk.
    """
    folder = store / stage.name
    open_stages = {
        plan.stages[stage.name].identity: plan
        for plan in plans
        if stage.name in plan.stages and not (folder / plan.stages[stage.name].identity / "record.json").exists()
    }
    notes, read, again, kept = [], 0, 0, [0]
    made = _made(stage, store) if open_stages else {}
    for plan in open_stages.values():
        planned = plan.stages[stage.name]
        if planned.settings["keep"] == "images":
            height, width = sample_size(plan.config)
            kept.append(planned.settings["n_samples"] * 3 * height * width)
        alike = _alike(stage, planned, made)
        if _kept(alike, planned, folder) is not None:
            read += 1
        elif alike:
            again += 1
    if read:
        notes.append(f"{_sets(read)} from images that earlier runs saved; nothing is generated again")
    if again:
        notes.append(
            f"{_sets(again)} once more, for another extractor or more images, since earlier ones were not "
            "saved as images (samples.keep=images saves them); nothing is trained again"
        )
    if needed := sum(kept):
        # A set's batches lie beside it until it is whole.
        free, most = shutil.disk_usage(store).free, needed + max(kept)
        if most > free:
            raise UserError(
                f"samples.keep=images would take {_bytes(most)} in {store}, where {_bytes(free)} are free: choose "
                "another store=DIR, fewer metrics.n_samples, or samples.keep=features"
            )
        notes.append(
            f"samples.keep=images saves {_bytes(needed)} of images, up to {_bytes(most)} while they are made; "
            f"{_bytes(free)} are free"
        )
    return notes


Made = Mapping[str, Sequence[StageRecord]]
"""Finished samples stages of this version of the code by the hash of their pixels."""


def _made(stage: Stage, store: Path) -> Made:
    found: dict[str, list[StageRecord]] = {}
    artifacts = Store(store, is_read_only=True)
    for path in artifacts.records(stage.name):
        record = artifacts.record(stage.name, path.parent.name)
        if record is not None and _is_present(stage, record):
            found.setdefault(pixels_hash(stage, record.config, record.parents), []).append(record)
    return found


def _alike(stage: Stage, planned: PlannedStage, made: Made) -> list[StageRecord]:
    """The other stages that made the same pixels from the same i."""
    alike = made.get(pixels_hash(stage, planned.settings, planned.parents), ())
    return [record for record in alike if record.identity != planned.identity]


def _is_present(stage: Stage, record: StageRecord) -> bool:
    """Whether this version of the code would make the same of the record's settings."""
    try:
        return identity(stage, record.config, record.parents) == record.identity
    except UserError:  # the weights of its extractor are gone
        return False


def _sets(n: int) -> str:
    return "1 sample set is made" if n == 1 else f"{n} sample sets are made"


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"
