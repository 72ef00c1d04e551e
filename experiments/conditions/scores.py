"""How samples are measured against their conditions: image by image while the images are there, scored afterwards.

Values of each image go by dotted names (`superres.mse`); the counts of a probe by the name of its score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from torch import Tensor

from experiments.conditions.asked import AskedConditions
from ldm.data.contract import ImageCache
from ldm.metrics.features import Extractor, Features
from ldm.metrics.values import MetricValue
from ldm.probes import Probe
from ldm.records import LeftOut, ResultRow, content_hash
from ldm.records import Protocol as HowMeasured

Values = dict[str, NDArray[Any]]
"""Values of each image by name, images first."""


class Measure(Protocol):
    """Something measured of samples `part` of a sample set, uint8 (n, 3, H, W), and the fields they were given."""

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values: ...


@dataclass(frozen=True)
class Instruments:
    """What can look at samples: the extractor of the run, trained probes by condition, and what `settings` name.

    `settings` are those of the samples stage; of them, weights are read.
    """

    extractor: Extractor
    probes: Mapping[str, Probe]
    settings: Mapping[str, Any]
    device: str


@dataclass(frozen=True)
class MeasuredSamples:
    """What is known of a sample set when it is scored.

    values: of each image. features: of the samples, for the extractor of `generation`, which is how the samples are
    compared with reference images. settings, facts: of the samples stage. probes: facts of the probe stage, empty where
    no condition has a probe.
    """

    values: Values
    features: Features
    generation: HowMeasured
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    probes: Mapping[str, Any]

    def protocol(self, kind: str, **network: Any) -> HowMeasured:
        """How a score of this kind is measured by the network; see `task_protocol`."""
        how = self.generation
        given = (kind, self.facts["asked"], how.n_samples, how.resolution, how.evaluation_seed)
        return task_protocol(*given, **network)


@dataclass(frozen=True)
class Scored:
    """Scores that one network gave, what it could not give, and how they were measured."""

    values: Sequence[MetricValue]
    left_out: Sequence[LeftOut]
    protocol: HowMeasured

    @classmethod
    def of(cls, found: Sequence[MetricValue | LeftOut], protocol: HowMeasured) -> "Scored":
        """Scores and what was left out, as they came."""
        values = [item for item in found if isinstance(item, MetricValue)]
        return cls(values, [item for item in found if isinstance(item, LeftOut)], protocol)

    def rows(self, images_seen: int | None) -> list[ResultRow]:
        """The scores that could be given."""
        return [value.row(self.protocol.id, images_seen) for value in self.values]


class TaskScore(Protocol):
    """A way to measure samples against a condition.

    weights: which settings of `metrics` name its weights, by the setting of the samples stage. floor, ceiling: the
    prefixes of the scores of what needs no model, and of real images; None where there are no such scores.
    """

    weights: ClassVar[Mapping[str, str]]
    floor: ClassVar[str]
    ceiling: ClassVar[str | None]

    def measure(self, options: Any, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """What is measured of each sample, given the options of the condition; None without the network for it."""
        ...

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """What its protocol needs of the networks that the settings of the samples stage name, by name."""
        ...

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The scores by how they were measured, and the scores for which there was no network."""
        ...


def asked_facts(images: ImageCache, split: str, annotations: Sequence[str]) -> dict[str, Any]:
    """Whose conditions were asked for, as protocols say it: `hash` covers images and these kinds of annotations."""
    read = [images.annotations[kind].fingerprint for kind in annotations]
    return {"split": split, "hash": content_hash([images.fingerprint, *read]), "images": len(images)}


def task_protocol(
    kind: str,
    asked: Mapping[str, Any],
    n: int,
    resolution: int,
    seed: int,
    *,
    extractor: str,
    extractor_size: int,
    extractor_weights: str,
    resize: str,
) -> HowMeasured:
    """How n images are measured against the conditions `asked` by a network; see `asked_facts`."""
    return HowMeasured(
        kind=kind,
        n_samples=n,
        reference=f"conditions of {asked['split']} images",
        reference_hash=asked["hash"],
        n_reference=asked["images"],
        resolution=resolution,
        resize=resize,
        extractor=extractor,
        extractor_size=extractor_size,
        extractor_weights=extractor_weights,
        extractor_precision="float32",
        class_balance=f"as asked for in {asked['split']} images",
        evaluation_seed=seed,
    )


def in_unit_range(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1]. Shapes: any."""
    return images.float() / 127.5 - 1


def named(values: Values, prefix: str) -> Values:
    """The values whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): found for name, found in values.items() if name.startswith(prefix)}
