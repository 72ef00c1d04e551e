"""Trains a first stage; the identity has nothing to train, and one that was given is only looked at."""

import dataclasses
import math

import torch

from experiments import axes, build, labels
from experiments.conditions import DataFacts
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts, training_bytes, training_estimate
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.training import run_training
from ldm.data.contract import ImageCache
from ldm.ranks import ALONE, Ranks, these
from ldm.training.checkpoint import save_weights
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining, train_first_stage
from ldm.training.flops import count_flops
from ldm.training.precision import autocast_dtype


def run(job: Job) -> Outcome:
    """Writes weights.safetensors, checkpoints on the way; nothing where nothing is trained."""
    config = job.settings
    shape = {"f": config["f"], "channels": config["channels"], "regulariser": config["regulariser"]}
    if config["f"] == 1:
        return Outcome(facts={**shape, "parameters": {"encoder": 0, "decoder": 0}}, cost=Meter(job.device).cost(0))
    if not build.is_trained(config):
        model = build.first_stage(config, job.resolution)
        facts = {**shape, "given": True, "parameters": build.first_stage_parameters(model, None)}
        return Outcome(facts=facts, cost=Meter(job.device).cost(0))
    images = job.images("train")
    ranks = these()
    # A step before the discriminator takes part and one after cost differently; both are counted as they run.
    plain, adversarial = (
        ranks.sum_number(_flops_of_step(training_of(config, images, job.device, ranks), last), job.device)
        for last in (False, True)
    )
    training = training_of(config, images, job.device, ranks)
    with reporting(job.label, training.settings.steps * training.settings.batch) as reporter:
        steps = train_first_stage(training)
        meter = run_training(job, training, steps, reporter, lambda step: None, ranks)
    if not ranks.is_first:
        return Outcome()
    save_weights(job.folder / "weights.safetensors", training.model.state_dict())
    total = training.settings.steps
    before = min(total, math.ceil(training.settings.adversarial_from * total)) if training.discriminator else total
    return Outcome(
        facts={
            **shape,
            "parameters": build.first_stage_parameters(training.model, training.discriminator),
            "images_seen": training.images_seen,
            "steps": training.step,
            "batch": training.settings.batch,
            "latent_side": images.resolution // config["f"],
        },
        cost=meter.cost(training.images_seen, before * plain + (total - before) * adversarial),
    )


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
    return FirstStageTraining(model, criterion, discriminator, images, settings, device, autocast, ranks)


def _flops_of_step(rehearsal: FirstStageTraining, last: bool) -> float:
    """FLOPs of an early or of the last step of a training that is thrown away, whatever weights it starts from."""
    rehearsal.settings = dataclasses.replace(rehearsal.settings, from_components=False)
    rehearsal.advance()  # the first step also starts the codebook, and makes the optimiser's state
    if last:
        rehearsal.step = rehearsal.settings.steps - 1
    return count_flops(rehearsal.advance)


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
    if not build.is_trained(settings):
        return None
    training, step = settings["training"], counts.first_stage.step
    parameters = sum(counts.first_stage.parameters.values())
    memory = training_bytes(parameters, step, training["batch"], settings["precision"], has_ema=False)
    return training_estimate(training, step.work if step else None, memory)


STAGE = Stage(
    name="first_stage",
    parents=(),
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
    divides=build.is_trained,
)
