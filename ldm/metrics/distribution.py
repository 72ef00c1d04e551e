"""Distances between the distributions of generated and real images, all from one pass of one extractor.

The names FID, KID, IS and sFID are said of the standard Inception weights alone; under another extractor the same
formulas are called `fd_`, `kd_`, `is_` and `sfd_` with the extractor's name behind. Each measure declares what it needs
of the extractor and how many images, and is left out with the reason where that is not there.

Before anything is computed the images are put into an order that depends on their features and the seed alone, so that
the order in which they arrived (workers, batches) changes no value.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.metrics.features import EXTRACTOR_TITLES, Features
from ldm.metrics.frechet import PARTS, frechet_distance, frechet_infinity, frechet_with_spread
from ldm.metrics.intervals import (
    Interval,
    Spread,
    block_jackknife,
    block_sizes,
    combine,
    mean_interval,
    proportion_interval,
    student_interval,
)
from ldm.metrics.kernel import gaussian, kernel_distance, kernel_subsets
from ldm.metrics.neighbours import BALL_NEIGHBOUR, TILE, neighbourhoods
from ldm.metrics.values import Metric, MetricValue
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.records import AT_N, GENERATION, NEIGHBOURHOODS, POPULATION, RECONSTRUCTION, LeftOut

INCEPTION_SPLITS: Final = 10
SPLIT_MINIMUM: Final = 100

NEIGHBOUR_BLOCKS: Final = 10
"""At most so many disjoint parts of both sets, between which the measures of neighbourhoods vary."""

LEAST_IN_BLOCK: Final = 8 * BALL_NEIGHBOUR
"""Images a side of a part; in parts of half as many, intervals cover too little (docs/numbers.md)."""

NEIGHBOUR_MINIMUM: Final = 2 * LEAST_IN_BLOCK
"""Images a side below which the measures of neighbourhoods are left out, since nothing says how far they are off."""

SHARES: Final = ("precision", "recall", "coverage")
UNLIMITED: Final = 4
"""So far above 1 the clipped measures of parts may go."""

PAIR_BLOCKS: Final = 20

NEIGHBOURHOOD_TITLES: Final = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "clipped_density": "clipped density",
    "clipped_coverage": "clipped coverage",
}

_STANDARD: Final = {
    "fd": ("fid", "FID"),
    "fd_infinity": ("fid_infinity", "FID at infinite n"),
    "kd": ("kid", "KID"),
    "is": ("is", "IS"),
    "sfd": ("sfid", "sFID"),
}
"""By kind, its name and title under the standard Inception weights, and under these alone."""


def metric_name(kind: str, extractor_name: str) -> str:
    """The name of a row, e.g. ("fd", "efficientnet_lite2") -> "fd_efficientnet_lite2", ("fd", "inception") -> "fid"."""
    return metric_of(KINDS[kind], extractor_name).name


def metric_of(kind: Metric, extractor_name: str) -> Metric:
    """A kind of metric as one extractor sees the images."""
    if extractor_name == "inception" and kind.name in _STANDARD:
        name, title = _STANDARD[kind.name]
        return dataclasses.replace(kind, name=name, title=title, kind=kind.name)
    return kind.seen_by(extractor_name, EXTRACTOR_TITLES.get(extractor_name))


def mixed_order(rows: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """A random order of the rows by hashes of their content and of the seed, for blocks that are left out.

    Unlike in `canonical_order` no rank says where a row goes: there the same ranks make a block whatever the images,
    and the spread between blocks would be off by the same factor every time.
    Shapes: rows (n, ...); result (n,).
    """
    key = seed.to_bytes(8, "little", signed=True)
    digests = [hashlib.blake2b(row, digest_size=8, key=key).digest() for row in np.ascontiguousarray(rows)]
    return np.argsort(np.frombuffer(b"".join(digests), dtype="<u8"), kind="stable")


def canonical_order(features: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """A random order of the rows that is a function of their values and the seed, not of their present order.

    Shapes: features (n, d); result (n,).
    """
    ranked = np.argsort(features.astype(np.float64).sum(axis=1), kind="stable")
    return ranked[np.random.default_rng(seed).permutation(len(features))]


def _double(features: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float64))


def _moved(interval: Interval, value: float) -> Interval:
    """An interval as wide, around another value."""
    shift = value - interval.value
    return dataclasses.replace(interval, value=value, low=interval.low + shift, high=interval.high + shift)


Found = Mapping[str, Interval | float]
"""Values of the kinds that a measure gives, with an interval where one is known."""


def distance_interval(value: float, spread: Spread, alone: Spread | None = None) -> Interval:
    """Of a distance whose spread comes of varying the generated and the reference images; `alone` adds to it."""
    both = spread if alone is None else combine(spread, alone)
    interval = student_interval(value, both.variance, both.freedom)
    return dataclasses.replace(interval, deviations=spread.deviations, alone=both.variance - spread.variance)


def _frechet_of(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> Interval:
    return distance_interval(*frechet_with_spread(generated, reference))


def _frechet(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    """The distance at this n and at infinite n; to first order both vary alike: one jackknife gives both intervals."""
    found = _frechet_of(generated.features, reference.features)
    if "fd_infinity" not in wanted:
        return {"fd": found}
    value = frechet_infinity(generated.features, reference.features, found.value)
    return {"fd": found, "fd_infinity": _moved(found, value)}


def _spatial_frechet(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    assert generated.spatial is not None
    assert reference.spatial is not None
    return {"sfd": _frechet_of(generated.spatial, reference.spatial)}


def subset_distance(generated: Features, reference: Features, seed: int) -> tuple[float, Spread]:
    """torch-fidelity's kernel distance, a mean over random subsets, and its spread over other draws of these."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size, subsets = kernel_subsets(len(generated), len(reference))
    a, b = (_double(x.features[canonical_order(x.features, seed)]) for x in (generated, reference))
    found = kid_features_to_metric(
        a,
        b,
        kid_subsets=subsets,
        kid_subset_size=size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        rng_seed=seed,
        verbose=False,
    )
    freedom = max(subsets - 1, 1)
    return found[KEY_METRIC_KID_MEAN], Spread(found[KEY_METRIC_KID_STD] ** 2 / freedom, 0.0, freedom)


def _kernel(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    """The interval is that of the estimate on all images, and of the draw of the subsets."""
    value, draws = subset_distance(generated, reference, seed)
    return {"kd": distance_interval(value, kernel_distance(generated.features, reference.features)[1], draws)}


def kernel_on_all(generated: Features, reference: Features, seed: int) -> Interval:
    """The kernel distance on all images, to which no draw of subsets adds.

    Sets of as many samples have the same numbers in the same blocks, so that differences cancel what these share.
    """
    numbers = np.arange(len(generated))[:, None]
    a = generated.features[mixed_order(numbers, seed)]
    return distance_interval(*kernel_distance(a, reference.features[mixed_order(reference.features, seed)]))


def _embedding_distance(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    return {"cmmd": distance_interval(*kernel_distance(generated.features, reference.features, kernel=gaussian))}


def _inception_score(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    """Mean over splits of at least 100 images, at most 10 splits; the interval is that of the mean over splits."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    assert generated.logits is not None
    splits = min(INCEPTION_SPLITS, len(generated) // SPLIT_MINIMUM)
    # The canonical order is random already, so the splits need no shuffling of their own.
    logits = generated.logits[canonical_order(generated.features, seed)]
    score = isc_features_to_metric(_double(logits), splits=splits, shuffle=False)
    mean, std = score[KEY_METRIC_ISC_MEAN], score[KEY_METRIC_ISC_STD]
    if splits < 2:
        return {"is": mean}
    return {"is": student_interval(mean, std**2 / (splits - 1), splits - 1)}


def _neighbourhoods(generated: Features, reference: Features, seed: int, wanted: Collection[str]) -> Found:
    """All six; their intervals are those of the mean over disjoint parts of both sets, moved to the value of the whole.

    A part's value is another one than that of the whole, but its spread is larger only as n is smaller. Near 0 and 1
    shares of few images vary in steps that parts may not show, so theirs are no narrower than Wilson's.
    """
    whole = neighbourhoods(generated.features, reference.features)
    values = {kind: float(getattr(whole, kind)) for kind in NEIGHBOURHOOD_TITLES}
    blocks = min(NEIGHBOUR_BLOCKS, min(len(generated), len(reference)) // LEAST_IN_BLOCK)
    ends = [np.cumsum(block_sizes(len(x), blocks))[:-1] for x in (generated, reference)]
    parts = zip(np.split(generated.features, ends[0]), np.split(reference.features, ends[1]), strict=True)
    measured = [neighbourhoods(*part, limit=UNLIMITED) for part in parts]
    found: dict[str, Interval | float] = {}
    for kind, value in values.items():
        mean = mean_interval([getattr(part, kind) for part in measured])
        low, high = value + mean.low - mean.value, value + mean.high - mean.value
        if kind in SHARES:
            items = len(generated if kind == "precision" else reference)
            wilson = proportion_interval(round(value * items), items)
            low, high = min(low, wilson.low), max(high, wilson.high)
        most = float("inf") if kind == "density" else 1.0
        found[kind] = Interval(value, max(low, 0.0), min(high, most))
    return found


def _obstacle(kind: Metric, generated: Features, reference: Features, extractor_name: str) -> str | None:
    """Why it cannot be given, in one sentence, or None."""
    if kind.extractor not in (None, extractor_name):
        return f"It is defined on embeddings of {kind.extractor}, not of {extractor_name}."
    sides = (generated, reference) if kind.of_reference else (generated,)
    if any(kind.array not in side.arrays for side in sides):
        return f"The extractor gives no {ARRAYS[kind.array][0]}, which {ARRAYS[kind.array][1]} needs."
    least = max(kind.images, kind.per_feature * generated.features.shape[1])
    present = min(len(side) for side in sides)
    return None if present >= least else f"It needs at least {least} images a side, here there are {present}."


ARRAYS: Final = {
    "logits": ("logits", "the Inception-score formula"),
    "spatial": ("spatial map", "the spatial Frechet distance"),
}
"""Arrays that not every extractor gives: what they are, and what reads them."""


@dataclass(frozen=True)
class Measure:
    """Kinds of rows that are computed together; `run` gets the names of those that can be given."""

    run: Callable[[Features, Features, int, Collection[str]], Found]
    kinds: tuple[Metric, ...]


MANY_SAMPLES: Final = 5000
"""From here on the Frechet distance is the headline; below, its bias at small n exceeds most differences."""


def _distance(name: str, title: str, estimand: str, **needs: Any) -> Metric:
    return Metric(name, title, False, GENERATION, estimand=estimand, **{"images": 16, "array": "features", **needs})


FRECHET: Final = _distance("fd", "Fréchet distance", AT_N, headline_from=MANY_SAMPLES)
# Even the smallest part has twice as many images as features.
FRECHET_INFINITY: Final = _distance(
    "fd_infinity", "Fréchet distance at infinite n", POPULATION, per_feature=2 * max(PARTS)
)
KERNEL: Final = _distance("kd", "kernel distance", POPULATION, headline_from=0)
INCEPTION_SCORE: Final = Metric(
    "is",
    "inception-score formula",
    True,
    GENERATION,
    estimand=AT_N,
    images=SPLIT_MINIMUM,
    array="logits",
    of_reference=False,
)

MEASURES: Final = (
    Measure(_frechet, (FRECHET, FRECHET_INFINITY)),
    Measure(_kernel, (KERNEL,)),
    Measure(_inception_score, (INCEPTION_SCORE,)),
    Measure(
        _neighbourhoods,
        tuple(
            Metric(name, title, True, NEIGHBOURHOODS, estimand=AT_N, images=NEIGHBOUR_MINIMUM, array="features")
            for name, title in NEIGHBOURHOOD_TITLES.items()
        ),
    ),
    Measure(_spatial_frechet, (_distance("sfd", "spatial Fréchet distance", AT_N, array="spatial"),)),
    Measure(_embedding_distance, (_distance("cmmd", "CMMD", POPULATION, extractor="clip"),)),
)

KINDS: Final = {kind.name: kind for measure in MEASURES for kind in measure.kinds}


def _value(metric: Metric, found: Interval | float, n: int) -> MetricValue:
    if isinstance(found, Interval):
        return MetricValue(metric, found.value, n, found.low, found.high, found.deviations, found.alone)
    return MetricValue(metric, found, n)


def generation_metrics(
    generated: Features, reference: Features, extractor_name: str, seed: int, numbers: Sequence[int] | None = None
) -> tuple[list[MetricValue], list[LeftOut]]:
    """All measures of samples against reference images, and what was left out and why.

    `seed` fixes the order of the images, hence splits, blocks and parts, and the subsets of the kernel distance. By
    `numbers` of the generated images, where given, those of the same numbers stand in the same blocks of every set. n
    of a value is the number of generated images; intervals are at 95 %.
    """
    ensure_torchvision()
    content = generated.features if numbers is None else np.asarray(numbers, dtype=np.int64)[:, None]
    generated = generated[mixed_order(content, seed)]
    reference = reference[mixed_order(reference.features, seed)]
    values: list[MetricValue] = []
    left_out: list[LeftOut] = []
    for measure in MEASURES:
        obstacles = {kind.name: _obstacle(kind, generated, reference, extractor_name) for kind in measure.kinds}
        wanted = [name for name, obstacle in obstacles.items() if obstacle is None]
        found = measure.run(generated, reference, seed, wanted) if wanted else {}
        for kind in measure.kinds:
            metric, obstacle = metric_of(kind, extractor_name), obstacles[kind.name]
            if obstacle is not None:
                left_out.append(LeftOut(metric.name, obstacle))
            else:
                values.append(_value(metric, found[kind.name], len(generated)))
    return values, left_out


def bytes_to_compare(n: int, m: int, d: int) -> int:
    """What comparing features (n, d) and (m, d) takes at its peak, besides themselves, about.

    Both sets in another order; then the larger of the Frechet distance (both sets and their factors in float64, one of
    them centred and in the coordinates of the other's factor, some matrices of that side) and of the neighbourhoods
    (some tiles of distances, some copies of the rows that they are of).
    """
    sides = ((n, min(m, d)), (m, min(n, d)))
    factors = d * sum(columns for _, columns in sides)
    centred = max(items * (d + columns) + 6 * columns**2 for items, columns in sides)
    frechet = DOUBLE * ((n + m) * d + factors + centred)
    rows = min(max(n, m), TILE)
    return SINGLE * (n + m) * d + max(frechet, 26 * rows**2 + 8 * DOUBLE * rows * d)


SINGLE, DOUBLE = 4, 8
"""Bytes of a number."""


def reconstruction_frechet(
    reconstructed: Features, original: Features, extractor_name: str, seed: int = 0
) -> MetricValue | LeftOut:
    """The Frechet distance of reconstructions to their own images: `rfid`, or `rfd_` and the extractor's name.

    Its jackknife leaves out blocks of pairs, mixed by the seed.
    """
    metric = reconstruction_frechet_of(extractor_name)
    obstacle = _obstacle(FRECHET, reconstructed, original, extractor_name)
    if obstacle is not None:
        return LeftOut(metric.name, obstacle)
    return _value(metric, paired_frechet(reconstructed, original, seed), len(reconstructed))


def reconstruction_frechet_of(extractor_name: str) -> Metric:
    """That distance as a metric."""
    frechet = metric_of(FRECHET, extractor_name)
    metric = frechet.within("r", "r" if extractor_name == "inception" else "reconstruction ", RECONSTRUCTION)
    return dataclasses.replace(metric, headline_from=0)


def paired_frechet(a: Features, b: Features, seed: int) -> Interval:
    """The Frechet distance of images to their own counterparts, with the jackknife over blocks of pairs."""
    order = mixed_order(b.features, seed)
    both = np.concatenate([a.features[order], b.features[order]], axis=1)
    d = a.features.shape[1]
    jackknifed = block_jackknife(
        [both], lambda rows: frechet_distance(rows[:, :d], rows[:, d:]), min(PAIR_BLOCKS, len(both))
    )
    return _moved(jackknifed, frechet_distance(a.features, b.features))
