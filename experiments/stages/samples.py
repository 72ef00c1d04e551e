"""Generates the images of a cell; they stream into the judge's features without touching the disk."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import axes, build, labels, stage_settings
from experiments.artifacts import settled_guidance, trained_probe
from experiments.budget import network_calls
from experiments.call_memory import EXTRACT, extract_by
from experiments.chunks import saved_arrays
from experiments.condition_pictures import save_condition_grid
from experiments.conditions import DataFacts, conditions_of, task_weights
from experiments.conditions.scores import Values
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import (
    AskedConditions,
    Batch,
    Generator,
    asked_conditions,
    flops_per_image,
    generate,
    maps_size,
    sample_size,
    sampling_generator,
)
from experiments.pictures import read_grid, save_grid
from experiments.saved_samples import IMAGES, SavedImages, sample_notes, saved_images
from experiments.scoring import conditions_split, extractor_of, feature_file, saturated, windows
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.store import CHUNKS
from experiments.task import measures_of, task_facts
from ldm.first_stage.tiled import Tiling, tiling_difference
from ldm.intact import write_atomically
from ldm.metrics.features import Extractor, FeatureAccumulator, Features
from ldm.ranks import these
from ldm.records import StageRecord
from ldm.training.compiled import compiled

SHOWN = 64
TASK = "task."
"""Before the names of task values among those of a part; before features of another judge stands its name."""

COMPARED = 4
"""Samples that are also decoded whole, to tell what tiles change."""


def run(job: Job) -> Outcome:
    """Writes features.npz, those of other judges, grid.png; task.npz of samples with conditions; images.npy if asked.

    A kill loses one batch. Several ranks take the batches in turn, and the first gathers them in order.
    """
    config, conditioning = job.settings, job.parent("diffusion").settings["conditioning"]
    meter = Meter(job.device)
    n, batch_size, settings = config["n_samples"], job.machine.batch, config["sampler"]
    asked = asked_conditions(job, n, settings["seed"], maps_size(config, conditioning, job.resolution))
    judges = judges_of(job)
    source = at_sample_size(sampling_generator(job), config, job.resolution)
    sampler, guidance = build.sampler(settings, source.model.schedule), build.guidance(settled_guidance(job))
    trained = job.parent("probe").record.facts["probes"] if "probe" in job.parents else ()
    probes = {kind: trained_probe(job, kind) for kind in trained}
    measures = measures_of(conditioning, config, asked, judges[None], probes, job.device)
    kept = saved_images(job.stage, job.planned, job.folder.parents[1])
    (job.folder / CHUNKS).mkdir(exist_ok=True)
    ranks = these()
    batches = range(0, n, batch_size)[ranks.rank :: ranks.count]
    calls = len(batches) * (len(build.time_grid_of(settings, source.model.schedule)) - 1)
    networks = source.networks if kept is None else []
    with reporting(job.label, n) as reporter, compiled(networks, job.machine.compile, job.device, calls) as ones:
        for first in batches:
            indices = range(first, min(first + batch_size, n))
            path = part_path(job.folder, indices)
            if "sums" in (saved_arrays(path) or ()):
                continue
            if kept is not None:
                batch = _saved_batch(kept, asked, indices)
            else:
                [batch] = generate(
                    source,
                    sampler,
                    settings,
                    guidance,
                    asked,
                    indices,
                    batch_size,
                    config["paste_known"],
                )
            with meter.part("features"):
                seen = as_seen(batch.images, indices, job)
                features = {judge: extractor(seen) for judge, extractor in judges.items()}
            with meter.part("task"):
                task = {k: v for measure in measures for k, v in measure(batch.images, indices, batch.fields).items()}
            seconds = np.array([batch.denoise_seconds, batch.decode_seconds])
            wanted = len(batch.images) if config["keep"] == "images" else max(0, SHOWN - first)
            compared = max(0, COMPARED - first) if source.tiling and kept is None else 0
            latents = batch.latents[:compared].cpu().numpy()
            sums = _scale_sums(source, batch) if kept is None else np.zeros(len(SUMS))
            _save_part(path, features, task, seconds, batch.images[:wanted].numpy(), latents, sums)
            reporter.advance_to(indices.stop)
        ranks.wait()
        is_compiled = bool(ones)
    if not ranks.is_first:
        return Outcome()
    found = _collected(job, meter, source, asked, n, batch_size, kept)
    return dataclasses.replace(found, facts={**found.facts, "compiled": True}) if is_compiled else found


def sampled_again(job: Job, n: int) -> Iterator[Batch]:
    """The first n samples of a finished artifact, from its networks, seeds and conditions."""
    return sampled(job, asked_again(job, min(n, job.settings["n_samples"]), job.settings["sampler"]["seed"]))


def asked_again(job: Job, n: int, seed: int) -> AskedConditions:
    """The conditions of n samples of a finished artifact under a seed, of which its own has those that it was given."""
    size = maps_size(job.settings, job.parent("diffusion").settings["conditioning"], job.resolution)
    return asked_conditions(job, n, seed, size)


def sampled(job: Job, asked: AskedConditions) -> Iterator[Batch]:
    """Samples of a finished artifact's networks under these conditions, a sample each, from the noise of their seed."""
    config = job.settings
    source = at_sample_size(sampling_generator(job), config, job.resolution)
    settings = {**config["sampler"], "seed": asked.seed}
    sampler, guidance = build.sampler(settings, source.model.schedule), build.guidance(settled_guidance(job))
    indices, pasted = range(len(asked.indices)), config["paste_known"]
    return generate(source, sampler, settings, guidance, asked, indices, job.machine.batch, pasted)


def as_seen(images: torch.Tensor, indices: range, job: Job) -> torch.Tensor:
    """The samples of these indices, uint8 (N, 3, H, W), as extractors see them: windows of those that are larger."""
    if job.settings["height"] is None:
        return images
    return windows(images, job.resolution, job.settings["sampler"]["seed"], indices)


def judges_of(job: Job) -> dict[str | None, Extractor]:
    """The extractors that look at the samples of a job: the plan's own under None, the others by name."""
    others = job.settings.get("other_extractors", {})
    return {None: extractor_of(job, job.settings["extractor"])} | {
        name: extractor_of(job, settings) for name, settings in others.items()
    }


def _saved_batch(kept: SavedImages, asked: AskedConditions, indices: range) -> Batch:
    """Samples that lie there already, with their share of the seconds that they took when they were made."""
    images = torch.from_numpy(kept.images[indices.start : indices.stop].copy())
    share = len(indices) / len(kept.images)
    denoise, decode = (share * kept.record.cost.parts[part] for part in ("denoise", "decode"))
    return Batch(indices.start, images, torch.empty(len(indices), 0), asked.of(indices), denoise, decode)


def part_path(folder: Path, indices: range) -> Path:
    """Where a batch is kept until all are there; a resumed run with another batch size finds none of its own."""
    return folder / CHUNKS / f"{indices.start:08d}-{indices.stop:08d}.npz"


def at_sample_size(source: Generator, settings: Settings, resolution: int) -> Generator:
    """The generator for samples of the size and with the tiles of a samples stage's settings."""
    height, width = (side // source.first_stage.factor for side in sample_size(settings, resolution))
    return dataclasses.replace(
        source, latent_shape=(source.latent_shape[0], height, width), tiling=build.tiling(settings)
    )


def _save_part(
    path: Path,
    features: Mapping[str | None, Features],
    task: Values,
    seconds: NDArray[np.float64],
    images: NDArray[np.uint8],
    latents: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:
    arrays: Values = {
        **{_array(judge, name): array for judge, found in features.items() for name, array in found.arrays.items()},
        "seconds": seconds,
        "images": images,
        "latents": latents,
        "sums": sums,
        **{TASK + name: values for name, values in task.items()},
    }
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


SUMS = ("latents", "latents^2", "numbers", "saturated", "values")
"""What is summed over a set of samples: its normalised latents, and the pixel values that are 0 or 255."""


def _scale_sums(source: Generator, batch: Batch) -> NDArray[np.float64]:
    """The `SUMS` of a batch."""
    z, images = source.scale.normalise(batch.latents).double(), batch.images
    return np.array([z.sum(), z.square().sum(), z.numel(), saturated(images), images.numel()], dtype=np.float64)


def _kept_scale(kept: SavedImages) -> dict[str, float]:
    """What is known of samples that lie there already."""
    found = kept.record.facts
    return {name: found[name] for name in ("latent_std", "saturated") if name in found}


def scale_facts(sums: NDArray[np.float64]) -> dict[str, float]:
    """The standard deviation of the normalised latents' numbers, 1 in training, and the share of saturated values.

    Shapes: (5,), the `SUMS` over all batches.
    """
    total, squares, numbers, at_ends, values = sums
    mean = total / numbers
    return {
        "latent_std": float(np.sqrt(max(squares / numbers - mean**2, 0.0))),
        "saturated": float(at_ends / values),
    }


def _array(judge: str | None, name: str) -> str:
    """What an array of features is called in a part."""
    return name if judge is None else f"{judge}.{name}"


def _features(part: Mapping[str, NDArray[Any]], judge: str | None) -> Features:
    """What a judge saw in a part."""
    names = {_array(judge, name): name for name in ("features", "logits", "spatial")}
    return Features.of({name: part[array] for array, name in names.items() if array in part})


def _collected(
    job: Job, meter: Meter, source: Generator, asked: AskedConditions, n: int, batch_size: int, kept: SavedImages | None
) -> Outcome:
    config, conditioning = job.settings, job.parent("diffusion").settings["conditioning"]
    seconds, sums = np.zeros(2), np.zeros(len(SUMS))
    collected = {judge: FeatureAccumulator() for judge in (None, *config.get("other_extractors", {}))}
    ranges = (range(first, min(first + batch_size, n)) for first in range(0, n, batch_size))
    paths = [part_path(job.folder, indices) for indices in ranges]
    beginning, latents, task = list[NDArray[np.uint8]](), list[NDArray[np.float32]](), list[Values]()
    for path in paths:
        with np.load(path, allow_pickle=False) as part:
            for judge, found in collected.items():
                found.add(_features(part, judge))
            seconds += part["seconds"]
            sums += part["sums"]
            beginning += [part["images"]] if sum(map(len, beginning)) < SHOWN else []
            latents.append(part["latents"])
            task.append({name.removeprefix(TASK): part[name] for name in part.files if name.startswith(TASK)})
    for judge, found in collected.items():
        found.result().save(job.folder / feature_file(judge))
    shown = torch.from_numpy(np.concatenate(beginning)[:SHOWN])
    save_grid(job.folder / "grid.png", list(shown.split(_columns(*shown.shape[2:]))))
    job.log.image(job.folder / "grid.png")
    if asked.fields.makers:
        save_condition_grid(job.folder / "conditions.png", conditioning, asked, shown)
        job.log.image(job.folder / "conditions.png")
    if config["keep"] == "images":
        write_atomically(job.folder / IMAGES, lambda file: _join_images(file, paths, n))
    if conditions_of(job.parent("diffusion").settings):
        gathered = {name: np.concatenate([values[name] for values in task]) for name in task[0]}
        write_atomically(job.folder / "task.npz", lambda file: np.savez(file, **gathered))  # type: ignore[arg-type]
    guidance = settled_guidance(job)
    calls = network_calls({**config, "guidance": guidance, "diffusion": job.parent("diffusion").settings["diffusion"]})
    flops = flops_per_image(source, asked)
    denoise_flops = flops.denoise(calls, guided=guidance["scale"] != 1)
    denoise, decode = (float(value) for value in seconds)
    meter.parts.update({"denoise": denoise, "decode": decode})
    cost = meter.cost(n, n * (denoise_flops + flops.decode), seconds=denoise + decode)
    if kept is not None:
        cost = dataclasses.replace(cost, peak_bytes=kept.record.cost.peak_bytes)
    # After the cost: decoding whole may take more memory than all before.
    tiled = _tiling_facts(source, source.tiling, np.concatenate(latents)) if source.tiling and kept is None else None
    return Outcome(
        facts={
            "nfe": calls,
            "guidance_scale": guidance["scale"],
            "steps": len(build.time_grid_of(config["sampler"], source.model.schedule)) - 1,
            "batch": batch_size if kept is None else kept.record.facts["batch"],
            "flops_per_image": {"denoise": denoise_flops, "decode": flops.decode},
            "size": list(sample_size(config, job.resolution)),
            **(scale_facts(sums) if kept is None else _kept_scale(kept)),
            "tiling": tiled if kept is None else kept.record.facts["tiling"],
            **({} if kept is None else {"images_of": kept.record.identity, "made_on": made_on(kept.record)}),
            **task_facts(conditioning, config, asked, conditions_split(config), job.device),
        },
        cost=cost,
    )


def _join_images(file: BinaryIO, paths: Sequence[Path], n: int) -> None:
    """Writes the n images of all parts as one array, uint8 (n, 3, H, W), holding those of one part at a time."""
    for position, path in enumerate(paths):
        with np.load(path, allow_pickle=False) as part:
            images = part["images"]
        if position == 0:
            whole = {"descr": images.dtype.str, "fortran_order": False, "shape": (n, *images.shape[1:])}
            np.lib.format.write_array_header_1_0(file, whole)
        file.write(images.tobytes())


def made_on(record: StageRecord) -> dict[str, Any]:
    """The machine that made a set's samples, whoever read them since."""
    found = record.facts.get("made_on", record.environment)
    return {key: found[key] for key in ("processor", "threads", "device") if key in found}


def first_images(file: Callable[[str], Path], n: int, height: int, width: int) -> torch.Tensor:
    """The samples of a finished sample set that can still be looked at, uint8 (m, 3, H, W), from the first on.

    `file` as of `experiments.stage.Parent`.
    """
    if file(IMAGES).exists():
        return torch.from_numpy(np.load(file(IMAGES), mmap_mode="c", allow_pickle=False))
    return read_grid(file("grid.png"), min(SHOWN, n), _columns(height, width), height, width)


def _columns(height: int, width: int) -> int:
    """How many images a row of the grid holds: 16 squares, fewer where they are wide, so that its outline stays."""
    return max(1, min(SHOWN, round(16 * math.sqrt(height / width))))


@torch.inference_mode()
def _tiling_facts(source: Generator, tiling: Tiling, latents: NDArray[np.float32]) -> dict[str, Any]:
    """What the tiles change, measured on 2 x 2 tiles in the middle of a few samples, where the whole may not fit."""
    _, height, width = source.latent_shape
    most = 2 * tiling.tile - tiling.overlap
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    middle = torch.from_numpy(latents)[:, :, top : top + most, left : left + most].to(source.device)
    difference = tiling_difference(source.first_stage.decode, middle, source.first_stage.factor, tiling)
    return {
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "tiles": [len(tiling.starts(height)), len(tiling.starts(width))],
        "difference": {**dataclasses.asdict(difference), "latent": list(middle.shape[2:]), "samples": len(middle)},
    }


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """How samples are made, and which networks see them."""
    others = stage_settings.other_extractors(config)
    given = {key: value for key, value in config["samples"].items() if key not in ("batch", "conditions")}
    return {
        "sampler": config["sampler"],
        "guidance": config["guidance"],
        "n_samples": config["metrics"]["n_samples"],
        **given,
        **stage_settings.sample_conditions(config, facts),
        **task_weights(config["conditioning"], config["metrics"]),
        "extractor": stage_settings.extractor(config),
        **({"other_extractors": others} if others else {}),
        "precision": config["precision"],
    }


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Network calls and one decoding an image."""
    n = settings["n_samples"]
    judges = [EXTRACT, *map(extract_by, settings.get("other_extractors", ()))]
    memory = counts.holding_samples(n, is_guided=True, judges=judges)
    return Estimate(n, n * counts.sampling(counts.calls), memory=memory)


def divides(settings: Settings) -> bool:
    """Its batches are."""
    return True


STAGE = Stage(
    name="samples",
    parents=("diffusion", "averaging", "probe", "tuning"),
    version=1,
    axes=axes.ALL,
    until=("samples",),
    settings=settings,
    run=run,
    label=labels.samples,
    defaults={
        "sampler.clip": "none",
        "guidance.interval": None,
        "guidance.rescale": 0,
        "keep": "features",
        "height": None,
        "width": None,
        "tile": None,
        "overlap": None,
        "paste_known": False,
    },
    estimate=estimate,
    notes=sample_notes,
    divides=divides,
)
