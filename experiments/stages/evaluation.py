"""Compares the features of samples with those of the reference images, and scores what they owe to their conditions."""

import numpy as np

from experiments.conditions import conditions_of, sample_size
from experiments.cost import Meter
from experiments.measure import (
    described,
    feature_file,
    reference_features,
    sample_protocol,
    sample_rows,
    window_protocol,
)
from experiments.plan import other_judges
from experiments.runner import Job, Outcome
from experiments.task import judged
from ldm.metrics.features import Features
from ldm.records import LeftOut, Protocol, ResultRow


def run(job: Job) -> Outcome:
    """The generation metrics of one cell; samples of another size than the training images have those of windows."""
    meter, config = Meter(job.device), job.plan.config
    images_seen = job.parent_record("diffusion").facts["images_seen"]
    rows, left_out, protocols = list[ResultRow](), list[LeftOut](), list[Protocol]()
    for judge in (None, *other_judges(config)):
        features = Features.load(job.parent_folder("samples") / feature_file(judge))
        protocol, prefix = sample_protocol(job, len(features), judge), ""
        if config["samples"]["height"] is not None:
            protocol, prefix = window_protocol(protocol), WINDOW
        found, missing = sample_rows(features, reference_features(job, judge), protocol, images_seen, prefix)
        rows, left_out, protocols = [*rows, *found], [*left_out, *missing], [*protocols, protocol]
    if config["samples"]["height"] is not None:
        left_out += _not_whole(job, rows)
    elif conditions_of(config):
        with np.load(job.parent_folder("samples") / "task.npz", allow_pickle=False) as values:
            scored, missing = judged(job, dict(values), Features.load(job.parent_folder("samples") / feature_file()))
        rows += [row for item in scored for row in item.rows(images_seen)]
        left_out += [*missing, *(item for one in scored for item in one.scores[1])]
        protocols += [item.protocol for item in scored]
    n = job.parent_record("samples").config["n_samples"]
    return Outcome(rows=rows, left_out=left_out, protocols=described(protocols), cost=meter.cost(n))


WINDOW = "window_"


def _not_whole(job: Job, rows: list[ResultRow]) -> list[LeftOut]:
    """What samples that are larger than the reference images are not measured by, and why."""
    (height, width), side = sample_size(job.plan.config), job.plan.config["data"]["resolution"]
    reason = (
        f"whole samples of {width}x{height} px are not comparable with reference images of {side}x{side} px; "
        f"{WINDOW} rows measure windows of that size"
    )
    task = f"they are measured on samples of the training size, not {width}x{height} px"
    return [
        *(LeftOut(row.metric.removeprefix(WINDOW), reason) for row in rows),
        *(LeftOut(f"{kind} task scores", task) for kind in conditions_of(job.plan.config)),
    ]
