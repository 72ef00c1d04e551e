"""What is refused before anything runs: settings that are none of their choices, or that cannot work together."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from experiments import custom
from experiments.conditions import condition_choices
from ldm.diffusion.guidance import CLIPS
from ldm.diffusion.schedule import SCHEDULES, STEPS
from ldm.diffusion.target import TARGETS
from ldm.diffusion.weighting import WEIGHTINGS
from ldm.errors import UserError, nearest
from ldm.first_stage.initialisation import INITIALISATIONS
from ldm.metrics.extractors import EXTRACTORS
from ldm.parts import look_up
from ldm.pretrained import lpips
from ldm.samplers.spacing import FINALS, SPACINGS

CHOICES: Mapping[str, Collection[Any]] = {
    "latents.scale": ("std_scalar", "per_channel", "none"),
    "samples.keep": ("features", "images"),
    "metrics.reference": ("heldout", "train"),
    "diffusion.schedule": SCHEDULES,
    "diffusion.target": TARGETS,
    "diffusion.weighting": WEIGHTINGS,
    "trainer.decay": ("constant", "cosine"),
    "ae.training.decay": ("constant", "cosine"),
    "ae.loss.discriminator.norm": ("group", "batch"),
    "sampler.spacing": SPACINGS,
    "sampler.final": FINALS,
    "ae.architecture.initialisation": INITIALISATIONS,
    "sampler.clip": CLIPS,
    "metrics.likelihood_clip": CLIPS,
    "samples.conditions": ("train", "heldout"),
}
"""Settings that have a few names to choose from, checked when a run is planned; conditions name their own."""

NUMBERS: Mapping[str, tuple[str, int, float]] = {
    "metrics.n_samples": ("number of images", 2, math.inf),
    "metrics.progress_samples": ("number of images", 2, math.inf),
    "metrics.progress_steps": ("number of steps", 1, STEPS),
    "metrics.seed": ("seed", 0, 2**63 - 1),
    "metrics.likelihood_samples": ("number of images", 2, math.inf),
    "metrics.likelihood_levels": ("number of noise levels", 2, STEPS),
    "samples.batch": ("number of images", 1, math.inf),
    **dict.fromkeys(("seed", "ae.seed", "sampler.seed"), ("seed", 0, 2**63 - 1)),
}
"""Whole numbers: what they are, the least and the most. Checked when a run is planned."""

SWITCHES = (
    *(f"metrics.{name}" for name in ("coding", "predictors", "likelihood", "memorisation", "allow_same_network")),
    "samples.paste_known",
)
"""Settings that are true or false, and nothing that merely looks like it."""


def check_factor(f: Any, resolution: int) -> None:
    """Raises UserError for a factor that is no power of two, or does not divide the images' side."""
    if not isinstance(f, int) or f < 1 or f & (f - 1):
        raise UserError(f"ae.f={f} is not a power of two; use 1, 2, 4, 8, 16 or 32")
    if f > resolution or resolution % f:
        largest = math.gcd(resolution, 2**30)
        raise UserError(
            f"ae.f={f} does not fit images of {resolution} pixels a side; "
            f"use ae.f up to {largest}, or a data.resolution divisible by {f}"
        )


def _value_at(config: Mapping[str, Any], key: str, absent: Any = None) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return absent
        value = value[part]
    return value


def check_choices(config: Mapping[str, Any]) -> None:
    """Raises UserError for a setting that is none of its choices."""
    for key, choices in {**CHOICES, **condition_choices()}.items():
        value = _value_at(config, key)
        if value is not None and value not in choices:
            names = [str(choice) for choice in choices]
            raise UserError(f"{key}={value} is none of {', '.join(names)}{nearest(str(value), names)}")


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raises UserError for a number of images, steps or levels with which nothing could be measured."""
    for key, (what, least, most) in NUMBERS.items():
        if key.startswith("metrics.likelihood") and not config["metrics"]["likelihood"]:
            continue
        given = _value_at(config, key, absent=least)
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            upper = f" to {most}" if most <= STEPS else " or more"
            raise UserError(f"{key}={given} is no {what}: use {least}{upper}")


def check_switches(config: Mapping[str, Any]) -> None:
    """Raises UserError for a switch that is neither on nor off; a word like `no` would count as on."""
    for key in SWITCHES:
        if not isinstance(given := _value_at(config, key), bool):
            raise UserError(f"{key}={given} is neither true nor false")


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


def check_trained_with(config: Mapping[str, Any]) -> None:
    """Raises UserError where an extractor is the network that the first stage is trained with."""
    judge, trained_with = config["metrics"]["extractor"], config["ae"]["loss"]["perceptual"]
    also = config["metrics"]["also"]
    # EfficientNet-Lite2 also measures the feature distance of reconstructions, whatever the extractor.
    # LPIPS is that of AlexNet.
    judges = {judge, "efficientnet_lite2", *(name for name, given in also.items() if given)}
    judges |= {"lpips_alex"} if config["metrics"]["lpips"] else set()
    if trained_with in judges and not config["metrics"]["allow_same_network"]:
        raise UserError(
            f"{trained_with}, the perceptual loss that trains the first stage, would also be an extractor, and biased; "
            "choose another, or set metrics.allow_same_network=true, which marks the rows"
        )


def is_number(given: Any, above: float = 0, or_equal: bool = False) -> bool:
    """Whether it is a finite number above the bound, or equal to it."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not given < math.inf:
        return False
    return given > above or (or_equal and given == above)
