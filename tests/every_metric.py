"""Every metric that ldm.metrics declares, as rows of any extractor name it: found by looking through its modules."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import ldm.metrics
from ldm.metrics import values
from ldm.metrics.distribution import KINDS, metric_of, reconstruction_frechet_of
from ldm.metrics.features import EXTRACTOR_TITLES
from ldm.metrics.inpainting import BANDS, inpainted
from ldm.metrics.reconstruction import PERCEPTUAL
from ldm.metrics.superres import of_superres
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES, Metric, Variant, varied


def _declared(value: Any) -> Iterator[Metric]:
    """The metrics among what a module holds, in tables too."""
    if isinstance(value, Metric):
        yield value
    elif isinstance(value, Mapping):
        yield from (found for item in value.values() for found in _declared(item))
    elif isinstance(value, tuple):
        yield from (found for item in value for found in _declared(item))
    elif isinstance(getattr(value, "metric", None), Metric):
        yield value.metric


@functools.cache
def every_metric() -> dict[str, Metric]:
    """By name; kinds of distances for each extractor, and the variants of all."""
    modules = [
        importlib.import_module(f"ldm.metrics.{found.name}") for found in pkgutil.iter_modules(ldm.metrics.__path__)
    ]
    plain = [metric for module in modules for value in vars(module).values() for metric in _declared(value)]
    for extractor in EXTRACTOR_TITLES:
        plain += [metric_of(kind, extractor) for kind in KINDS.values()] + [reconstruction_frechet_of(extractor)]
    compared = [*PERCEPTUAL.values(), *(metric_of(KINDS["fd"], extractor) for extractor in EXTRACTOR_TITLES)]
    plain += [inpainted(metric, band) for metric in compared for band in (None, *BANDS)]
    plain += [of_superres(metric) for metric in plain if metric.name in ("mse", "rmse255", "psnr", "ssim", *PERCEPTUAL)]
    variants = [(value,) for value in vars(values).values() if isinstance(value, Variant)]
    variants.append((OTHER_CONDITIONS, REAL_IMAGES))
    found = [*plain, *(varied(metric, *variant) for metric in plain for variant in variants)]
    return {metric.name: metric for metric in reversed(found)}
