"""What is refused before anything runs: settings that cannot work together (see `experiments.settings` for each)."""

import math
from collections.abc import Mapping
from typing import Any

from experiments import custom
from ldm.errors import UserError
from ldm.metrics.extractors import EXTRACTORS
from ldm.parts import look_up
from ldm.pretrained import lpips


def check_factor(f: Any, resolution: int) -> None:
    """Raises UserError for a factor that is no power of two, or does not divide the images' side."""
    if not isinstance(f, int) or f < 1 or f & (f - 1):
        raise UserError(f"ae.f={f} is not a power of two; use 1, 2, 4, 8, 16, 32 or 64")
    if f > resolution or resolution % f:
        largest = math.gcd(resolution, 2**30)
        raise UserError(
            f"images of {resolution} pixels a side and ae.f={f} do not fit; "
            f"use ae.f up to {largest}, or a data.resolution divisible by {f}"
        )


def check_extractors(config: Mapping[str, Any]) -> None:
    """Raises UserError for extractors and weights that the program could not measure with."""
    metrics, judge = config["metrics"], config["metrics"]["extractor"]
    is_own = custom.is_custom(metrics)
    if not is_own:
        look_up(EXTRACTORS, judge, "metrics.extractor")
    elif metrics["weights"] is not None:
        raise UserError(f"metrics.weights={metrics['weights']}: an extractor of your own reads its metrics.options")
    least, side = lpips.trunk("alex").smallest_side, config["data"]["resolution"]
    if metrics["lpips"] and side < least:
        raise UserError(f"metrics.lpips: LPIPS takes images of {least} px or more, these have {side} px: leave it out")
    also = metrics["also"]
    if not isinstance(also, Mapping):
        raise UserError(f"metrics.also={also} names no extractor: give metrics.also.clip=PATH, for example")
    for name, given in also.items():
        if not isinstance(given, bool | str):
            raise UserError(f"metrics.also.{name}={given} is neither true nor false nor the path of its weights")
    if also.get(judge):
        raise UserError(f"metrics.also.{judge}: {judge} is metrics.extractor, which measures anyway: leave it out")
    weights = () if is_own else (("weights", judge, metrics["weights"]),)
    for key, name, path in (*weights, *((f"also.{n}", n, p) for n, p in also.items())):
        if isinstance(path, str) and look_up(EXTRACTORS, name, "metrics.also").is_packaged:
            raise UserError(f"metrics.{key}={path}: {name} reads the weights of its package, so leave the path out")


def check_trained_with(
    config: Mapping[str, Any], trained_with: str, what: str = "the perceptual loss that trains the first stage"
) -> None:
    """Raises UserError where an extractor is the network that the first stage is trained with."""
    judge = config["metrics"]["extractor"]
    also = config["metrics"]["also"]
    # EfficientNet-Lite2 also measures the feature distance of reconstructions, whatever the extractor.
    # LPIPS is that of AlexNet.
    judges = {judge, "efficientnet_lite2", *(name for name, given in also.items() if given)}
    judges |= {"lpips_alex"} if config["metrics"]["lpips"] else set()
    if trained_with in judges and not config["metrics"]["allow_same_network"]:
        raise UserError(
            f"{trained_with}, {what}, would also be an extractor, and biased; "
            "choose another, or set metrics.allow_same_network=true, which marks the rows"
        )
