"""Distances between the distributions of generated and real images, through torch-fidelity's own functions.

The names FID, KID and IS are said of the standard Inception weights alone; under another extractor the same formulas
are called `fd_`, `kd_` and `is_` with the extractor's name behind.

Before anything is computed the images are put into an order that depends on their features and the seed alone, so that
the order in which they arrived (workers, batches) changes no value.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ldm.metrics.features import Features
from ldm.metrics.frechet import frechet_distance
from ldm.metrics.intervals import Interval, Spread, block_sizes, combine, jackknife_spread, student_interval
from ldm.metrics.values import MetricValue
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.records import LeftOut

Array = NDArray[np.float64]

NEIGHBOURHOOD: Final = 3
"""Precision and recall: radius of a ball is the distance to this neighbour (Kynkaanniemi et al. 2019)."""

MINIMUM: Final = {"fd": 16, "kd": 16, "is": 100, "precision": 20, "recall": 20}
"""Images a side below which a metric is left out. Precision and recall: five times the neighbours in a ball."""

KERNEL_SUBSET: Final = 1000
INCEPTION_SPLITS: Final = 10
SPLIT_MINIMUM: Final = 100
JACKKNIFE_BLOCKS: Final = 50

_INCEPTION_NAMES: Final = {"fd": "fid", "kd": "kid", "is": "is"}


def metric_name(kind: str, extractor_name: str) -> str:
    """The name of a row, e.g. ("fd", "efficientnet_lite2") -> "fd_efficientnet_lite2", ("fd", "inception") -> "fid"."""
    if extractor_name == "inception" and kind in _INCEPTION_NAMES:
        return _INCEPTION_NAMES[kind]
    return f"{kind}_{extractor_name}"


def canonical_order(features: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """A random order of the rows that is a function of their values and the seed, not of their present order."""
    ranked = np.argsort(features.astype(np.float64).sum(axis=1), kind="stable")
    return ranked[np.random.default_rng(seed).permutation(len(features))]


def _kernel_block_sums(a: Array, b: Array, sizes_a: NDArray[np.int64], sizes_b: NDArray[np.int64]) -> Array:
    """Sums of the cubic kernel (x . y / d + 1)^3 over pairs of blocks, (blocks of a, blocks of b)."""
    starts_a, starts_b = (np.cumsum(sizes) - sizes for sizes in (sizes_a, sizes_b))
    strips = (a[start : start + size] for start, size in zip(starts_a, sizes_a, strict=True))
    return np.stack([np.add.reduceat(((strip @ b.T / a.shape[1] + 1) ** 3).sum(axis=0), starts_b) for strip in strips])


def _within(a: Array, sizes: NDArray[np.int64]) -> Array:
    """Block sums of the kernel of a set with itself, without the pairs of an item with itself."""
    sums = _kernel_block_sums(a, a, sizes, sizes)
    alone = (np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3
    return sums - np.diag(np.add.reduceat(alone, np.cumsum(sizes) - sizes))


def kernel_distance(features_a: Array, features_b: Array, blocks: int = JACKKNIFE_BLOCKS) -> tuple[float, Spread]:
    """Unbiased squared maximum mean discrepancy of the cubic kernel on all images, with its jackknife spread.

    Equal to torch-fidelity's estimate with one subset of all images. Both sets may differ in size; each is varied alone
    by deleting one block of it, and the variances add. Kernel matrices are computed once, a strip at a time.
    Source: Binkowski et al. 2018, arXiv 1801.01401; Gretton et al. 2012, equation 3.
    """
    a, b = np.asarray(features_a, dtype=np.float64), np.asarray(features_b, dtype=np.float64)
    sizes_a, sizes_b = (block_sizes(len(x), min(blocks, len(x) // 2)) for x in (a, b))
    aa, bb, ab = _within(a, sizes_a), _within(b, sizes_b), _kernel_block_sums(a, b, sizes_a, sizes_b)
    mean_aa, mean_bb = aa.sum() / (len(a) * (len(a) - 1)), bb.sum() / (len(b) * (len(b) - 1))
    value = float(mean_aa + mean_bb - 2 * ab.sum() / (len(a) * len(b)))

    def spread(own: Array, sizes: NDArray[np.int64], other_mean: float, cross: Array, other_n: int) -> Spread:
        left = sizes.sum() - sizes
        own_left = own.sum() - 2 * own.sum(axis=1) + np.diag(own)
        cross_left = cross.sum() - cross.sum(axis=1)
        without = own_left / (left * (left - 1)) + other_mean - 2 * cross_left / (left * other_n)
        return jackknife_spread(value, without, sizes)

    return value, combine(spread(aa, sizes_a, mean_bb, ab, len(b)), spread(bb, sizes_b, mean_aa, ab.T, len(a)))


def kernel_subsets(n_a: int, n_b: int) -> tuple[int, int]:
    """Size and number of the random subsets of the kernel distance.

    The size is 1000 or all images of the smaller set. One subset where it is all of both sets, the standard 100 at the
    standard size, else 10.
    """
    size = min(n_a, n_b, KERNEL_SUBSET)
    if n_a == n_b == size:
        return size, 1
    return size, 100 if size == KERNEL_SUBSET else 10


def _double(features: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float64))


def _frechet(generated: Features, reference: Features, seed: int) -> dict[str, Interval | float]:
    # No interval: the bias exceeds the spread, so it needs a block jackknife of its own.
    return {"fd": frechet_distance(generated.features, reference.features)}


def _kernel(generated: Features, reference: Features, seed: int) -> dict[str, Interval | float]:
    """torch-fidelity's value; the interval's width comes from the jackknife of the estimate on all images."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size, subsets = kernel_subsets(len(generated), len(reference))
    a, b = _double(generated.features), _double(reference.features)
    value = kid_features_to_metric(
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
    )[KEY_METRIC_KID_MEAN]
    spread = kernel_distance(a.numpy(), b.numpy())[1]
    return {"kd": student_interval(value, spread.variance, spread.freedom)}


def _inception_score(generated: Features, reference: Features, seed: int) -> dict[str, Interval | float]:
    """Mean over splits of at least 100 images, at most 10 splits; the interval is that of the mean over splits."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    assert generated.logits is not None
    splits = min(INCEPTION_SPLITS, len(generated) // SPLIT_MINIMUM)
    # The canonical order is random already, so the splits need no shuffling of their own.
    score = isc_features_to_metric(_double(generated.logits), splits=splits, shuffle=False)
    mean, std = score[KEY_METRIC_ISC_MEAN], score[KEY_METRIC_ISC_STD]
    return {"is": mean if splits < 2 else student_interval(mean, std**2 / (splits - 1), splits - 1)}


def _precision_recall(generated: Features, reference: Features, seed: int) -> dict[str, Interval | float]:
    """Improved precision and recall; distances are held a strip at a time."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(
        _double(generated.features),
        _double(reference.features),
        prc_neighborhood=NEIGHBOURHOOD,
        prc_batch_size=500,
        save_cpu_ram=True,
        verbose=False,
    )
    return {kind: found[kind] for kind in ("precision", "recall")}


Measure = Callable[[Features, Features, int], dict[str, Interval | float]]

_MEASURES: Final[tuple[tuple[tuple[str, ...], Measure], ...]] = (
    (("fd",), _frechet),
    (("kd",), _kernel),
    (("is",), _inception_score),
    (("precision", "recall"), _precision_recall),
)


def _obstacle(kind: str, generated: Features, reference: Features) -> str | None:
    """Why a metric cannot be given, in one sentence, or None."""
    if kind == "is" and generated.logits is None:
        return "The extractor has no class logits, which the Inception-score formula needs."
    present = len(generated) if kind == "is" else min(len(generated), len(reference))
    if present < MINIMUM[kind]:
        return f"It needs at least {MINIMUM[kind]} images a side, here there are {present}."
    return None


def _value(metric: str, found: Interval | float, n: int) -> MetricValue:
    if isinstance(found, Interval):
        return MetricValue(metric, found.value, n, found.low, found.high)
    return MetricValue(metric, found, n)


def generation_metrics(
    generated: Features, reference: Features, extractor_name: str, seed: int
) -> tuple[list[MetricValue], list[LeftOut]]:
    """Frechet and kernel distance, Inception-score formula, precision and recall, and what was left out and why.

    `seed` fixes the order of the images, hence the splits, and the subsets of the kernel distance. n of a value is the
    number of generated images; intervals are at 95 %.
    """
    ensure_torchvision()
    generated = generated[canonical_order(generated.features, seed)]
    reference = reference[canonical_order(reference.features, seed)]
    values: list[MetricValue] = []
    left_out: list[LeftOut] = []
    for kinds, measure in _MEASURES:
        names = {kind: metric_name(kind, extractor_name) for kind in kinds}
        obstacle = _obstacle(kinds[0], generated, reference)
        if obstacle is not None:
            left_out += [LeftOut(name, obstacle) for name in names.values()]
            continue
        found = measure(generated, reference, seed)
        values += [_value(name, found[kind], len(generated)) for kind, name in names.items()]
    return values, left_out


def reconstruction_frechet(reconstructed: Features, original: Features, extractor_name: str) -> MetricValue | LeftOut:
    """The Frechet distance of reconstructions to their own images: `rfid`, or `rfd_` and the extractor's name."""
    metric = f"r{metric_name('fd', extractor_name)}"
    obstacle = _obstacle("fd", reconstructed, original)
    if obstacle is not None:
        return LeftOut(metric, obstacle)
    return MetricValue(metric, frechet_distance(reconstructed.features, original.features), len(reconstructed))
