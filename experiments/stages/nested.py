"""Trains a first stage with nested channels, from which those of the cells are cut."""

from experiments import axes, build, labels
from experiments.conditions import DataFacts
from experiments.counts import Counts
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages import first_stage


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """Those of a first stage with all channels; None where channels are not nested."""
    if build.NESTED not in config["ae"]:
        return None
    return first_stage.settings({**config, "ae": build.whole(config["ae"])}, facts)


def run(job: Job) -> Outcome:
    """As of a first stage that is not cut; writes weights.safetensors, checkpoints on the way."""
    return first_stage.train(job)


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """Of the training."""
    return first_stage.training_work(settings, counts)


STAGE = Stage(
    name="nested",
    parents=(),
    version=1,
    axes=tuple(axis for axis in axes.OF_REFERENCE + axes.OF_FIRST_STAGE if axis != "channels"),
    until=(),
    settings=settings,
    run=run,
    label=labels.first_stage,
    defaults=first_stage.STAGE.defaults,
    estimate=estimate,
    divides=build.is_trained,
)
