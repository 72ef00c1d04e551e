"""Compares the features of samples with those of the reference images."""

from experiments.cost import Meter
from experiments.measure import described, generation_protocol, generation_rows, reference_features
from experiments.runner import Job, Outcome
from ldm.metrics.features import Features


def run(job: Job) -> Outcome:
    """The generation metrics of one cell."""
    meter = Meter(job.device)
    features = Features.load(job.parent_folder("samples") / "features.npz")
    protocol = generation_protocol(job, len(features))
    images_seen = job.parent_record("diffusion").facts["images_seen"]
    rows, left_out = generation_rows(features, reference_features(job), job, protocol, images_seen=images_seen)
    return Outcome(rows=rows, left_out=left_out, protocols=described([protocol]), cost=meter.cost(len(features)))
