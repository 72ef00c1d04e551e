"""Trains the denoising model on cached latents; one that was given is only looked at."""

import dataclasses
import math
from collections.abc import Callable

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import cached_latents, first_stage_of, latent_scale_of, settled_rates
from experiments.budget import images_at
from experiments.conditions import DataFacts, Vocabulary, annotations_read, conditions_of, fields_of
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts, training_bytes, training_estimate
from experiments.images import vocabulary
from experiments.published import is_given, latent_scale
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.training import run_training
from ldm.conditioning import Conditioning
from ldm.data.latents import CachedLatents, ChosenLatents
from ldm.denoiser import DENOISERS
from ldm.diffusion import DenoisingModel
from ldm.memory import free_bytes
from ldm.parts import defaults_of
from ldm.ranks import ALONE, Ranks, these
from ldm.training.checkpoint import save_weights
from ldm.training.compiled import compiled
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, train
from ldm.training.flops import count_flops
from ldm.training.power_ema import STORED_LENGTHS, Profile
from ldm.training.representation import RepresentationTerm


def run(job: Job) -> Outcome:
    """Writes weights.safetensors (EMA), the milestones on the way, and checkpoints to resume from.

    Nothing where the denoiser was given.
    """
    config = job.settings
    if is_given(config["denoiser"]):
        return _given(job)
    material, settings = training_material(job), training_settings(job)
    ranks = these()
    flops_per_step = material.flops_per_step(settings, ranks)  # of a training that is gone before the other begins
    training = material.training(settings, ranks)
    model, conditions = training.model, training.conditioning
    milestones = images_at(config["training"]["milestones"], settings.images, settings.batch)
    snapshots = snapshot_steps(config["training"])

    def keep_milestone(step: int) -> None:
        if step in snapshots:
            for length, average in training.averages.items():
                path = job.folder / snapshot_file(Profile(length, step))
                path.parent.mkdir(exist_ok=True)
                save_weights(path, average.module.state_dict())
        if (seen := step * settings.batch) in milestones:
            folder = job.folder / "milestones"
            folder.mkdir(exist_ok=True)
            save_weights(folder / f"{seen}.safetensors", training.ema.module.state_dict())

    # What is aligned is read off a layer within, which a compiled network does not show.
    networks = [model.network] if training.representation is None else []
    passes = settings.steps * -(-settings.batch // (training.micro_batch * ranks.count))
    with (
        reporting(job.label, settings.steps * settings.batch) as reporter,
        compiled(networks, job.machine.compile, job.device, passes) as compiled_ones,
    ):
        meter = run_training(job, training, train(training), reporter, keep_milestone, ranks)
        is_compiled = bool(compiled_ones)
    if not ranks.is_first:
        return Outcome()
    save_weights(job.folder / "weights.safetensors", training.ema.module.state_dict())
    return Outcome(
        facts={
            "parameters": {"denoiser": build.parameters(model.network), "conditioning": build.parameters(conditions)},
            "images_seen": training.images_seen,
            "steps": training.step,
            "batch": settings.batch,
            "learning_rate": settings.learning_rate,
            "vocabulary": dataclasses.asdict(material.known),
            "milestones": milestones,
            **training.smaller_passes,
            **({"compiled": True} if is_compiled else {}),
            "flops_per_image": flops_per_step / settings.batch,
            "latent_shape": job.parent("latents").record.facts["shape"],
        },
        cost=meter.cost(training.images_seen, flops_per_step * training.step),
    )


def _given(job: Job) -> Outcome:
    """What later stages need to know of a denoiser that was given: sizes, and the latents it knows."""
    config, ae, side = job.settings, job.parent("first_stage").settings, job.settings["latent_side"]
    # Of an unconditional model the identity need not name the images, and nothing of them is read.
    known = job.vocabulary(annotations_read(config)) if conditions_of(config) else Vocabulary(0)
    model, conditions = build.denoising_model(config, ae, side, known, job.device)
    scale = latent_scale(config["denoiser"], ae)
    shape = [ae["channels"], side, side]
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


def snapshot_steps(training: Settings) -> list[int]:
    """The steps, evenly over a training of these settings, after which its power averages are kept; most often none."""
    number, steps = training.get("ema_snapshots", 0), math.ceil(training["images"] / training["batch"])
    return sorted({max(1, round(steps * (i + 1) / number)) for i in range(number)})


def snapshot_file(profile: Profile) -> str:
    """Where a training keeps one of its power averages."""
    return f"snapshots/{profile.step}-{profile.length:g}.safetensors"


@dataclasses.dataclass(frozen=True)
class TrainingMaterial:
    """What a model is trained on, and how it begins.

    `fresh()` gives it and its conditioning with initial weights, `aligned(model)` what aligns its hidden features.
    """

    data: CachedLatents
    known: Vocabulary
    fresh: Callable[[], tuple[DenoisingModel, Conditioning]]
    aligned: Callable[[DenoisingModel], RepresentationTerm | None]

    def training(
        self, settings: DiffusionSettings, ranks: Ranks = ALONE, data: ChosenLatents | None = None
    ) -> DiffusionTraining:
        """A training at its start, on all latents or on those that are given."""
        model, conditions = self.fresh()
        return DiffusionTraining(model, conditions, data or self.data, settings, ranks, self.aligned(model))

    def flops_per_step(self, settings: DiffusionSettings, ranks: Ranks = ALONE) -> float:
        """FLOPs of one step, counted on a model that is thrown away, of all ranks together."""
        rehearsal = self.training(settings, ranks)
        flops = rehearsal.that_fits(lambda: count_flops(rehearsal.accumulate_gradients))
        return ranks.sum_number(flops, self.data.device)


def training_material(job: Job) -> TrainingMaterial:
    """The latents that a job hangs on, and the model of its settings, whose weights its seed alone decides."""
    config = job.settings
    images = job.images("train", annotations_read(config))
    ae, side = job.parent("first_stage").settings, job.parent("latents").record.facts["shape"][1]
    first_stage, scale = first_stage_of(job), latent_scale_of(job)
    data = cached_latents(job, images, first_stage, fields_of(config["conditioning"], images, job.device))
    data.hold(free_bytes(job.device) / 4)  # beside the network and what a step needs
    known, encode = vocabulary(images, annotations_read(config)), build.encoder_of(first_stage, scale.on(job.device))

    def fresh() -> tuple[DenoisingModel, Conditioning]:
        return build.denoising_model(config, ae, side, known, job.device, encode)

    def aligned(model: DenoisingModel) -> RepresentationTerm | None:
        return build.representation(config["training"], config["seed"], model.network, job.device, model.autocast)

    return TrainingMaterial(data, known, fresh, aligned)


def training_settings(job: Job) -> DiffusionSettings:
    """How a job trains, with the rates that the stage `learning_rate` chose where it hangs on one."""
    training, found = job.settings["training"], settled_rates(job)
    return DiffusionSettings(
        seed=job.settings["seed"],
        images=training["images"],
        batch=training["batch"],
        learning_rate=found["learning_rate"],
        warm_up=training["warm_up"],
        weight_decay=training["weight_decay"],
        gradient_clip=training["gradient_clip"],
        ema_half_life=math.inf if training["ema_half_life"] == UNLIMITED else training["ema_half_life"],
        ema_share=training.get("ema_share", 0.05),
        matrix_rate=found.get("matrix_learning_rate", 0),
        condition_dropout=job.settings["conditioning"]["dropout"],
        decay=training["decay"],
        times=build.times(job.settings["diffusion"]),
        power_lengths=STORED_LENGTHS if training.get("ema_snapshots") else (),
        micro_batch=job.machine.micro_batch,
        noise=training.get("noise", "torch"),
    )


UNLIMITED = "none"
"""In place of a half-life of the EMA: the share of the images seen alone says how long it is."""

NAMES = ("micro_batch", "devices", "checkpoint_seconds", "budget", "learning_rate_factor", "ema_length", "ema_lengths")
"""Settings of a training that change no numbers, or only through what is filled in for the names that they give,
or what the stage `averaging` does afterwards."""


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The model and its training; of a given one the model alone, for latents of which side."""
    annotations = stage_settings.annotations(config, facts.annotations)
    common = {key: config[key] for key in ("seed", "precision", "conditioning", "diffusion")}
    if is_given(config["denoiser"]):
        # Of the images samples owe only their conditions.
        images = {"data": facts.train_fingerprint, **annotations} if conditions_of(config) else {}
        side = config["data"]["resolution"] // config["ae"]["f"]
        return {**common, "latent_side": side, "denoiser": config["denoiser"], **images}
    return {
        **common,
        **annotations,
        "denoiser": {key: value for key, value in config["denoiser"].items() if key != "architecture"},
        "training": {key: value for key, value in config["trainer"].items() if key not in NAMES},
    }


def needs(config: Settings) -> tuple[str, ...]:
    """A given denoiser reads no latents; rates are found before only where the config asks for it."""
    return ("first_stage",) if is_given(config["denoiser"]) else ("latents", "learning_rate")


def divides(settings: Settings) -> bool:
    """A training is; a denoiser that was given is only looked at."""
    return not is_given(settings["denoiser"])


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """Of the training, where there is one."""
    if is_given(settings["denoiser"]):
        return None
    training, model = settings["training"], counts.denoiser
    return training_estimate(training, model.step.work, training_bytes(model.step, settings["precision"]))


STAGE = Stage(
    name="diffusion",
    parents=("first_stage", "latents", "learning_rate"),
    version=1,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE + axes.OF_MODEL,
    until=("diffusion",),
    settings=settings,
    run=run,
    label=labels.model,
    defaults={
        **{f"denoiser.{key}": value for part in DENOISERS.values() for key, value in defaults_of(part).items()},
        "diffusion.shift": 1,
        "training.ema_share": 0.05,
        "training.noise": "torch",
        "training.matrix_learning_rate": 0,
        "diffusion.weighting": "plain",
        "diffusion.output": None,
    },
    needs=needs,
    estimate=estimate,
    divides=divides,
)
