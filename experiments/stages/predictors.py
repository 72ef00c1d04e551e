"""How well may this latent space be diffused? What can be measured of it before a diffusion model is trained on it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import cached_latents, first_stage_of, latent_scale_of, reference_features
from experiments.budget import images_of_small_denoiser, small_denoiser_settings
from experiments.call_memory import FLOAT_BYTES, META
from experiments.conditions import DataFacts, Vocabulary, annotations_read
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts, denoiser_step, most, training_bytes
from experiments.generate import AskedConditions, Generator, generate
from experiments.pictures import to_uint8
from experiments.published import is_given
from experiments.scoring import (
    SHORT_SAMPLER,
    chosen,
    described,
    extractor_of,
    features_of,
    generation_protocol,
    generation_rows,
    spelled_sampler,
    unjudged_protocol,
)
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.latents import ENCODE_BATCH, encodings
from experiments.stages.training import run_training
from ldm.conditioning import Condition, Conditioning, Unconditional
from ldm.data.contract import SPLITS, ImageCache
from ldm.data.fields import Fields
from ldm.diffusion import DenoisingModel, Guidance
from ldm.diffusion.levels import loss_over_levels
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.metrics.codebook import CODEBOOK_PERPLEXITY_SHARE, CODEBOOK_USAGE, codebook_usage, perplexity
from ldm.metrics.distribution import FRECHET, FRECHET_INFINITY, KERNEL, metric_of
from ldm.metrics.latent_space import (
    DECODER_SENSITIVITY,
    EFFECTIVE_CHANNELS,
    HIGH_FREQUENCY_SHARE,
    ROUGHNESS,
    SAME_CLASS_NEIGHBOURS,
    SMALL_DENOISER_ERROR,
    SMALLEST_SIDE,
    SPECTRAL_ENERGY,
    channel_covariance,
    effective_channels,
    high_frequency_share,
    nearest_neighbours,
    roughness,
    same_class_neighbours,
    spectral_energy,
)
from ldm.metrics.rate import code_histogram
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import INTERPOLATED_LATENTS, NOISED_LATENTS, SMALL_DENOISER, MetricValue, Variant
from ldm.metrics.velocity_ambiguity import (
    MOST_IMAGES,
    MOST_OF_A_CLASS,
    MOST_POSITIONS,
    MOST_VALUES,
    VELOCITY_VARIANCE,
    images_needed,
    velocity_variance,
)
from ldm.randomness import SampleNoise, derived_seed
from ldm.records import LeftOut, Protocol, ResultRow
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, train
from ldm.training.flops import count_flops

BATCH = 50
NUDGE = 0.1
"""Noise that latents are given to see how much the decoder's image moves, in units of the normalised latents."""

NOISED = 0.5
"""Noise of latents whose decoded images are compared with real ones."""

DISTANCES = (FRECHET, FRECHET_INFINITY, KERNEL)
"""What is kept of the metrics of decoded images."""


POSTERIORS, NUDGES, NOISES, LEVELS = "posteriors", "nudges", "noises", "levels"
"""What noise is drawn for, each from a stream of its own: noise of a posterior is not to come back at a noise level."""


@dataclass(frozen=True)
class _Space:
    """A first stage with its scale."""

    first_stage: FirstStage
    scale: LatentScale
    device: str

    def encoded(self, images: ImageCache, indices: list[int]) -> list[tuple[Sequence[int], Tensor]]:
        """Packed encodings, batch by batch with the indices of their images."""
        found = encodings(self.first_stage, images, indices, self.device)
        return [(part, self.first_stage.pack(encoding)) for part, encoding in found]

    def latents(self, encoded: Iterable[tuple[Sequence[int], Tensor]], seed: int | None) -> Tensor:
        """Normalised latents (N, C, h, w) on the CPU, KL posteriors drawn by (seed, image), or their means for None."""
        found = []
        for part, packed in encoded:
            shape = (self.first_stage.channels, *packed.shape[2:])
            noise = None if seed is None else _noise(seed, POSTERIORS, list(part), self.device)(shape)
            found.append(self.scale.normalise(self.first_stage.latent(packed, noise)).cpu())
        return torch.cat(found)

    def decoded(self, latents: Tensor) -> Iterator[Tensor]:
        """Images in [-1, 1] on the CPU, batch by batch."""
        for part in latents.split(BATCH):
            yield self.first_stage.decode(self.scale.denormalise(part.to(self.device))).clamp(-1, 1).cpu()


def _noise(seed: int, purpose: str, indices: list[int], device: str = "cpu") -> SampleNoise:
    return SampleNoise(derived_seed(seed, "predictors", purpose), indices, device)


def run(job: Job) -> Outcome:
    """Rows of the space's statistics, of what is decoded between and beside latents, and of a small denoiser."""
    config = job.settings
    train_images, heldout = (job.images(split) for split in SPLITS)
    space = _Space(first_stage_of(job), latent_scale_of(job), job.device)
    indices = chosen(len(train_images), config["n_samples"], config["seed"], "predictors")
    # What takes longest, and alone can be resumed, comes first: nothing else is done twice after a kill.
    small, flops, meter = _small_denoiser(job, space, train_images)
    meter.parts["small_denoiser"] = meter.seconds
    with torch.inference_mode():
        with meter.part("statistics"):
            # Diffusion models draws from posteriors; what is decoded between and beside latents starts at their means.
            encoded = space.encoded(train_images, indices)
            drawn = space.latents(encoded, config["seed"])
            latents = space.latents(encoded, None)
            values, left_out = _statistics(drawn)
            values += _class_neighbours(drawn, train_images.labels[indices], train_images.classes)
            values += _codebook_use(space.first_stage, space.scale, latents, job.device)
            values.append(_sensitivity(space, latents, indices, config["seed"]))
        with meter.part("velocity"):
            velocity = _velocity_variance(job, space, train_images)
        generation = generation_protocol(job, len(indices))
        with meter.part("decoded"):
            between = (latents + latents[nearest_neighbours(latents)[:, 0]]) / 2
            noise = _noise(config["seed"], NOISES, indices)(tuple(latents.shape[1:]))
            judged = [
                _judged(job, map(to_uint8, space.decoded(shifted)), generation, variant)
                for variant, shifted in ((INTERPOLATED_LATENTS, between), (NOISED_LATENTS, latents + NOISED * noise))
            ]
    with torch.inference_mode(), meter.part("small_denoiser_judged"):
        held = chosen(len(heldout), config["n_samples"], config["seed"], "predictors")
        error = _unexplained(small, space.latents(space.encoded(heldout, held), config["seed"]), held, config["seed"])
        n, settings = config["small_denoiser"]["samples"], {**SHORT_SAMPLER, "steps": config["small_denoiser"]["steps"]}
        sampled = dataclasses.replace(
            generation_protocol(job, n),
            class_balance="of a model that is told none",
            sampler=spelled_sampler(settings),
        )
        judged.append(_judged(job, _samples(job, small, train_images, n, settings), sampled, SMALL_DENOISER))
    own = unjudged_protocol(job, "predictors", train_images, len(indices), split="train")
    unseen = unjudged_protocol(job, "predictors", heldout, len(held))
    rows = [value.row(own.id) for value in values] + [error.row(unseen.id)]
    protocols = [own, unseen, generation, sampled]
    if isinstance(velocity, LeftOut):
        left_out.append(velocity)
    else:
        protocols.append(unjudged_protocol(job, "predictors", train_images, velocity.n, split="train"))
        rows.append(velocity.row(protocols[-1].id))
    rows += [row for found, _ in judged for row in found]
    return Outcome(
        facts={
            "channel_variance": channel_covariance(drawn).diagonal().tolist(),
            "small_denoiser": {
                "parameters": build.parameters(small.model.network),
                "images_seen": config["small_denoiser"]["images"],
                "flops": flops,
            },
        },
        rows=rows,
        left_out=[*left_out, *dict.fromkeys(item for _, missing in judged for item in missing)],
        protocols=described(protocols),
        cost=meter.cost(len(indices), flops),
    )


def _statistics(latents: Tensor) -> tuple[list[MetricValue], list[LeftOut]]:
    n, side = len(latents), min(latents.shape[2:])
    values = [MetricValue(EFFECTIVE_CHANNELS, effective_channels(channel_covariance(latents)), n)]
    left_out = []
    if side >= 2:
        values.append(mean_value(ROUGHNESS, roughness(latents)))
        values.append(MetricValue(SPECTRAL_ENERGY, spectral_energy(latents), n))
    else:
        left_out.append(LeftOut(ROUGHNESS.name, "It compares neighbours, and these latents have none."))
        left_out.append(LeftOut(SPECTRAL_ENERGY.name, "These latents have one frequency alone."))
    if side >= SMALLEST_SIDE:
        values.append(mean_value(HIGH_FREQUENCY_SHARE, high_frequency_share(latents)))
    else:
        reason = f"It needs latents of {SMALLEST_SIDE} or more a side, these have {side}."
        left_out.append(LeftOut(HIGH_FREQUENCY_SHARE.name, reason))
    return values, left_out


def _class_neighbours(latents: Tensor, labels: NDArray[np.int64], classes: Sequence[str]) -> list[MetricValue]:
    """How many neighbours share the class; none without classes."""
    return [mean_value(SAME_CLASS_NEIGHBOURS, same_class_neighbours(latents, labels))] if classes else []


def _velocity_variance(job: Job, space: _Space, images: ImageCache) -> MetricValue | LeftOut:
    """The irreducible variance of the velocity, a Gaussian a class, or one alone where images have no classes.

    Which images it looks at does not depend on the latents, or values of two first stages could not be compared: those
    of classes that are at least half as large as the largest. It is left out where these do not suffice for latents.
    """
    channels, *side = job.parent("latents").record.facts["shape"]
    positions, seed = math.prod(side), job.settings["seed"]
    if positions > MOST_POSITIONS:
        reason = f"Its covariance is found of {MOST_POSITIONS:,} positions at most, these latents have {positions:,}."
        return LeftOut(VELOCITY_VARIANCE.name, reason)
    looked_at = np.array(chosen(len(images), MOST_IMAGES, seed, "predictors of velocity"))
    labels = images.labels[looked_at] if images.classes else np.zeros(len(looked_at), dtype=np.int64)
    members = [looked_at[labels == label][:MOST_OF_A_CLASS].tolist() for label in np.unique(labels)]
    sizes = list(map(len, members))
    members = [own for own in members if 2 * len(own) >= max(sizes)]
    needed, least = images_needed(channels, positions), min(map(len, members))
    if least < needed:
        reason = (
            f"It needs {needed:,} training images of a class, and of those at least half as large as the largest the "
            f"smallest has {least:,}."
        )
        return LeftOut(VELOCITY_VARIANCE.name, reason)
    if max(sizes) * channels * positions > MOST_VALUES:
        reason = f"Latents of {channels:,} x {positions:,} values are too many to hold those of {max(sizes):,} images."
        return LeftOut(VELOCITY_VARIANCE.name, reason)
    data = cached_latents(job, images, space.first_stage, Fields(images, {}))

    def latents(own: list[int]) -> Tensor:
        parts = (own[first : first + ENCODE_BATCH] for first in range(0, len(own), ENCODE_BATCH))
        return space.latents(((part, data.encoded(part)) for part in parts), seed)

    value = velocity_variance(map(latents, members))
    return MetricValue(VELOCITY_VARIANCE, value, sum(map(len, members)))


def _codebook_use(first_stage: FirstStage, scale: LatentScale, latents: Tensor, device: str) -> list[MetricValue]:
    """The share of codes that occur, and the perplexity of their frequencies over their number; none without codes."""
    codebook = first_stage.codebook
    if codebook is None:
        return []
    indices = (codebook.nearest(scale.denormalise(part.to(device))) for part in latents.split(BATCH))
    counts = code_histogram(indices, codebook.codes)
    shares = {CODEBOOK_USAGE: codebook_usage(counts), CODEBOOK_PERPLEXITY_SHARE: perplexity(counts) / len(counts)}
    return [MetricValue(metric, float(value), len(latents)) for metric, value in shares.items()]


def _sensitivity(space: _Space, latents: Tensor, indices: list[int], seed: int) -> MetricValue:
    """How far the decoded image moves, RMSE in grey levels, when its latent gets a little noise."""
    noise = _noise(seed, NUDGES, indices)(tuple(latents.shape[1:]))
    pairs = zip(space.decoded(latents), space.decoded(latents + NUDGE * noise), strict=True)
    moved = [((a - b).double() * 127.5).square().mean((1, 2, 3)).sqrt() for a, b in pairs]
    return mean_value(DECODER_SENSITIVITY, torch.cat(moved).numpy())


def _judged(
    job: Job, images: Iterator[Tensor], protocol: Protocol, variant: Variant
) -> tuple[list[ResultRow], list[LeftOut]]:
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    rows, left_out = generation_rows(features_of(images, extractor), reference_features(job), protocol, variant)
    kept = {variant.name(metric_of(kind, protocol.extractor).name) for kind in DISTANCES}
    return [row for row in rows if row.metric in kept], [item for item in left_out if item.metric in kept]


def _small_denoiser(job: Job, space: _Space, images: ImageCache) -> tuple[Generator, float, Meter]:
    """The small denoiser trained on the training latents for its share of the budget, its FLOPs, and the meter."""
    config, latents = job.settings["small_denoiser"], job.parent("latents").record.facts
    data = cached_latents(job, images, space.first_stage, Fields(images, {}))
    settings = DiffusionSettings(
        seed=job.settings["seed"],
        images=config["images"],
        batch=config["batch"],
        learning_rate=config["learning_rate"],
        warm_up=0,
        weight_decay=0.0,
        gradient_clip=1.0,
        ema_half_life=config["images"] / 10,
        condition_dropout=0.0,
        decay="cosine",
    )

    def fresh() -> tuple[DenoisingModel, Conditioning]:
        stage = {"seed": job.settings["seed"], "precision": job.settings["precision"], "conditioning": {}, **config}
        ae = job.parent("first_stage").settings
        return build.denoising_model(stage, ae, latents["shape"][1], Vocabulary(0), job.device)

    rehearsal = DiffusionTraining(*fresh(), data, settings)
    each = rehearsal.that_fits(lambda: count_flops(rehearsal.accumulate_gradients))
    model, conditions = fresh()
    training = DiffusionTraining(model, conditions, data, settings)
    with reporting(job.label, settings.steps * settings.batch) as reporter:
        meter = run_training(job, training, train(training), reporter, lambda step: None)
    training.trained.load_state_dict(training.ema.module.state_dict())
    training.trained.eval().requires_grad_(False)
    shape, (low, high) = tuple(latents["shape"]), latents["range"]
    trained = Generator(model, conditions, space.first_stage, space.scale, shape, (low, high), job.device)
    return trained, each * settings.steps, meter


def _unexplained(small: Generator, latents: Tensor, indices: list[int], seed: int) -> MetricValue:
    """Squared error of v over all noise levels on held-out latents: their share that the denoiser leaves unexplained.

    Where latents have unit variance, v has it too, and a denoiser that knows nothing but that leaves 1.
    """
    own = derived_seed(seed, "predictors", LEVELS)
    total = loss_over_levels(small.model, latents, indices, own, lambda part: Condition(), small.device, BATCH)
    return mean_value(SMALL_DENOISER_ERROR, np.asarray(total))


def _samples(job: Job, small: Generator, images: ImageCache, n: int, settings: Mapping[str, Any]) -> Iterator[Tensor]:
    """Images of the small denoiser, uint8."""
    settings = {**settings, "seed": job.settings["seed"]}
    sampler = build.sampler(settings, small.model.schedule)
    asked = AskedConditions(Fields(images, {}), [0] * n, job.settings["seed"])
    for batch in generate(small, sampler, settings, Guidance(), asked, range(n), BATCH):
        yield batch.images


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """What latents are measured on, and the small denoiser with its share of the main training, where asked for."""
    metrics, trainer = config["metrics"], config["trainer"]
    if not metrics["predictors"] or is_given(config["denoiser"]):
        return None
    return {
        **stage_settings.measured_images(config, facts),
        "precision": config["precision"],
        "small_denoiser": {
            "denoiser": small_denoiser_settings(config),
            "diffusion": {**_noise_schedule(config["diffusion"]), "target": "v", "weighting": "plain"},
            "images": images_of_small_denoiser(config, facts.vocabulary(annotations_read(config))),
            "batch": trainer["batch"],
            "learning_rate": trainer["learning_rate"],
            "samples": metrics["progress_samples"],
            "steps": metrics["progress_steps"],
        },
    }


def _noise_schedule(diffusion: Settings) -> Settings:
    """The noise schedule, without what is the cell's training's own: latents are looked at alike."""
    return {key: value for key, value in diffusion.items() if key != "output" and not key.startswith("times")}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone: of the small denoiser's training, of the latents and their statistics, and of judging images."""
    images, shape, small = counts.images, counts.first_stage.latent_shape, settings["small_denoiser"]
    judged = counts.holding({"encode": ENCODE_BATCH, "decode": BATCH, "extract": BATCH})
    compared = counts.comparing(settings["n_samples"])
    if images is None or judged is None:
        return Estimate(None, None, small["batch"])
    with META:
        network = build.denoiser(small["denoiser"], shape[0], shape[1], Unconditional())
    trainer = {"batch": small["batch"], "micro_batch": None, "matrix_learning_rate": None}
    step = denoiser_step(network, Unconditional(), shape, trainer, images.resolution)
    held = FLOAT_BYTES * math.prod(shape) * settings["n_samples"]
    judging = 5 * held + max(judged, compared or 0)
    training = training_bytes(step, settings["precision"])
    memory = most(training, judging, BYTES_OF_STATISTICS * held // FLOAT_BYTES)
    return Estimate(None, None, small["batch"], memory)


BYTES_OF_STATISTICS = 56
"""Of each number of a latent: latents as means, drawn and packed, and what statistics make of them in float64."""


STAGE = Stage(
    name="predictors",
    parents=("latents", "reference"),
    version=6,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE + axes.OF_LATENTS,
    until=stage_settings.FROM_FIRST_STAGE_ON,
    settings=settings,
    run=run,
    estimate=estimate,
    label=labels.first_stage,
    is_result=True,
)
