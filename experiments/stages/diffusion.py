"""Trains the denoising model on cached latents; one that was given is only looked at."""

import dataclasses

from experiments import build
from experiments.conditions import annotations_read
from experiments.console import reporting
from experiments.cost import Meter
from experiments.published import is_given, latent_scale
from experiments.runner import Job, Outcome, label
from experiments.stages.training import run_training
from ldm.conditioning import Conditioning
from ldm.data.latents import CachedLatents, open_packed
from ldm.diffusion import DenoisingModel
from ldm.training.checkpoint import save_weights
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, train
from ldm.training.flops import count_flops


def run(job: Job) -> Outcome:
    """Writes weights.safetensors (EMA), the milestones on the way, and checkpoints to resume from.

    Nothing where the denoiser was given.
    """
    config, full = job.config, job.plan.config
    if is_given(config["denoiser"]):
        return _given(job)
    images = build.images(full, "train", job.store, annotations_read(full))
    latents = job.parent_record("latents").facts
    packed = open_packed(job.parent_folder("latents") / "latents.npy") if latents["cached"] else None
    first_stage, scale = build.first_stage_of(job, images.resolution), build.latent_scale_of(job)
    fields = build.fields(config["conditioning"], images, job.device)
    data = CachedLatents(packed, images, first_stage, scale, job.device, fields)
    known, encode = build.vocabulary(images, full), build.encoder_of(first_stage, scale)

    def fresh() -> tuple[DenoisingModel, Conditioning]:
        return build.denoising_model(config, full["ae"], latents["shape"][1], known, job.device, encode)

    model, conditions = fresh()
    settings = _settings(job)
    training = DiffusionTraining(model, conditions, data, settings)
    # One step of a model that is thrown away, for the count of its operations.
    flops_per_step = count_flops(lambda: DiffusionTraining(*fresh(), data, settings).accumulate_gradients())
    milestones = {max(1, round(share * settings.steps)) for share in config["training"]["milestones"]}

    def keep_milestone(step: int) -> None:
        if step in milestones:
            folder = job.folder / "milestones"
            folder.mkdir(exist_ok=True)
            save_weights(folder / f"{step * settings.batch}.safetensors", training.ema.module.state_dict())

    with reporting(label(job.plan, job.stage), settings.steps * settings.batch) as reporter:
        meter = run_training(
            job, training, train(training), full["trainer"]["checkpoint_seconds"], reporter, keep_milestone
        )
    save_weights(job.folder / "weights.safetensors", training.ema.module.state_dict())
    return Outcome(
        facts={
            "parameters": {"denoiser": build.parameters(model.network), "conditioning": build.parameters(conditions)},
            "images_seen": training.images_seen,
            "steps": training.step,
            "batch": settings.batch,
            "vocabulary": dataclasses.asdict(known),
            "milestones": sorted(step * settings.batch for step in milestones),
            "flops_per_image": flops_per_step / settings.batch,
            "latent_shape": latents["shape"],
        },
        cost=meter.cost(training.images_seen, flops_per_step * training.step),
    )


def _given(job: Job) -> Outcome:
    """What later stages need to know of a denoiser that was given: sizes, and the latents it knows."""
    config, full = job.config, job.plan.config
    known, side = build.data_facts(full["data"], job.store).vocabulary(full), config["latent_side"]
    model, conditions = build.denoising_model(config, full["ae"], side, known, job.device)
    scale = latent_scale(full)
    shape = [full["ae"]["channels"], side, side]
    return Outcome(
        facts={
            "parameters": {"denoiser": build.parameters(model.network), "conditioning": build.parameters(conditions)},
            "given": True,
            "images_seen": None,
            "vocabulary": dataclasses.asdict(known),
            "milestones": [],
            "latents": {"shape": shape, "shift": scale.shift.tolist(), "std": scale.std.tolist()},
            "latent_shape": shape,
        },
        cost=Meter(job.device).cost(0),
    )


def _settings(job: Job) -> DiffusionSettings:
    training = job.config["training"]
    return DiffusionSettings(
        seed=job.config["seed"],
        images=training["images"],
        batch=training["batch"],
        learning_rate=training["learning_rate"],
        warm_up=training["warm_up"],
        weight_decay=training["weight_decay"],
        gradient_clip=training["gradient_clip"],
        ema_half_life=training["ema_half_life"],
        condition_dropout=job.config["conditioning"]["dropout"],
        decay=training["decay"],
        micro_batch=job.plan.config["trainer"]["micro_batch"],
    )
