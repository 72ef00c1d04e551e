"""What distinguishes cells in tables and figures: the axes by what they describe, and their values for a config."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from experiments import custom, published
from experiments.build import AUTO
from experiments.conditions import conditions_of, sample_size, task_of
from experiments.resolve import shift_name
from ldm.first_stage import FIRST_STAGES
from ldm.first_stage.shapings import SHAPINGS, axis_values, prefix_of
from ldm.parts import options_of
from ldm.records import Choice
from ldm.samplers import SAMPLERS, sampler_axes

OF_DATA = ("data", "resolution", "scale")
OF_REFERENCE = (*OF_DATA, "extractor")
SHAPING = tuple(part.name for part in SHAPINGS)
OF_FIRST_STAGE = ("f", "regulariser", "channels", *SHAPING, "ae_seed", "budget", "ae_weights", "ae_settings")
OF_MODEL = (
    "conditioning",
    "task",
    "latent_scale",
    "schedule",
    "shift",
    "target",
    "weighting",
    "times",
    "representation",
    "denoiser",
    "learning_rate_factor",
    "learning_rate_rule",
    "seed",
    "weights",
    "settings",
)
OF_LATENTS = ("conditioning", "latent_scale", "schedule", "shift")
"""Of a model, what its latents, its noise levels and its budget decide."""

SAMPLER_OPTIONS = sampler_axes()
OF_SAMPLES = (
    "ema_length",
    "sampler",
    *SAMPLER_OPTIONS,
    "sampler_shift",
    "guidance_scale",
    "guidance_rule",
    "guidance_interval",
    "guidance_rescale",
    "guidance_guide",
    "height",
    "width",
    "tile",
    "sampler_seed",
)
ALL = OF_REFERENCE + OF_FIRST_STAGE + OF_MODEL + OF_SAMPLES

GROUPS = (
    "ae",
    "data",
    "scale",
    "conditioning",
    "diffusion",
    "denoiser",
    "sampler",
    "latents",
    "experiment",
    "guidance",
)
KEYS = (
    *(f"ae.{key}" for key in ("f", "channels", "channels_used", "seed", "path")),
    *(f"{prefix_of(part)}.{key}" for part in SHAPINGS for key in options_of(part)),
    *("data.resolution", "trainer.budget", "trainer.learning_rate_factor", "trainer.ema_length", "latents.scale"),
    *(f"diffusion.{key}" for key in ("schedule", "shift", "target", "weighting")),
    *(f"diffusion.{key}" for key in ("times", "times_mean", "times_std", "times_unbiased")),
    "trainer.representation.teacher",
    *("denoiser.path", "denoiser.weights", "metrics.extractor"),
    *(f"sampler.{key}" for key in (*SAMPLER_OPTIONS, "shift", "nfe", "seed")),
    *(f"guidance.{key}" for key in ("scale", "interval", "rescale", "guide", "milestone")),
    *(f"samples.{key}" for key in ("height", "width", "tile")),
    "seed",
)
"""Settings that stand in an axis of their own, whether chosen as a group or given as a value."""

MAKES_NO_NUMBER = r"(store|workers|report|until|device|metrics\.extra|shortlist\b.*|hydra\b.*|tracker\b.*|sweep\b.*)$"


def cell_axes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the axes for a resolved config, but for the two that name other settings."""
    return {
        "data": config["data"]["name"],
        "resolution": config["data"]["resolution"],
        "scale": config["scale"]["name"],
        "budget": config["trainer"]["budget"],
        "f": config["ae"]["f"],
        "regulariser": config["ae"]["regulariser"],
        "channels": config["ae"]["channels"],
        **axis_values(config["ae"]),
        "conditioning": "+".join(conditions_of(config)) or "none",
        "task": task_of(config),
        **{key: config["diffusion"].get(key) for key in ("schedule", "target", "weighting")},
        "denoiser": config["denoiser"]["name"],
        "ema_length": config["trainer"].get("ema_length"),
        **_rate_axes(config["trainer"]["learning_rate_factor"]),
        "shift": shift_name(config["diffusion"]["shift"], config["ae"], (config["data"]["resolution"],) * 2),
        "times": _times(config["diffusion"]),
        "representation": config["trainer"].get("representation", {}).get("teacher"),
        "sampler": config["sampler"]["name"],
        "sampler_shift": _sampler_shift(config),
        **{key: config["sampler"].get(key) for key in SAMPLER_OPTIONS},
        "guidance_scale": config["guidance"]["scale"],
        **_guidance_axes(config["guidance"]),
        "latent_scale": config["latents"]["scale"],
        "height": sample_size(config)[0],
        "width": sample_size(config)[1],
        "tile": config["samples"]["tile"],
        "seed": config["seed"],
        "ae_seed": config["ae"]["seed"],
        "sampler_seed": config["sampler"]["seed"],
        "extractor": config["metrics"]["extractor"],
        **published.axes(config),
        **custom.axes(config),
    }


def choices() -> dict[str, dict[str, Choice]]:
    """What tables and figures call the parts of this program, by axis and value, with the axes that are their own."""
    return {
        "regulariser": {name: Choice(part.labels.title) for name, part in FIRST_STAGES.items()},
        "sampler": {name: Choice(part.title, tuple(options_of(part))) for name, part in SAMPLERS.items()},
    }


def _times(diffusion: Mapping[str, Any]) -> str | None:
    """The density of the noise levels that a training draws, where it is not uniform."""
    if "times" not in diffusion:
        return None
    spread = f"logit-normal({diffusion['times_mean']:g}, {diffusion['times_std']:g})"
    return spread + (" unbiased" if diffusion["times_unbiased"] else "")


def _sampler_shift(config: Mapping[str, Any]) -> str | None:
    """The shift of the noise levels that a sampler visits, where it is not the training's."""
    shift = config["sampler"].get("shift")
    return None if shift is None else shift_name(shift, config["ae"], sample_size(config))


def _rate_axes(factor: float | str) -> dict[str, Any]:
    """The factor of the learning rate that was given, or that it is found: what is found is no choice of the user's."""
    if factor == AUTO:
        return {"learning_rate_factor": None, "learning_rate_rule": "tuned"}
    return {"learning_rate_factor": factor, "learning_rate_rule": None}


def _guidance_axes(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """How guidance acts; nothing where there is none."""
    if guidance["scale"] == 1:
        return {"guidance_interval": None, "guidance_rescale": None, "guidance_guide": None}
    low, high = guidance["interval"] or (0, 1)
    share = guidance.get("milestone")
    return {
        "guidance_interval": f"{low:g} to {high:g}",
        "guidance_rescale": guidance["rescale"],
        "guidance_guide": None if share is None else f"milestone at {share:g}",
    }


def other_settings(overrides: Iterable[str]) -> dict[str, str]:
    """The overrides by key that no axis shows and that can change a number: any key may be swept."""
    given: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+")
        if key not in (*GROUPS, *KEYS) and not re.match(MAKES_NO_NUMBER, key):
            given[key] = value
    return given
