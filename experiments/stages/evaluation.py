"""Compares the features of samples with those of the reference images, and scores what they owe to their conditions."""

import numpy as np

from experiments.conditions import conditions_of, sample_size
from experiments.cost import Meter
from experiments.measure import described, generation_rows, reference_features, sample_protocol, window_protocol
from experiments.runner import Job, Outcome
from experiments.task import judged
from ldm.metrics.features import Features
from ldm.records import LeftOut


def run(job: Job) -> Outcome:
    """The generation metrics of one cell; samples of another size than the training images have those of windows."""
    meter = Meter(job.device)
    features, reference = Features.load(job.parent_folder("samples") / "features.npz"), reference_features(job)
    protocol, prefix = sample_protocol(job, len(features)), ""
    is_larger = job.plan.config["samples"]["height"] is not None
    height, width = sample_size(job.plan.config)
    if is_larger:
        protocol, prefix = window_protocol(protocol), "window_"
    images_seen = job.parent_record("diffusion").facts["images_seen"]
    rows, left_out = generation_rows(features, reference, job, protocol, prefix, images_seen)
    if is_larger:
        reason = (
            f"whole samples of {width}x{height} px are not comparable with reference images of "
            f"{protocol.resolution}x{protocol.resolution} px; window_ rows measure windows of that size"
        )
        left_out += [LeftOut(row.metric.removeprefix(prefix), reason) for row in rows]
        left_out += [
            LeftOut(
                f"{kind} task scores", f"they are measured on samples of the training size, not {width}x{height} px"
            )
            for kind in conditions_of(job.plan.config)
        ]
        return Outcome(rows=rows, left_out=left_out, protocols=described([protocol]), cost=meter.cost(len(features)))
    protocols = [protocol]
    if conditions_of(job.plan.config):
        with np.load(job.parent_folder("samples") / "task.npz", allow_pickle=False) as values:
            scored, missing = judged(job, dict(values), features)
        rows += [row for item in scored for row in item.rows(images_seen)]
        left_out += [*missing, *(item for one in scored for item in one.scores[1])]
        protocols += [item.protocol for item in scored]
    return Outcome(rows=rows, left_out=left_out, protocols=described(protocols), cost=meter.cost(len(features)))
