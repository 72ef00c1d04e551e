"""Looks for training images among the samples: distances to the nearest, against those of held-out images."""

import dataclasses

import numpy as np
import torch

from experiments import axes, labels
from experiments.call_memory import EXTRACT, FLOAT_BYTES
from experiments.conditions import DataFacts
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.generate import sample_size
from experiments.memorisation import PIXELS, memorisation_protocols, small_pixels_of
from experiments.pictures import save_grid
from experiments.scoring import FEATURE_BATCH, described, sample_protocol
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.samples import first_images
from experiments.stages.training_set import MOST_TRAINING_IMAGES
from ldm.metrics.features import Features
from ldm.metrics.memorisation import bytes_to_find, memorisation_metrics, nearest, pixel_numbers, small_pixels
from ldm.records import LeftOut, Protocol, ResultRow

SHOWN = 12


def run(job: Job) -> Outcome:
    """Rows in the judge's features and in pixels; nearest.png shows the samples that lie nearest to a training image.

    Its rows of pictures: sample, nearest training image by features, nearest by pixels. Pixels are compared of the
    samples that were kept: all with `samples.keep=images`, else those of the grid.
    """
    meter, samples = Meter(job.device), job.parent("samples").settings
    height, width = sample_size(samples, job.resolution)
    if samples["height"] is not None:
        reason = f"samples of {width}x{height} px are larger than the training images: they have no nearest one"
        return Outcome(left_out=[LeftOut(f"memorisation_{space}", reason) for space in ("features", PIXELS)])
    train = job.images("train")
    made, compared = job.parent("samples"), job.parent("training_set")
    features, of_training = (Features.load(parent.file("features.npz")) for parent in (made, compared))
    indices = np.load(compared.file("indices.npy"), allow_pickle=False)
    kept = first_images(made.file, len(features), height, width)
    by_features = nearest(features.features, of_training.features)
    of_kept = np.concatenate([small_pixels(batch) for batch in kept.split(FEATURE_BATCH)])
    by_pixels = nearest(of_kept, small_pixels_of(train, indices.tolist()))
    with np.load(compared.file("distances.npz"), allow_pickle=False) as file:
        unseen = {space: file[space] for space in file.files}
    judge, images_seen = samples["extractor"]["name"], job.parent("diffusion").record.facts["images_seen"]
    rows, left_out, protocols = list[ResultRow](), list[LeftOut](), list[Protocol]()
    for space, found in ((judge, by_features), (PIXELS, by_pixels)):
        how = sample_protocol(job, len(found.distances))
        how = memorisation_protocols(how, train.fingerprint, len(indices))[space]
        how = dataclasses.replace(how, marks=(*how.marks, f"against {len(unseen[space])} held-out images"))
        protocols.append(how)
        values, missing = memorisation_metrics(found.distances, unseen[space], space)
        rows += [value.row(how.id, images_seen) for value in values]
        left_out += missing
    shown = np.argsort(by_features.distances[: len(kept)], kind="stable")[:SHOWN]
    pictures = [kept[torch.from_numpy(shown)]]
    pictures += [train.uint8(indices[found.indices[shown]]) for found in (by_features, by_pixels)]
    save_grid(job.folder / "nearest.png", pictures)
    job.log.image(job.folder / "nearest.png")
    facts = {
        "shown": [
            {
                "sample": int(i),
                "distance": float(by_features.distances[i]),
                "training_image": int(indices[by_features.indices[i]]),
                "pixel_distance": float(by_pixels.distances[i]),
                "training_image_by_pixels": int(indices[by_pixels.indices[i]]),
            }
            for i in shown
        ],
        "pixels_of": len(kept),
    }
    return Outcome(
        facts=facts, rows=rows, left_out=left_out, protocols=described(protocols), cost=meter.cost(len(features))
    )


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """Nothing of its own, where metrics.memorisation asks for it."""
    return {} if config["metrics"]["memorisation"] else None


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """Memory alone."""
    images = counts.images
    d = counts.memory.features.get(EXTRACT) if counts.memory else None
    if images is None or images.train is None or d is None:
        return Estimate(None, None)
    n, m, p = images.samples, min(images.train, MOST_TRAINING_IMAGES), pixel_numbers(images.resolution)
    small = FLOAT_BYTES * (images.kept + m) * p + bytes_to_find(images.kept, m, p)
    return Estimate(None, None, memory=FLOAT_BYTES * (n + m) * d + max(bytes_to_find(n, m, d), small))


STAGE = Stage(
    name="memorisation",
    parents=("samples", "training_set"),
    version=2,
    axes=axes.ALL,
    until=("evaluation",),
    settings=settings,
    run=run,
    estimate=estimate,
    label=labels.samples,
    is_result=True,
)
