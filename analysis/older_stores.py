"""Stores written before schema 2: what their sweeps do not say of stages, axes and settings, as it was then.

Nothing is added here: what is newer says it in its own records (`ldm.records.Sweep`).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ldm.records import Cell, Choice, StageShape, Sweep

DATA = ("data", "resolution", "scale")
REFERENCE = (*DATA, "extractor")
FIRST_STAGE = ("f", "regulariser", "channels", "ae_seed", "budget", "ae_weights", "ae_settings")
LATENTS = ("conditioning", "latent_scale", "schedule", "shift")
MODEL = (
    "conditioning",
    "task",
    "latent_scale",
    "schedule",
    "shift",
    "target",
    "weighting",
    "learning_rate_factor",
    "seed",
    "weights",
    "settings",
)
SAMPLES = (
    "sampler",
    "steps",
    "eta",
    "variance",
    "spacing",
    "final",
    "clip",
    "guidance_scale",
    "guidance_rule",
    "guidance_interval",
    "guidance_rescale",
    "height",
    "width",
    "tile",
    "sampler_seed",
)
ALL = REFERENCE + FIRST_STAGE + MODEL + SAMPLES
STAGES: Mapping[str, StageShape] = {
    "reference": StageShape(REFERENCE, (), is_result=False),
    "other_references": StageShape(REFERENCE, (), is_result=False),
    "first_stage": StageShape(REFERENCE + FIRST_STAGE, (), is_result=False),
    "reconstruction": StageShape(REFERENCE + FIRST_STAGE, ("reference", "first_stage"), is_result=True),
    "coding": StageShape(DATA + FIRST_STAGE, ("first_stage",), is_result=True),
    "latents": StageShape(REFERENCE + FIRST_STAGE, ("first_stage",), is_result=False),
    "predictors": StageShape(REFERENCE + FIRST_STAGE + LATENTS, ("reference", "latents"), is_result=True),
    "diffusion": StageShape(REFERENCE + FIRST_STAGE + MODEL, ("latents",), is_result=False),
    "progress": StageShape(REFERENCE + FIRST_STAGE + MODEL, ("reference", "diffusion"), is_result=True),
    "likelihood": StageShape(DATA + FIRST_STAGE + MODEL, ("diffusion",), is_result=True),
    "probe": StageShape(DATA, (), is_result=False),
    "tuning": StageShape(ALL, ("reference", "diffusion"), is_result=False),
    "samples": StageShape(ALL, ("diffusion", "probe", "tuning"), is_result=False),
    "evaluation": StageShape(ALL, ("reference", "other_references", "samples"), is_result=True),
    "training_set": StageShape(REFERENCE, (), is_result=False),
    "memorisation": StageShape(ALL, ("reference", "other_references", "samples", "training_set"), is_result=True),
}
CHOICES: Mapping[str, Mapping[str, Choice]] = {
    "regulariser": {
        "kl": Choice("KL"),
        "vq": Choice("VQ"),
        "identity": Choice("pixels"),
        "none": Choice("unregularised"),
    },
    "sampler": {"ddim": Choice("DDIM", ("eta",)), "ddpm": Choice("DDPM", ("variance",))},
}
NEWER_AXES: Mapping[str, Any] = {"learning_rate_factor": 1.0}
"""What sweeps stand at that were made before the axis existed."""

SEEDS = ("seed", "ae.seed", "sampler.seed")
MAKES_NO_NUMBER = r"(experiment|store|workers|until|device|hydra\b.*|tracker\b.*|sweep\b.*)$"


def completed(sweep: Sweep) -> Sweep:
    """The sweep, with what later ones say of their stages, cells and parts where it is older."""
    if not sweep.choices:
        sweep = dataclasses.replace(sweep, choices=CHOICES)
    if sweep.stages:
        return sweep
    return dataclasses.replace(sweep, stages=STAGES, cells=tuple(_completed(cell) for cell in sweep.cells))


def _completed(cell: Cell) -> Cell:
    pairs = (override.partition("=") for override in cell.overrides)
    given = {key: value for key, _, value in pairs if key not in SEEDS}
    settings = {key: value for key, value in given.items() if not re.match(MAKES_NO_NUMBER, key.lstrip("+"))}
    denoiser = "pretrained" if cell.axes.get("weights") else "unet"
    return dataclasses.replace(cell, axes={**NEWER_AXES, "denoiser": denoiser, **cell.axes}, settings=settings)
