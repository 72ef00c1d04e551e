"""Generates the images of a cell; they stream into the judge's features without touching the disk."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import build
from experiments.console import reporting
from experiments.cost import Meter
from experiments.generate import Generator, flops_per_image, generate, generator_of, sample_fields
from experiments.measure import extractor_of
from experiments.pictures import save_grid
from experiments.runner import Job, Outcome, label
from ldm.errors import UserError
from ldm.metrics.features import FeatureAccumulator, Features

KEEP = ("features", "images")
SHOWN = 64


def run(job: Job) -> Outcome:
    """Writes features.npz and grid.png, and images.npy with `samples.keep=images`; a kill loses one batch."""
    config, full = job.config, job.plan.config
    if config["keep"] not in KEEP:
        raise UserError(f"samples.keep={config['keep']} is none of {', '.join(KEEP)}")
    meter = Meter(job.device)
    n, batch_size, settings = config["n_samples"], full["samples"]["batch"], config["sampler"]
    train_images = build.images(full, "train", job.store)
    fields = sample_fields(train_images, n, settings["seed"])
    extractor = extractor_of(job, config["extractor"])
    source = generator_of(job, job.parent_folder("diffusion") / "weights.safetensors", config["precision"])
    sampler = build.sampler(settings, source.model.schedule)
    (job.folder / "parts").mkdir(exist_ok=True)
    with reporting(label(job.plan, job.stage), n) as reporter:
        for first in range(0, n, batch_size):
            indices = range(first, min(first + batch_size, n))
            path = part_path(job.folder, indices)
            if path.exists():
                continue
            [batch] = generate(source, sampler, settings, config["guidance"]["scale"], fields, indices, batch_size)
            with meter.part("features"):
                features = extractor(batch.images)
            seconds = np.array([batch.denoise_seconds, batch.decode_seconds])
            wanted = len(batch.images) if config["keep"] == "images" else max(0, SHOWN - first)
            _save_part(path, features, batch.images[:wanted].numpy(), seconds)
            reporter.advance_to(indices.stop)
    return _collected(job, meter, source, n, batch_size)


def part_path(folder: Path, indices: range) -> Path:
    """Where a batch is kept until all are there; a resumed run with another batch size finds none of its own."""
    return folder / "parts" / f"{indices.start:08d}-{indices.stop:08d}.npz"


def _save_part(path: Path, features: Features, images: NDArray[np.uint8], seconds: NDArray[np.float64]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        logits = features.logits if features.logits is not None else np.zeros((len(images), 0), np.float32)
        np.savez(file, features=features.features, logits=logits, images=images, seconds=seconds)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _collected(job: Job, meter: Meter, source: Generator, n: int, batch_size: int) -> Outcome:
    config, collected, seconds = job.config, FeatureAccumulator(), np.zeros(2)
    ranges = (range(first, min(first + batch_size, n)) for first in range(0, n, batch_size))
    paths = [part_path(job.folder, indices) for indices in ranges]
    kept = []
    for path in paths:
        with np.load(path, allow_pickle=False) as part:
            logits = part["logits"] if part["logits"].shape[1] else None
            collected.add(Features(part["features"], logits))
            seconds += part["seconds"]
            kept.append(part["images"])
    collected.result().save(job.folder / "features.npz")
    images = np.concatenate(kept)
    save_grid(job.folder / "grid.png", list(torch.from_numpy(images[:SHOWN]).split(16)))
    job.run.image("samples", job.folder / "grid.png")
    if config["keep"] == "images":
        temporary = job.folder / f".images.npy.{os.getpid()}"
        with open(temporary, "wb") as file:
            np.save(file, images)
        os.replace(temporary, job.folder / "images.npy")
    shutil.rmtree(job.folder / "parts")
    settings = config["sampler"]
    nfe = len(build.time_grid_of(settings)) - 1
    calls = nfe * (1 if config["guidance"]["scale"] == 1 else 2)
    denoise_flops, decode_flops = flops_per_image(source)
    denoise, decode = (float(value) for value in seconds)
    meter.parts.update({"denoise": denoise, "decode": decode})
    return Outcome(
        facts={
            "nfe": calls,
            "steps": nfe,
            "batch": batch_size,
            "flops_per_image": {"denoise": calls * denoise_flops, "decode": decode_flops},
        },
        cost=meter.cost(n, n * (calls * denoise_flops + decode_flops), seconds=denoise + decode),
    )
