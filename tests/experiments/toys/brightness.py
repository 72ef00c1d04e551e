"""A toy stage: how bright samples are."""

from experiments import axes, labels
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.scoring import described, unjudged_protocol
from experiments.stage import Job, Outcome, Settings, Stage
from experiments.stages.samples import first_images
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import Metric

BRIGHTNESS = Metric("brightness", "mean brightness", True, "brightness", "grey levels")


def run(job: Job) -> Outcome:
    """The mean of the first samples."""
    meter, side = Meter(job.device), job.resolution
    shown = first_images(job.parent("samples").file, job.parent("samples").settings["n_samples"], side, side)
    value = mean_value(BRIGHTNESS, shown.double().mean(dim=(1, 2, 3)).numpy())
    protocol = unjudged_protocol(job, "brightness", job.images("train"), len(shown), split="train")
    images_seen = job.parent("diffusion").record.facts["images_seen"]
    return Outcome(
        rows=[value.row(protocol.id, images_seen)], protocols=described([protocol]), cost=meter.cost(len(shown))
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """Which samples are looked at."""
    return {"seed": config["metrics"]["seed"]}


STAGE = Stage(
    name="brightness",
    parents=("samples",),
    version=1,
    axes=axes.ALL,
    until=("evaluation",),
    settings=settings,
    run=run,
    label=labels.samples,
    is_result=True,
)
