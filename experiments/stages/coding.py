"""What the latents of held-out images really take when an entropy coder writes them: a check on the named rates."""

import math

import torch

from experiments import axes, labels, stage_settings
from experiments.artifacts import first_stage_of
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.scoring import chosen, described, unjudged_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.latents import ENCODE_BATCH, EncodedImages
from experiments.stages.reconstruction import images_of_rates
from ldm.data.contract import SPLITS
from ldm.metrics.coded_latents import BYTES_A_SYMBOL


def run(job: Job) -> Outcome:
    """What the first stage says of the coded size: rows, and facts such as a curve over steps."""
    meter, config = Meter(job.device), job.settings
    train, heldout = (job.images(split) for split in SPLITS)
    model = first_stage_of(job)
    # The images that reconstructions and named rates are measured on, and those that rates are fitted to.
    indices = chosen(len(heldout), config["n_samples"], config["seed"], "reconstruction")
    training = images_of_rates(train)
    with torch.inference_mode():
        measured = model.coded(
            EncodedImages(model, train, training, job.device), EncodedImages(model, heldout, indices, job.device)
        )
    protocol = unjudged_protocol(job, "coding", heldout, len(indices))
    return Outcome(
        facts=dict(measured.facts),
        rows=[value.row(protocol.id) for value in measured.values],
        left_out=list(measured.left_out),
        protocols=described([protocol]),
        cost=meter.cost(len(indices)),
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The images, where metrics.coding asks for it and there are latents."""
    is_asked_for = config["metrics"]["coding"] and config["ae"]["f"] > 1  # pixels are not coded
    return stage_settings.measured_images(config, facts) if is_asked_for else None


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone, as if every number of a latent were a symbol."""
    called = counts.holding({"encode": ENCODE_BATCH, "decode": ENCODE_BATCH})
    symbols = settings["n_samples"] * math.prod(counts.first_stage.latent_shape)
    return Estimate(None, None, memory=None if called is None else called + BYTES_A_SYMBOL * symbols)


STAGE = Stage(
    name="coding",
    parents=("first_stage",),
    version=1,
    axes=axes.OF_DATA + axes.OF_FIRST_STAGE,
    until=stage_settings.FROM_FIRST_STAGE_ON,
    settings=settings,
    run=run,
    estimate=estimate,
    label=labels.first_stage,
    is_result=True,
)
