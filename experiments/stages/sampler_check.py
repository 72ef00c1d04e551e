"""Whether a cell is limited by its sampler: the same samples with twice the steps, and how far the distance moves."""

import dataclasses
from typing import Any, Final

from experiments import axes, labels
from experiments.artifacts import reference_features
from experiments.conditions import DataFacts
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.scoring import described, extractor_of, feature_file, sample_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages import samples
from ldm.diffusion.schedule import STEPS
from ldm.metrics.distribution import KERNEL, kernel_on_all, metric_of
from ldm.metrics.features import FeatureAccumulator, Features
from ldm.metrics.intervals import Interval, difference
from ldm.metrics.values import Metric, MetricValue
from ldm.records import DETAIL, LeftOut, ResultRow

MOVED: Final = "sampler_check_"


def run(job: Job) -> Outcome:
    """The kernel distance of the first samples of the cell as they are and with twice the steps, and the difference.

    Both start from the same noise and conditions. A kill loses those that were made.
    """
    meter, cell, n = Meter(job.device), job.parent("samples"), job.settings["n_samples"]
    twice = {**cell.settings["sampler"], "steps": job.settings["twice"]}
    again = dataclasses.replace(
        job, planned=dataclasses.replace(job.planned, settings={**cell.settings, "sampler": twice})
    )
    extractor = extractor_of(job, cell.settings["extractor"])
    with reporting(job.label, n) as reporter:
        found = FeatureAccumulator()
        for batch in samples.sampled_again(again, n):
            indices = range(batch.first, batch.first + len(batch.images))
            found.add(extractor(samples.as_seen(batch.images, indices, again)))
            reporter.advance_to(indices.stop)
    both = Features.load(cell.file(feature_file(None)))[:n], found.result()
    how, reference = sample_protocol(job, n), reference_features(job)
    steps = cell.settings["sampler"]["steps"]
    mark = f"{twice['steps']} sampler steps against {steps}, on all images at once"
    protocol, metric = dataclasses.replace(how, marks=(*how.marks, mark)), metric_of_check(extractor.name)
    facts: dict[str, Any] = {"steps": steps, "twice": twice["steps"], "n": n, "limited": None}
    rows, left_out = list[ResultRow](), list[LeftOut]()
    if min(n, len(reference)) < KERNEL.images:
        reason = f"needs {KERNEL.images} images a side, here are {n} and {len(reference)}"
        left_out.append(LeftOut(metric.name, reason))
    else:
        before, after = (kernel_on_all(features, reference, how.evaluation_seed) for features in both)
        value = moved(before, after, metric, n)
        rows.append(value.row(protocol.id, job.parent("diffusion").record.facts["images_seen"]))
        facts |= {
            "title": metric_of(KERNEL, extractor.name).title,
            "limited": is_limited(value),
            "distances": [{"value": one.value, "ci_low": one.low, "ci_high": one.high} for one in (before, after)],
        }
    flops = cell.record.facts["flops_per_image"]
    return Outcome(
        facts=facts,
        rows=rows,
        left_out=left_out,
        protocols=described([protocol]),
        cost=meter.cost(n, n * (flops["denoise"] * twice["steps"] / steps + flops["decode"])),
    )


def moved(once: Interval, twice: Interval, metric: Metric, n: int) -> MetricValue:
    """How far twice the steps move the distance of n samples, with the interval of the difference.

    What both owe to the same noise, conditions and reference images drops out.
    """
    by = difference(twice, once, shared=(0, 1))
    return MetricValue(metric, by.value, n, by.low, by.high)


def metric_of_check(extractor: str) -> Metric:
    """The difference of kernel distances as one extractor sees the samples; no end of it is better."""
    distance = metric_of(KERNEL, extractor)
    within = distance.within(MOVED, "change with twice the steps of the ", DETAIL)
    return dataclasses.replace(within, higher_is_better=None, headline_from=None)


def is_limited(value: MetricValue) -> bool:
    """Whether the distance moved by more than its interval."""
    assert value.ci_low is not None
    assert value.ci_high is not None
    return not value.ci_low <= 0 <= value.ci_high


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """How many samples with how many steps, where metrics.sampler_check asks for it and twice the steps are more."""
    twice = min(2 * config["sampler"]["steps"], STEPS)
    if not config["metrics"]["sampler_check"] or twice == config["sampler"]["steps"]:
        return None
    return {"twice": twice, "n_samples": min(config["metrics"]["progress_samples"], config["metrics"]["n_samples"])}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Twice the cell's network calls, and one decoding; a little much where the schedule has no more steps."""
    n = settings["n_samples"]
    return Estimate(n, n * counts.sampling(2 * counts.calls), memory=counts.holding_samples(n, is_guided=True))


STAGE = Stage(
    name="sampler_check",
    parents=("samples", "reference"),
    version=2,
    axes=axes.ALL,
    until=("samples", "evaluation"),
    settings=settings,
    run=run,
    label=labels.samples,
    is_result=True,
    estimate=estimate,
)
