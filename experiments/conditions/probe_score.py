"""Scores of probes: networks that are trained to read a condition off an image, and asked about samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.conditions.asked import AskedConditions
from experiments.conditions.scores import (
    Instruments,
    Measure,
    MeasuredSamples,
    Scored,
    Values,
    in_unit_range,
    task_protocol,
)
from ldm.data.contract import ImageCache
from ldm.metrics.task import task_score
from ldm.probes import PROBES, Probe
from ldm.records import LeftOut
from ldm.records import Protocol as HowMeasured


@dataclass(frozen=True)
class ProbeMeasure:
    """A probe asked for each sample's condition, and for that of another sample, which is the floor.

    Sample i has the condition of image `indices[i]`; `partners` names the other sample.
    """

    probe: Probe
    images: ImageCache
    indices: Sequence[int]
    partners: NDArray[np.int64]
    device: str

    @torch.inference_mode()
    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        """Counts of each sample, (n, ...). Shapes: samples uint8 (n, 3, H, W)."""
        seen = in_unit_range(samples.to(self.device))
        found = {}
        for prefix, whose in (("", part), (ProbeScore.floor, self.partners[part.start : part.stop])):
            targets = self.probe.targets(self.images, [self.indices[i] for i in whose])
            found[prefix + self.probe.metric] = self.probe.counts(seen, targets.to(self.device))
        return found


def _no_options(options: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class ProbeScore:
    """The score of the probe in `ldm.probes.PROBES` of a condition's name.

    `options` are arguments that this kind of probe has besides its sizes, given the options of the condition.
    """

    condition: str
    options: Callable[[Any], Mapping[str, Any]] = _no_options

    weights: ClassVar[Mapping[str, str]] = {}
    floor: ClassVar[str] = "shuffled_"
    ceiling: ClassVar[str | None] = "real_"

    @property
    def metric(self) -> str:
        """The name of the score."""
        return PROBES[self.condition].metric

    def measure(self, options: Any, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """Its counts; None where the images could not train it."""
        probe = instruments.probes.get(self.condition)
        if probe is None:
            return None
        return ProbeMeasure(probe, asked.fields.images, asked.indices, asked.partners, instruments.device)

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """The facts of the probe stage say all."""
        return {}

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The score and its floor, or why the probe could not be trained."""
        if self.condition in samples.probes["obstacles"]:
            return [], [LeftOut(self.metric, samples.probes["obstacles"][self.condition])]
        network = probe_facts(self.condition, samples.probes["probes"][self.condition])
        found = [task_score(self.metric, samples.values[p + self.metric], p) for p in ("", self.floor)]
        return [Scored.of(found, samples.protocol(f"{self.condition} probe", **network))], []


def probe_facts(condition: str, probe: Mapping[str, Any]) -> dict[str, Any]:
    """What protocols say of a trained probe, from its facts in the probe stage."""
    return {
        "extractor": f"probe_{condition}",
        "extractor_size": probe["side"],
        "extractor_weights": probe["weights_hash"],
        "resize": "bilinear_antialias",
    }


def probe_protocol(
    condition: str, probe: Mapping[str, Any], asked: Mapping[str, Any], n: int, resolution: int, seed: int
) -> HowMeasured:
    """How n images are asked for a condition by its probe, whose facts in the probe stage are `probe`."""
    return task_protocol(f"{condition} probe", asked, n, resolution, seed, **probe_facts(condition, probe))
