"""What samples owe to their conditions: measured while the images are there, made into rows afterwards."""

from collections.abc import Mapping
from typing import Any

from experiments.conditions import AskedConditions, annotations_read, chosen_conditions, task_scores_of
from experiments.conditions.scores import Instruments, Measure, MeasuredSamples, Scored, asked_facts
from ldm.metrics.features import Extractor
from ldm.probes import Probe
from ldm.records import LeftOut


def measures_of(
    conditioning: Mapping[str, Any],
    settings: Mapping[str, Any],
    asked: AskedConditions,
    extractor: Extractor,
    probes: Mapping[str, Probe],
    device: str,
) -> list[Measure]:
    """What is measured of samples with these settings of their stage; nothing where they are larger than the images.

    `probes` are the trained ones by condition.
    """
    if settings["height"] is not None:
        return []
    instruments = Instruments(extractor, probes, settings, device)
    found = [score.measure(options, asked, instruments) for score, options in task_scores_of(conditioning)]
    return [measure for measure in found if measure is not None]


def task_facts(
    conditioning: Mapping[str, Any], settings: Mapping[str, Any], asked: AskedConditions, split: str, device: str
) -> dict[str, Any]:
    """What protocols of task scores say of whose conditions were asked for, those of images of `split`, and by whom."""
    if not chosen_conditions(conditioning):
        return {}
    facts: dict[str, Any] = {
        "asked": asked_facts(asked.fields.images, split, annotations_read({"conditioning": conditioning}))
    }
    for score, _ in task_scores_of(conditioning):
        facts |= score.facts(settings, device)
    return facts


def scores_of(conditioning: Mapping[str, Any], samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
    """The scores of samples by how they were measured, and the scores for which there was no network."""
    scored, left_out = list[Scored](), list[LeftOut]()
    for score, _ in task_scores_of(conditioning):
        found, missing = score.scored(samples)
        scored += found
        left_out += missing
    return scored, left_out
