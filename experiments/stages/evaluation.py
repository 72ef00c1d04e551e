"""Compares the features of samples with those of the reference images, and scores what they owe to their conditions."""

import numpy as np

from experiments import axes, labels
from experiments.artifacts import reference_features
from experiments.conditions import DataFacts, conditions_of
from experiments.conditions.scores import MeasuredSamples
from experiments.cost import Meter
from experiments.counts import Counts, most
from experiments.custom import measures
from experiments.generate import sample_size
from experiments.scoring import (
    described,
    feature_file,
    generation_protocol,
    sample_protocol,
    sample_rows,
    window_protocol,
)
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.task import scores_of
from ldm.metrics.features import Features
from ldm.metrics.values import WINDOWS_OF_SAMPLES, MetricValue, Variant, variant_left_out
from ldm.records import LeftOut, Protocol, ResultRow


def run(job: Job) -> Outcome:
    """The generation metrics of one cell; samples of another size than the training images have those of windows."""
    meter, samples = Meter(job.device), job.parent("samples").settings
    diffusion = job.parent("diffusion").settings
    images_seen = job.parent("diffusion").record.facts["images_seen"]
    rows, left_out, protocols = list[ResultRow](), list[LeftOut](), list[Protocol]()
    for judge in (None, *samples.get("other_extractors", ())):
        features = Features.load(job.parent("samples").file(feature_file(judge)))
        protocol, variants = sample_protocol(job, len(features), judge), tuple[Variant, ...]()
        if samples["height"] is not None:
            protocol, variants = window_protocol(protocol), (WINDOWS_OF_SAMPLES,)
        reference = reference_features(job, judge)
        scored = [sample_rows(features, reference, protocol, images_seen, *variants)]
        if judge is None:
            scored.append(_extra(job, features, reference, protocol, images_seen, *variants))
        rows += [row for found, _ in scored for row in found]
        left_out += [item for _, missing in scored for item in missing]
        protocols.append(protocol)
    if samples["height"] is not None:
        left_out += _not_whole(job, rows)
    elif conditions_of(diffusion):
        tasks, missing = scores_of(diffusion["conditioning"], _measured_samples(job))
        rows += [row for task in tasks for row in task.rows(images_seen)]
        left_out += [*missing, *(item for task in tasks for item in task.left_out)]
        protocols += [task.protocol for task in tasks]
    n = samples["n_samples"]
    return Outcome(rows=rows, left_out=left_out, protocols=described(protocols), cost=meter.cost(n))


def _extra(
    job: Job,
    features: Features,
    reference: Features,
    protocol: Protocol,
    images_seen: int | None,
    *variants: Variant,
) -> tuple[list[ResultRow], list[LeftOut]]:
    """What the user's further metrics make of the samples and the reference images, in the eyes of the extractor."""
    measured = [measure(features, reference) for measure in measures(job.settings.get("extra", []))]
    values = [value.varied(*variants) for value in measured if isinstance(value, MetricValue)]
    missing = [variant_left_out(item, *variants) for item in measured if isinstance(item, LeftOut)]
    return [value.row(protocol.id, images_seen) for value in values], missing


def _measured_samples(job: Job) -> MeasuredSamples:
    samples = job.parent("samples")
    with np.load(samples.file("task.npz"), allow_pickle=False) as values:
        measured = dict(values)
    features = Features.load(samples.file(feature_file()))
    probes = job.parent("probe").record.facts if "probe" in job.parents else {}
    generation = generation_protocol(job, len(features))
    return MeasuredSamples(measured, features, generation, samples.settings, samples.record.facts, probes)


def _not_whole(job: Job, rows: list[ResultRow]) -> list[LeftOut]:
    """What samples that are larger than the reference images are not measured by, and why."""
    side = job.resolution
    height, width = sample_size(job.parent("samples").settings, side)
    reason = (
        f"whole samples of {width}x{height} px are not comparable with reference images of {side}x{side} px; "
        f"{WINDOWS_OF_SAMPLES.prefix} rows measure windows of that size"
    )
    task = f"they are measured on samples of the training size, not {width}x{height} px"
    return [
        *(LeftOut(row.base, reason) for row in rows),
        *(LeftOut(f"{kind} task scores", task) for kind in conditions_of(job.parent("diffusion").settings)),
    ]


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The seed of what is random in a metric, and further metrics; all else stands in its parents."""
    extra = config["metrics"]["extra"]
    return {"seed": config["metrics"]["seed"], **({"extra": extra} if extra else {})}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone: of the judge whose features are most, since they are compared one after the other."""
    if counts.images is None:
        return Estimate(None, None)
    n = counts.images.samples
    return Estimate(None, None, memory=most(*(counts.comparing(n, judge) for judge in counts.judges)))


STAGE = Stage(
    name="evaluation",
    parents=("samples", "reference", "other_references"),
    version=2,
    axes=axes.ALL,
    until=("evaluation",),
    settings=settings,
    run=run,
    estimate=estimate,
    label=labels.samples,
    is_result=True,
    names_cell=True,
)
