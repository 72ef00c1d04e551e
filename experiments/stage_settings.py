"""Settings that several stages hash alike: whose conditions, which annotations, which extractors, which reference."""

from collections.abc import Mapping
from typing import Any

from experiments import custom, published
from experiments.conditions import DataFacts, annotations_read
from ldm.data.contract import Annotation

Config = Mapping[str, Any]

FROM_FIRST_STAGE_ON = ("first_stage", "latents", "diffusion", "samples", "evaluation")
"""The values of `until=` that ask for measurements of a first stage."""

FROM_LATENTS_ON = FROM_FIRST_STAGE_ON[1:]
"""Those that ask for measurements of a latent space which need no more than the latents."""

FROM_DIFFUSION_ON = FROM_FIRST_STAGE_ON[2:]
"""Those that ask for measurements of a diffusion model."""


def annotations(config: Config, known: Mapping[str, Annotation]) -> dict[str, Any]:
    """The content of the annotations that the conditions read, where they read any."""
    read = annotations_read(config)
    return {"annotations": {kind: known[kind].fingerprint for kind in read}} if read else {}


def heldout(config: Config, facts: DataFacts) -> dict[str, Any]:
    """The held-out images, with the annotations that the conditions read."""
    return {"data": facts.heldout_fingerprint, **annotations(config, facts.heldout_annotations)}


def sample_conditions(config: Config, facts: DataFacts) -> dict[str, Any]:
    """Whose conditions samples are given, where these are not the training images, which the parents name already."""
    if config["samples"]["conditions"] == "train":
        return {}
    return {"conditions": {"split": "heldout", **heldout(config, facts)}}


def extractor(config: Config) -> dict[str, Any]:
    """The extractor of the metrics."""
    metrics = config["metrics"]
    own = custom.settings_in(metrics) if custom.is_custom(metrics) else {}
    return {**_extractor(metrics["extractor"], metrics["weights"]), **own}


def other_extractors(config: Config) -> dict[str, dict[str, Any]]:
    """The extractors of `metrics.also` by name: they see the samples in the same pass, and nothing else."""
    asked = config["metrics"]["also"]
    return {name: _extractor(name, None if given is True else given) for name, given in asked.items() if given}


def _extractor(name: str, weights: str | None) -> dict[str, Any]:
    # Whatever trained and sampled, features are computed in float32: in bf16 distances differ (490 instead of 501 in
    # one trial), and a number must not depend on which machine had fast bf16.
    return {"name": name, "weights": weights, "precision": "fp32"}


def reference(config: Config, facts: DataFacts) -> dict[str, Any]:
    """Which images samples are compared with, and how many."""
    metrics = config["metrics"]
    return {
        # It stands in the protocol of all that is measured against these features, and of these stages' children.
        **({"allow_same_network": True} if metrics["allow_same_network"] else {}),
        **measured_images(config, facts),
        "reference": metrics["reference"],
    }


def judges_first_stage(config: Config) -> bool:
    """Whether the first stage is measured by itself: where a denoiser is given, only if no more is asked for."""
    return not published.is_given(config["denoiser"]) or config["until"] in FROM_FIRST_STAGE_ON[:2]


def measured_images(config: Config, facts: DataFacts) -> dict[str, Any]:
    """Both splits, and how many images of them are measured."""
    return {
        "train": facts.train_fingerprint,
        "heldout": facts.heldout_fingerprint,
        "n_samples": config["metrics"]["n_samples"],
        "seed": config["metrics"]["seed"],
    }
