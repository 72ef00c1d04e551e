"""Trains a first stage, or cuts it from one with more channels; the identity has nothing to train, and one that was
given is only looked at.
"""

import dataclasses
from collections import Counter
from collections.abc import Hashable
from typing import Any

import torch

from experiments import axes, build, labels
from experiments.conditions import DataFacts
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts, training_bytes, training_estimate
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.training import run_training
from ldm.data.contract import ImageCache
from ldm.first_stage.contract import NestableFirstStage
from ldm.first_stage.shapings import shapings_of
from ldm.ranks import ALONE, Ranks, these
from ldm.training.checkpoint import load_weights, save_weights
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining, train_first_stage
from ldm.training.flops import count_flops
from ldm.training.precision import autocast_dtype


def run(job: Job) -> Outcome:
    """Trains or cuts and writes weights.safetensors; nothing where a first stage has none, or was given."""
    config = job.settings
    if config["f"] == 1:
        facts = {**_shape(config), "parameters": {"encoder": 0, "decoder": 0}}
        return Outcome(facts=facts, cost=Meter(job.device).cost(0))
    if not build.is_trained(config):
        model = build.first_stage(config, job.resolution)
        facts = {**_shape(config), "given": True, "parameters": build.first_stage_parameters(model, None)}
        return Outcome(facts=facts, cost=Meter(job.device).cost(0))
    return _cut(job) if build.NESTED in config else train(job)


def _shape(ae: Settings) -> dict[str, Any]:
    return {key: ae[key] for key in ("f", "channels", "regulariser")}


def train(job: Job) -> Outcome:
    """Trains the first stage of a job's settings; writes weights.safetensors, checkpoints on the way."""
    config = job.settings
    images = job.images("train")
    ranks = these()
    rehearsal = training_of(config, images, job.device, ranks)
    flops, recomputes = ranks.sum_number(flops_of_training(rehearsal), job.device), rehearsal.recomputes
    del rehearsal  # its networks are gone before those of the training take their place in memory
    training = training_of(config, images, job.device, ranks)
    if recomputes:
        training.recompute()
    with reporting(job.label, training.settings.steps * training.settings.batch) as reporter:
        steps = train_first_stage(training)
        meter = run_training(job, training, steps, reporter, lambda step: None, ranks)
    if not ranks.is_first:
        return Outcome()
    save_weights(job.folder / "weights.safetensors", training.model.state_dict())
    return Outcome(
        facts={
            **_shape(config),
            "parameters": build.first_stage_parameters(training.model, training.discriminator),
            "images_seen": training.images_seen,
            "steps": training.step,
            "batch": training.settings.batch,
            **({"recomputes": True} if training.recomputes else {}),
            "latent_side": images.resolution // config["f"],
        },
        cost=meter.cost(training.images_seen, flops),
    )


def _cut(job: Job) -> Outcome:
    """The first channels of what was trained with more; what it took stands in the record of that training."""
    parent, meter = job.parent("nested"), Meter(job.device)
    whole = build.first_stage(parent.settings, job.resolution)
    assert isinstance(whole, NestableFirstStage)
    whole.load_state_dict(load_weights(parent.file("weights.safetensors")))
    own = build.first_stage(job.settings, job.resolution)
    own.load_state_dict(whole.cut(own.channels))
    save_weights(job.folder / "weights.safetensors", own.state_dict())
    facts = {**parent.record.facts, **_shape(job.settings), "parameters": build.first_stage_parameters(own, None)}
    return Outcome(facts=facts, cost=meter.cost(0))


def training_of(ae: Settings, images: ImageCache, device: str, ranks: Ranks = ALONE) -> FirstStageTraining:
    """The training of a first stage of a group `ae` that was filled in, at its beginning."""
    loss, training = ae["loss"], ae["training"]
    model = build.first_stage(ae, images.resolution).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = autocast_dtype(ae["precision"])
    perceptual = build.perceptual_loss(loss)
    if isinstance(perceptual, torch.nn.Module):
        perceptual.to(device, autocast or torch.float32)
    discriminator = build.discriminator(ae, images.resolution)
    if discriminator is not None:
        discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = FirstStageSettings(
        seed=ae["seed"],
        images=training["images"],
        batch=training["batch"],
        learning_rate=training["learning_rate"],
        warm_up=training["warm_up"],
        decay=training["decay"],
        gradient_clip=training["gradient_clip"],
        adversarial_from=loss["discriminator"]["start"],
        matrix_rate=training.get("matrix_learning_rate", 0),
        from_components=ae.get("architecture", {}).get("initialisation") == "components",
    )
    criterion = build.first_stage_loss(ae, perceptual)
    smallest = build.smallest_latent(ae, images.resolution)
    alignment = build.alignment(ae, model.channels)
    if alignment is not None:
        alignment.place(device, autocast or torch.float32)
    return FirstStageTraining(
        model,
        criterion,
        discriminator,
        images,
        settings,
        device,
        autocast,
        ranks,
        shapings=shapings_of(ae),
        smallest=smallest,
        alignment=alignment,
    )


def flops_of_training(rehearsal: FirstStageTraining) -> float:
    """FLOPs of a training, each kind of step counted as it runs, in a rehearsal that is thrown away.

    Kinds are those before the discriminator takes part and after, and the sides of latents that are decoded. Whatever
    weights it starts from, they cost the same.
    """
    rehearsal.settings = dataclasses.replace(rehearsal.settings, from_components=False)
    kinds = [rehearsal.kind(step) for step in range(rehearsal.settings.steps)]
    last: dict[Hashable, int] = {kind: step for step, kind in enumerate(kinds)}
    rehearsal.advance()  # the first step also starts the codebook, and makes the optimiser's state
    flops = 0.0
    for kind, count in Counter(kinds).items():
        flops += count * _flops_of_step(rehearsal, last[kind])
    return flops


def _flops_of_step(rehearsal: FirstStageTraining, step: int) -> float:
    """Of the step of this number, counted from 0; counted anew where memory did not suffice for it at first."""
    rehearsal.step, before = step, rehearsal.recomputes
    flops = count_flops(rehearsal.advance)
    return flops if rehearsal.recomputes == before else _flops_of_step(rehearsal, step)


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The group `ae`, and the images where it is trained on them."""
    ae, architecture = config["ae"], config["ae"].get("architecture", {})
    # The sizes that the name of an architecture stands for are filled in: a name changes no numbers.
    sizes = {key: value for key, value in architecture.items() if key != "name"}
    own = {**ae, "architecture": sizes} if sizes else dict(ae)
    if not build.is_trained(ae):  # at f = 1 all data sets share one identity function
        return own
    return {
        **own,
        "data": facts.train_fingerprint,
        "classes": list(facts.classes),
        "resolution": config["data"]["resolution"],
        "precision": config["precision"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """Of the training, where there is one."""
    return training_work(settings, counts) if build.is_trained(settings) and build.NESTED not in settings else None


def training_work(settings: Settings, counts: Counts) -> Estimate:
    """Of a training with these settings."""
    training, step = settings["training"], counts.first_stage.step
    return training_estimate(training, step.work if step else None, training_bytes(step, settings["precision"]))


def divides(settings: Settings) -> bool:
    """Its training is, where it has one of its own."""
    return build.is_trained(settings) and build.NESTED not in settings


STAGE = Stage(
    name="first_stage",
    parents=("nested",),
    version=1,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE,
    until=(),
    settings=settings,
    run=run,
    label=labels.first_stage,
    defaults={
        "codebook.legacy": False,
        "architecture.dropout": 0.0,
        "architecture.mid_attention": True,
        "architecture.initialisation": "reference",
        "architecture.family": "reference",
        "loss.discriminator.norm": "group",
        "training.matrix_learning_rate": 0,
    },
    estimate=estimate,
    divides=divides,
)
