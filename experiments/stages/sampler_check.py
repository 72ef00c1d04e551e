"""Whether a cell is limited by its sampler: the same samples with twice the steps, and how far the distance moves."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import reference_features, settled_guidance
from experiments.budget import network_calls
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.console import Reporter, reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import asked_conditions, flops_per_image, generate, images_of, sampling_generator
from experiments.scoring import described, extractor_of, features_of, sample_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from ldm.diffusion.schedule import STEPS
from ldm.metrics.distribution import KERNEL, kernel_on_all, metric_of
from ldm.metrics.features import Features
from ldm.metrics.intervals import Interval, difference
from ldm.metrics.values import Metric, MetricValue
from ldm.records import DETAIL, LeftOut, ResultRow

MOVED: Final = "sampler_check_"


def run(job: Job) -> Outcome:
    """The kernel distance of the first samples of the cell with its steps and with twice as many, and the difference.

    All start from the noise and conditions of the samples that are reported. A kill loses one of the two sets.
    """
    meter, config = Meter(job.device), job.settings
    n, guidance = config["n_samples"], settled_guidance(job)
    asked = asked_conditions(job, n, config["sampler"]["seed"])
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    source = sampling_generator(job)
    chunks, batch_size, cost, flops = Chunks(job.folder), job.machine.batch, flops_per_image(source, asked), 0.0
    both = [{**config["sampler"], "steps": steps} for steps in (config["sampler"]["steps"], config["twice"])]

    def seen(settings: Settings, before: int, reporter: Reporter) -> Mapping[str, NDArray[np.float32]]:
        sampler, guides = build.sampler(settings, source.model.schedule), build.guidance(guidance)
        batches = generate(source, sampler, settings, guides, asked, range(n), batch_size, config["paste_known"])
        return features_of(images_of(batches, reporter, before), extractor).arrays

    found = list[Features]()
    with reporting(job.label, 2 * n) as reporter:
        for position, settings in enumerate(both):
            made = functools.partial(seen, settings, position * n, reporter)
            found.append(Features.of(chunks.chunk(str(settings["steps"]), made)))
            reporter.advance_to((position + 1) * n)
            diffusion = job.parent("diffusion").settings["diffusion"]
            calls = network_calls({**config, "sampler": settings, "guidance": guidance, "diffusion": diffusion})
            flops += n * (cost.denoise(calls, guided=guidance["scale"] != 1) + cost.decode)
    how, reference = sample_protocol(job, n), reference_features(job)
    mark = f"{both[1]['steps']} sampler steps against {both[0]['steps']}, on all images at once"
    protocol, metric = dataclasses.replace(how, marks=(*how.marks, mark)), metric_of_check(extractor.name)
    facts: dict[str, Any] = {"steps": both[0]["steps"], "twice": both[1]["steps"], "n": n, "limited": None}
    rows, left_out = list[ResultRow](), list[LeftOut]()
    if min(n, len(reference)) < KERNEL.images:
        reason = f"needs {KERNEL.images} images a side, here are {n} and {len(reference)}"
        left_out.append(LeftOut(metric.name, reason))
    else:
        once, twice = (kernel_on_all(features, reference, how.evaluation_seed) for features in found)
        value = moved(once, twice, metric, n)
        rows.append(value.row(protocol.id, job.parent("diffusion").record.facts["images_seen"]))
        facts |= {
            "title": metric_of(KERNEL, extractor.name).title,
            "limited": is_limited(value),
            "distances": [{"value": one.value, "ci_low": one.low, "ci_high": one.high} for one in (once, twice)],
        }
    return Outcome(
        facts=facts,
        rows=rows,
        left_out=left_out,
        protocols=described([protocol]),
        cost=meter.cost(2 * n, flops, seconds=meter.seconds + chunks.seconds_before),
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
    """The sampler and its guidance, where metrics.sampler_check asks for it and twice the steps are more."""
    twice = min(2 * config["sampler"]["steps"], STEPS)
    if not config["metrics"]["sampler_check"] or twice == config["sampler"]["steps"]:
        return None
    return {
        "sampler": config["sampler"],
        "twice": twice,
        "guidance": config["guidance"],
        "n_samples": config["metrics"]["progress_samples"],
        "paste_known": config["samples"]["paste_known"],
        **stage_settings.sample_conditions(config, facts),
        "precision": config["precision"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """The network calls with the cell's steps and with twice as many, and two decodings."""
    n, times = settings["n_samples"], settings["twice"] / settings["sampler"]["steps"]
    return Estimate(2 * n, n * (counts.sampling(counts.calls) + counts.sampling(times * counts.calls)))


STAGE = Stage(
    name="sampler_check",
    parents=("diffusion", "averaging", "reference", "tuning"),
    version=1,
    axes=axes.ALL,
    until=("samples", "evaluation"),
    settings=settings,
    run=run,
    label=labels.samples,
    is_result=True,
    estimate=estimate,
)
