"""What the judge sees in the training images, and how near to them unseen real images lie: once for all models."""

import numpy as np

from experiments import axes, stage_settings
from experiments.call_memory import EXTRACT, FLOAT_BYTES
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.memorisation import PIXELS, memorisation_protocols, small_pixels_of
from experiments.scoring import (
    FEATURE_BATCH,
    batches_of,
    chosen,
    described,
    extractor_of,
    features_of,
    generation_protocol,
)
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.data.contract import SPLITS
from ldm.metrics.memorisation import bytes_to_find, heldout_distance, nearest, pixel_numbers
from ldm.training.flops import count_flops

MOST_TRAINING_IMAGES = 50_000
MOST_HELDOUT_IMAGES = 10_000


def run(job: Job) -> Outcome:
    """Writes features.npz and indices.npy of the training images, and distances.npz of the held-out ones."""
    meter, seed = Meter(job.device), job.settings["seed"]
    train, heldout = (job.images(split) for split in SPLITS)
    extractor = extractor_of(job, job.settings["extractor"])
    kept = chosen(len(train), MOST_TRAINING_IMAGES, seed, "training set")
    unseen = chosen(len(heldout), MOST_HELDOUT_IMAGES, seed, "unseen")
    with meter.part("features"):
        features = features_of(batches_of(train, kept), extractor)
        others = features_of(batches_of(heldout, unseen), extractor)
    with meter.part("distances"):
        distances = {
            extractor.name: nearest(others.features, features.features).distances,
            PIXELS: nearest(small_pixels_of(heldout, unseen), small_pixels_of(train, kept)).distances,
        }
    features.save(job.folder / "features.npz")
    np.save(job.folder / "indices.npy", np.asarray(kept))
    np.savez(job.folder / "distances.npz", **distances)  # type: ignore[arg-type]
    how = generation_protocol(job, len(unseen), "heldout")
    protocols = memorisation_protocols(how, train.fingerprint, len(kept))
    count = len(kept) + len(unseen)
    return Outcome(
        facts={
            "training_images": len(kept),
            "heldout_images": len(unseen),
            "heldout_copies": int((distances[PIXELS] == 0).sum()),
        },
        rows=[heldout_distance(found, space).row(protocols[space].id) for space, found in distances.items()],
        protocols=described(protocols.values()),
        cost=meter.cost(count, count * count_flops(lambda: extractor(heldout.uint8([0])))),
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The extractor and the images, where metrics.memorisation asks for it."""
    if not config["metrics"]["memorisation"]:
        return None
    return {
        "extractor": stage_settings.extractor(config),
        "train": facts.train_fingerprint,
        "heldout": facts.heldout_fingerprint,
        "seed": config["metrics"]["seed"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone."""
    images = counts.images
    if counts.memory is None or images is None or images.train is None or images.heldout is None:
        return Estimate(None, None)
    n, m = min(images.heldout, MOST_HELDOUT_IMAGES), min(images.train, MOST_TRAINING_IMAGES)
    seen, d = counts.holding({EXTRACT: FEATURE_BATCH}), counts.memory.features.get(EXTRACT)
    if seen is None or d is None:
        return Estimate(None, None)
    features, p = FLOAT_BYTES * (n + m) * d, pixel_numbers(images.resolution)
    small = FLOAT_BYTES * (n + m) * p + bytes_to_find(n, m, p)
    return Estimate(None, None, memory=max(seen, features + max(bytes_to_find(n, m, d), small)))


STAGE = Stage(
    name="training_set",
    parents=("reference",),
    version=1,
    axes=axes.OF_REFERENCE,
    until=(),
    settings=settings,
    run=run,
    estimate=estimate,
)
