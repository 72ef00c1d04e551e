"""What real images look like to the judge, and what they cost without learning: the floors and the reference curves."""

import dataclasses

from experiments import build
from experiments.cost import Meter
from experiments.measure import (
    batches_of,
    chosen,
    described,
    extractor_of,
    features_of,
    generation_rows,
    protocol_from,
)
from experiments.runner import Job, Outcome
from ldm.metrics.reference_codecs import lossless_sizes, lossy_curves
from ldm.training.flops import count_flops

MOST_REFERENCE_IMAGES = 50_000
MOST_CODEC_IMAGES = 1_000


def run(job: Job) -> Outcome:
    """Features of the reference images; the other split's distance to them at the samples' n; codec curves."""
    meter = Meter(job.device)
    settings, config = job.config, job.plan.config
    splits = {split: build.images(config, split, job.store) for split in ("train", "heldout")}
    judged_against = splits[settings["reference"]]
    measured = "train" if settings["reference"] == "heldout" else "heldout"
    other = splits[measured]
    extractor = extractor_of(job, settings["extractor"])
    reference_indices = chosen(len(judged_against), MOST_REFERENCE_IMAGES, settings["seed"], "reference")
    floor_indices = chosen(len(other), settings["n_samples"], settings["seed"], "floor")
    with meter.part("features"):
        reference = features_of(batches_of(judged_against, reference_indices), extractor)
        floor = features_of(batches_of(other, floor_indices), extractor)
    judge_flops = count_flops(lambda: extractor(splits["heldout"].uint8([0])))
    reference.save(job.folder / "reference.npz")
    facts = {
        "reference_fingerprint": judged_against.fingerprint,
        "n_reference": len(reference),
        "extractor": {
            "name": extractor.name,
            "weights_hash": extractor.weights_hash,
            "size": extractor.size,
            "resize": extractor.resize,
            "precision": extractor.precision,
        },
    }
    protocol = protocol_from(job.plan.config, facts, len(floor), measured)
    rows, left_out = generation_rows(floor, reference, job, protocol, prefix="real_")
    with meter.part("codecs"):
        # The images that reconstructions are measured on, so that the curves stand beside them.
        shown = chosen(len(splits["heldout"]), settings["n_samples"], settings["seed"], "reconstruction")
        codec_images = splits["heldout"].images[shown[:MOST_CODEC_IMAGES]]
        lossy, missing_lossy = lossy_curves(codec_images)
        lossless, missing_lossless = lossless_sizes(codec_images)
    return Outcome(
        facts={
            **facts,
            "codecs": [dataclasses.asdict(point) for point in (*lossy, *lossless)],
            "train_images": len(splits["train"]),
            "heldout_images": len(splits["heldout"]),
            "classes": list(splits["train"].classes),
            "skipped": [list(item) for split in splits.values() for item in split.skipped],
        },
        rows=rows,
        left_out=(*left_out, *missing_lossy, *missing_lossless),
        protocols=described([protocol]),
        cost=meter.cost(len(reference) + len(floor), (len(reference) + len(floor)) * judge_flops),
    )
