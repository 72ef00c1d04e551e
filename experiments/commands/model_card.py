"""The model card of an export: how to sample, and the data, budget, metrics and protocols of its records."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.conditions import DataFacts
from experiments.stage import Plan, Settings
from ldm.conditioning import ClassConditioning
from ldm.denoiser import DiT
from ldm.interop.export import TrainedModel
from ldm.records import StageRecord

MEASURED = ("reconstruction", "evaluation")
"""Stages whose rows stand in the card, where they are complete."""


def model_card(
    name: str, plan: Plan, facts: DataFacts, records: Mapping[str, StageRecord], model: TrainedModel, is_plain: bool
) -> str:
    """The card as Markdown, for a folder of that name; `is_plain` as in `ldm.interop.export`."""
    parts = (
        _head(plan),
        _use(name, plan, facts, model, is_plain),
        _data(plan, facts),
        _budget(records),
        _metrics(plan, records),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def sampled_instead(config: Settings, spacing: str) -> dict[str, str]:
    """The settings under which the exported pipeline samples, DDIM guided at every step, where the cell has others."""
    sampler, guidance = config["sampler"], config["guidance"]
    found: dict[str, tuple[Any, Any]] = {
        "sampler": (sampler["name"], "ddim"),
        "sampler.spacing": (sampler["spacing"], spacing),
        "sampler.clip": (sampler["clip"], "none"),
        "sampler.shift": (sampler.get("shift"), None),
    }
    if sampler["name"] == "ddim":
        found["sampler.eta"] = (sampler["eta"], 0.0)
    if guidance["scale"] != 1:
        # null would be the scale's
        found["guidance.interval"] = ([*map(float, guidance.get("interval") or (0, 1))], [0.0, 1.0])
        found["guidance.rescale"] = (guidance.get("rescale", 0.0), 0.0)
    if "milestone" in guidance:
        found["guidance.guide"] = ("milestone", "unconditional")
    return {
        key: "null" if has is None else f"{has}".replace(" ", "") for key, (own, has) in found.items() if own != has
    }


def _head(plan: Plan) -> Iterator[str]:
    axes = plan.axes
    yield from ("---", "library_name: diffusers", "pipeline_tag: unconditional-image-generation")
    yield from ("tags: [latent-diffusion]", "---", "")
    yield f"# Latent diffusion model (cell {plan.cell})"
    yield ""
    yield f"A latent diffusion model (Rombach et al. 2022) of the data set {axes['data']} at {axes['resolution']} px."
    yield f"First stage: {axes['regulariser']}, f = {axes['f']}, {axes['channels']} latent channels. Weights of the"
    yield "denoiser are the moving average (EMA) over its training."


def _use(name: str, plan: Plan, facts: DataFacts, model: TrainedModel, is_plain: bool) -> Iterator[str]:
    yield from ("", "## How to sample", "```python")
    if is_plain:
        yield "from diffusers import LDMPipeline"
        yield f'pipeline = LDMPipeline.from_pretrained("{name}")'
    else:
        yield "from diffusers import DiffusionPipeline"
        yield "# trust_remote_code: diffusers has no class for this model, so the folder's own Python files are run"
        yield f'pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)'
    is_guided = False
    if isinstance(model.conditioning, ClassConditioning):
        is_guided = model.conditioning.embedding.num_embeddings > model.conditioning.classes
        guidance = "guidance_scale=1.5, " if is_guided else ""
        yield f"images = pipeline(class_labels=[0, 0, 0, 0], {guidance}num_inference_steps=50).images"
    else:
        yield "images = pipeline(batch_size=4, num_inference_steps=50).images"
    yield "```"
    yield "The scheduler visits the noise levels of this program's DDIM where the number of steps divides 1,000."
    if instead := sampled_instead(plan.config, model.spacing):
        yield "The samples measured below were drawn otherwise; the pipeline's are those of this program under"
        yield f"`{' '.join(f'{key}={value}' for key, value in instead.items())}`."
    if isinstance(model.conditioning, ClassConditioning):
        if isinstance(model.network, DiT):
            yield "The transformer embeds classes itself: they are its `class_labels`."
        else:
            yield "A class is one token for cross-attention: row `label` of the tensor in `class_embedding/`,"
            yield "(N, 1, dim), is `encoder_hidden_states` of the UNet."
        if is_guided:
            yield f"Row {model.conditioning.classes} means no class; guidance is uncond + s (cond - uncond)."
        shown = ", ".join(f"{number} {label}" for number, label in enumerate(facts.classes))
        yield f"Classes: {shown}."


def _data(plan: Plan, facts: DataFacts) -> Iterator[str]:
    yield from ("", "## Data")
    yield f"{plan.axes['data']}, {plan.axes['resolution']} px: {facts.train_images:,} training images and"
    content = f"{facts.train_fingerprint[:16]} and {facts.heldout_fingerprint[:16]}"
    yield f"{facts.heldout_images:,} held out (fingerprints {content})."
    yield "The licence of the data is that of its source; this card grants none."


def _budget(records: Mapping[str, StageRecord]) -> Iterator[str]:
    yield from ("", "## Budget", "| stage | identity | images seen | batch | learning rate | seed | seconds | FLOPs |")
    yield "|---|---|---|---|---|---|---|---|"
    for name in ("first_stage", "diffusion"):
        record = records[name]
        training = record.config.get("training", {})
        rate = record.facts.get("learning_rate", training.get("learning_rate", "-"))  # as found, where it was
        yield (
            f"| {name} | {record.identity} | {record.facts.get('images_seen', 0):,} | {training.get('batch', '-')} | "
            f"{rate} | {record.config.get('seed', 0)} | {record.cost.seconds:,.0f} | "
            f"{record.cost.flops:.3g} |"
        )
    environment = records["diffusion"].environment
    versions = ", ".join(f"{key} {environment[key]}" for key in ("program", "torch", "processor") if key in environment)
    yield from ("", f"Made with {versions}.", "", "Settings of the stages:", "```json")
    yield json.dumps({name: records[name].config for name in ("first_stage", "latents", "diffusion")}, indent=1)
    yield "```"


def _metrics(plan: Plan, records: Mapping[str, StageRecord]) -> Iterator[str]:
    yield from ("", "## Metrics")
    measured = {name: records[name] for name in MEASURED if name in records and records[name].rows}
    for name in MEASURED:
        if name not in measured:
            yield f"The stage {name} of this cell was not run when this was written."
    if not measured:
        return
    axes = plan.axes
    yield f"Of samples (evaluation): {axes['sampler']}, {axes['steps']} steps, guidance scale {axes['guidance_scale']}."
    yield from ("", "| stage | metric | value | 95 % interval | n | protocol |", "|---|---|---|---|---|---|")
    for name, record in measured.items():
        for row in record.rows:
            interval = "" if row.ci_low is None else f"{row.ci_low:.5g} to {row.ci_high:.5g}"
            yield f"| {name} | {row.metric} | {row.value:.6g} | {interval} | {row.n:,} | {row.protocol} |"
    protocols = {key: value for record in measured.values() for key, value in record.protocols.items()}
    yield from (
        "",
        "Protocols, by which alone values may be compared:",
        "```json",
        json.dumps(protocols, indent=1),
        "```",
    )
