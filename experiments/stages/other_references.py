"""What real images look like to the extractors that judge samples beside the plan's own (`metrics.also`)."""

from experiments import axes, stage_settings
from experiments.call_memory import extract_by
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.counts import Counts, most
from experiments.scoring import ReferenceImages, described
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.reference import judging_bytes


def run(job: Job) -> Outcome:
    """Writes <extractor>.npz, the features of the reference images, for each; and measures the other split by each."""
    meter, images = Meter(job.device), ReferenceImages.of(job)
    seen = {}
    for name, settings in job.settings["extractors"].items():
        with meter.part(name):
            seen[name] = images.judged(settings)
        seen[name].features.save(job.folder / f"{name}.npz")
    return Outcome(
        facts={"judges": {name: found.facts for name, found in seen.items()}},
        rows=[row for found in seen.values() for row in found.rows],
        left_out=[item for found in seen.values() for item in found.left_out],
        protocols=described(found.protocol for found in seen.values()),
        cost=meter.cost(images.count * len(seen), sum(found.flops for found in seen.values())),
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The other extractors, and the images that they see; none where no other is asked for."""
    others = stage_settings.other_extractors(config)
    return {"extractors": others, **stage_settings.reference(config, facts)} if others else None


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone: of the extractor that takes most, one after the other being asked."""
    judges = map(extract_by, settings["extractors"])
    return Estimate(None, None, memory=most(*(judging_bytes(counts, settings["n_samples"], judge) for judge in judges)))


STAGE = Stage(
    name="other_references",
    parents=(),
    version=1,
    axes=axes.OF_REFERENCE,
    until=(),
    settings=settings,
    run=run,
    estimate=estimate,
)
