"""What the latents of held-out images really take when an entropy coder writes them: a check on the named rates."""

import torch

from experiments import build
from experiments.cost import Meter
from experiments.measure import chosen, described, unjudged_protocol
from experiments.runner import Job, Outcome
from experiments.stages.latents import EncodedImages
from experiments.stages.reconstruction import MOST_RATE_IMAGES


def run(job: Job) -> Outcome:
    """What the first stage says of the coded size: rows, and facts such as a curve over steps."""
    meter, config = Meter(job.device), job.config
    train, heldout = (build.images(job.plan.config, split, job.store) for split in ("train", "heldout"))
    model = build.first_stage_of(job, heldout.resolution)
    # The images that reconstructions and named rates are measured on, and those that rates are fitted to.
    indices = chosen(len(heldout), config["n_samples"], config["seed"], "reconstruction")
    training = chosen(len(train), MOST_RATE_IMAGES, 0, "rate")
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
