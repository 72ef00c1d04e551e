"""What stages read of the artifacts that they hang on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments import build
from experiments.stage import Job
from ldm.data.contract import ImageCache
from ldm.data.fields import Fields
from ldm.data.latents import CachedLatents, open_packed
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.metrics.features import Features
from ldm.probes import Probe
from ldm.training.checkpoint import load_weights


def first_stage_of(job: Job) -> FirstStage:
    """The first stage that a job hangs on, trained and ready for use."""
    parent = job.parent("first_stage")
    model = build.first_stage(parent.settings, parent.settings.get("resolution", 1))
    if build.is_trained(parent.settings):
        model.load_state_dict(load_weights(parent.file("weights.safetensors")))
    model.eval().requires_grad_(False)
    return model.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def final_weights(job: Job) -> Path:
    """The weights of a job's denoiser and conditioning: as averaged in training, or over a length chosen afterwards."""
    maker = "averaging" if "averaging" in job.parents else "diffusion"
    return job.parent(maker).file("weights.safetensors")


def latent_facts(job: Job) -> Mapping[str, Any]:
    """Shape, scale and range of the latents that a job hangs on: measured, or as a given denoiser was trained on."""
    if "latents" in job.parents:
        return job.parent("latents").record.facts
    known: Mapping[str, Any] = job.parent("diffusion").record.facts["latents"]
    return known


def latent_scale_of(job: Job) -> LatentScale:
    """The latent scale that the latents stage measured, or that of a given denoiser."""
    facts = latent_facts(job)
    return LatentScale(*(torch.tensor(facts[name], dtype=torch.float64) for name in ("shift", "std")))


def cached_latents(job: Job, images: ImageCache, first_stage: FirstStage, fields: Fields) -> CachedLatents:
    """The latents of the training images, which are encoded anew where the latents stage kept none."""
    latents = job.parent("latents")
    packed = open_packed(latents.file("latents.npy")) if latents.record.facts["cached"] else None
    return CachedLatents(packed, images, first_stage, latent_scale_of(job), job.device, fields)


def settled_guidance(job: Job) -> dict[str, Any]:
    """The guidance settings of a job's sample set, with the scale that its tuning found where it was to be found."""
    given: dict[str, Any] = job.settings["guidance"]
    return (
        {**given, "scale": job.parent("tuning").record.facts["scale"]} if given["scale"] == build.AUTO else dict(given)
    )


def settled_rates(job: Job) -> Mapping[str, Any]:
    """The learning rates of a job's training, those that were found for it where they were to be found."""
    return job.parent("learning_rate").record.facts if "learning_rate" in job.parents else job.settings["training"]


def trained_probe(job: Job, kind: str) -> Probe:
    """The probe of a kind that a job hangs on, ready for use."""
    parent = job.parent("probe")
    trained_on = job.images("train", parent.settings.get("annotations", ()))
    found = build.probe(kind, parent.settings["probes"][kind], trained_on, parent.settings["seed"], job.device)
    weights = load_weights(parent.file("weights.safetensors"))
    mine = {name.removeprefix(f"{kind}."): value for name, value in weights.items() if name.startswith(f"{kind}.")}
    found.network.load_state_dict(mine)
    return found


def reference_features(job: Job, extractor: str | None = None) -> Features:
    """The features that all samples of this plan are compared with, of its extractor or another one."""
    if extractor is None:
        return Features.load(job.parent("reference").file("reference.npz"))
    return Features.load(job.parent("other_references").file(f"{extractor}.npz"))


def reference_facts(job: Job, extractor: str | None = None) -> Mapping[str, Any]:
    """What protocols say of the reference images and of the extractor that saw them, the plan's own or another."""
    if extractor is None:
        return job.parent("reference").record.facts
    facts: Mapping[str, Any] = job.parent("other_references").record.facts["judges"][extractor]
    return facts
