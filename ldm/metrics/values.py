"""What a metric is, declared once beside its computation, and measured numbers before their protocol is known."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ldm.records import (
    DECODED,
    GAUSSIAN,
    GAUSSIAN_BY_CLASS,
    POPULATION,
    POSTERIOR_SAMPLE,
    REAL,
    SHUFFLED,
    WINDOWS,
    LeftOut,
    ResultRow,
)


@dataclass(frozen=True)
class Metric:
    """All that tables, figures and verdicts need of a metric; each of its rows says it.

    `higher_is_better`: None where no end is better. `estimand`: what value and interval estimate, one of those in
    `ldm.records`. `group`, `kind`, `base`, `variant`, `headline_from`: as in `ldm.records.ResultRow`; `kind` is the
    name where nothing else is given.
    What it needs: `images`, the least number of images a side; `per_feature`, the same as a multiple of the number of
    features; `array`, what of `ldm.metrics.features.Features` it reads ("" for none); `extractor`, the only one that it
    is defined on, if it is; `of_reference`, whether the reference images count in this.
    """

    name: str
    title: str
    higher_is_better: bool | None
    group: str
    unit: str = ""
    estimand: str = POPULATION
    kind: str = ""
    base: str = ""
    variant: str = ""
    headline_from: int | None = None
    images: int = 1
    per_feature: int = 0
    array: str = ""
    extractor: str | None = None
    of_reference: bool = True

    def seen_by(self, network: str, title: str | None = None) -> "Metric":
        """The metric as one network sees the images; `title` is the network's own where its name is not."""
        name, words = f"{self.name}_{network}", f"{self.title}, {title or network}"
        return dataclasses.replace(self, name=name, title=words, kind=self.kind or self.name)

    def within(self, prefix: str, words: str, group: str, suffix: str = "") -> "Metric":
        """The formula as the metric of something else, e.g. of a task: a metric of its own, no variant of this one."""
        name, kind = (f"{prefix}{text}{suffix}" for text in (self.name, self.kind or self.name))
        return dataclasses.replace(self, name=name, title=f"{words}{self.title}", kind=kind, group=group)


@dataclass(frozen=True)
class Variant:
    """What a metric is measured of in place of the samples or reconstructions themselves, and how its name says so."""

    words: str
    prefix: str = ""
    suffix: str = ""

    def name(self, metric: str) -> str:
        """The name of the metric's variant."""
        return f"{self.prefix}{metric}{self.suffix}"


REAL_IMAGES: Final = Variant(REAL, "real_")
DECODED_IMAGES: Final = Variant(DECODED, "decoded_")
GAUSSIAN_LATENTS: Final = Variant(GAUSSIAN, "gaussian_")
GAUSSIAN_LATENTS_BY_CLASS: Final = Variant(GAUSSIAN_BY_CLASS, "gaussian_class_")
WINDOWS_OF_SAMPLES: Final = Variant(WINDOWS, "window_")
OTHER_CONDITIONS: Final = Variant(SHUFFLED, "shuffled_")
BICUBIC: Final = Variant("input enlarged bicubically", "bicubic_")
MEAN_FILL: Final = Variant("holes in the mean colour", "mean_fill_")
INTERPOLATED_LATENTS: Final = Variant("images decoded between latents", "interpolated_")
NOISED_LATENTS: Final = Variant("images decoded from noised latents", "noised_")
SMALL_DENOISER: Final = Variant("samples of a small denoiser", "small_denoiser_")
SAMPLED_POSTERIOR: Final = Variant(POSTERIOR_SAMPLE, suffix="_sample")
CODED_LATENTS: Final = Variant("coded latents", suffix="_coded")
ALONE: Final = Variant("each image by itself", suffix="_alone")


def varied(metric: Metric, *variants: Variant) -> Metric:
    """The metric measured of something else, the last variant outermost: another name and title, the same direction."""
    for variant in variants:
        metric = dataclasses.replace(
            metric,
            name=variant.name(metric.name),
            title=f"{metric.title}, {variant.words}",
            kind=metric.kind or metric.name,
            base=metric.base or metric.name,
            variant=", ".join(filter(None, (metric.variant, variant.words))),
        )
    return metric


def variant_left_out(item: LeftOut, *variants: Variant) -> LeftOut:
    """What was left out, under the name of a variant."""
    metric = item.metric
    for variant in variants:
        metric = variant.name(metric)
    return LeftOut(metric, item.reason)


@dataclass(frozen=True)
class MetricValue:
    """A value of a metric, the number of images it was computed from, and its 95 % interval where one is known.

    `deviations`, `alone`: as in `ldm.metrics.intervals.Interval`.
    """

    of: Metric
    value: float
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    deviations: tuple[tuple[float, ...], ...] | None = None
    alone: float = 0.0

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.of.name

    def varied(self, *variants: Variant) -> "MetricValue":
        """This value, named as that of a variant of its metric."""
        return dataclasses.replace(self, of=varied(self.of, *variants))

    def row(self, protocol: str = "", images_seen: int | None = None, seed: int | None = None) -> ResultRow:
        """The row of this value under a protocol, with all that its metric says of itself."""
        return ResultRow(
            self.metric,
            self.value,
            self.n,
            protocol,
            self.ci_low,
            self.ci_high,
            images_seen,
            seed,
            self.of.estimand,
            self.deviations,
            self.alone,
            title=self.of.title,
            unit=self.of.unit,
            higher_is_better=self.of.higher_is_better,
            group=self.of.group,
            kind=self.of.kind or self.of.name,
            base=self.of.base,
            variant=self.of.variant,
            headline_from=self.of.headline_from,
        )


@dataclass(frozen=True)
class Measured:
    """What one look at images gives: named values, those that could not be had with the reason, and facts."""

    values: Sequence[MetricValue] = ()
    left_out: Sequence[LeftOut] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
