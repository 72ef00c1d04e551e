"""What real images look like to the judge, and what they cost without learning: the floors and the reference curves."""

import dataclasses

from experiments import axes, stage_settings
from experiments.call_memory import EXTRACT
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.counts import Counts, most
from experiments.scoring import FEATURE_BATCH, ReferenceImages, chosen, described
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.metrics.reference_codecs import lossless_sizes, lossy_curves

MOST_CODEC_IMAGES = 1_000


def run(job: Job) -> Outcome:
    """Features of the reference images; the other split's distance to them at the samples' n; codec curves."""
    meter, settings = Meter(job.device), job.settings
    images = ReferenceImages.of(job)
    with meter.part("features"):
        seen = images.judged(settings["extractor"])
    seen.features.save(job.folder / "reference.npz")
    train, heldout = images.splits["train"], images.splits["heldout"]
    with meter.part("codecs"):
        # The images that reconstructions are measured on, so that the curves stand beside them.
        shown = chosen(len(heldout), settings["n_samples"], settings["seed"], "reconstruction")
        codec_images = heldout.images[shown[:MOST_CODEC_IMAGES]]
        lossy, missing_lossy = lossy_curves(codec_images)
        lossless, missing_lossless = lossless_sizes(codec_images)
    return Outcome(
        facts={
            **seen.facts,
            "saturated": images.saturated(),
            "codecs": [dataclasses.asdict(point) for point in (*lossy, *lossless)],
            "train_images": len(train),
            "heldout_images": len(heldout),
            "classes": list(train.classes),
            "skipped": [list(item) for split in images.splits.values() for item in split.skipped],
        },
        rows=seen.rows,
        left_out=(*seen.left_out, *missing_lossy, *missing_lossless),
        protocols=described([seen.protocol]),
        cost=meter.cost(images.count, seen.flops),
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The extractor, and the images that it sees."""
    return {"extractor": stage_settings.extractor(config), **stage_settings.reference(config, facts)}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone."""
    return Estimate(None, None, memory=judging_bytes(counts, settings["n_samples"], EXTRACT))


def judging_bytes(counts: Counts, n: int, judge: str) -> int | None:
    """Bytes of what a judge sees in real images, and of comparing n of them with the reference; None: not known."""
    seen, compared = counts.holding({judge: FEATURE_BATCH}), counts.comparing(n, judge)
    return most(seen, compared) if compared is not None else seen


STAGE = Stage(
    name="reference",
    parents=(),
    version=2,
    axes=axes.OF_REFERENCE,
    until=(),
    settings=settings,
    run=run,
    estimate=estimate,
)
