"""Looks for training images among the samples: distances to the nearest, against those of held-out images."""

import dataclasses

import numpy as np
import torch

from experiments import build
from experiments.conditions import sample_size
from experiments.cost import Meter
from experiments.measure import FEATURE_BATCH, described, sample_protocol
from experiments.memorisation import PIXELS, memorisation_protocols, small_pixels_of
from experiments.pictures import save_grid
from experiments.runner import Job, Outcome
from experiments.stages.samples import first_images
from ldm.metrics.features import Features
from ldm.metrics.memorisation import memorisation_metrics, nearest, small_pixels
from ldm.records import LeftOut, Protocol, ResultRow

SHOWN = 12


def run(job: Job) -> Outcome:
    """Rows in the judge's features and in pixels; nearest.png shows the samples that lie nearest to a training image.

    Its rows of pictures: sample, nearest training image by features, nearest by pixels. Pixels are compared of the
    samples that were kept: all with `samples.keep=images`, else those of the grid.
    """
    meter, full = Meter(job.device), job.plan.config
    if full["samples"]["height"] is not None:
        width, height = sample_size(full)[::-1]
        reason = f"samples of {width}x{height} px are larger than the training images: they have no nearest one"
        return Outcome(left_out=[LeftOut(f"memorisation_{space}", reason) for space in ("features", PIXELS)])
    train = build.images(full, "train", job.store)
    folder = job.parent_folder("training_set")
    features, of_training = (
        Features.load(job.parent_folder("samples") / "features.npz"),
        Features.load(folder / "features.npz"),
    )
    indices = np.load(folder / "indices.npy", allow_pickle=False)
    kept = first_images(job.parent_folder("samples"), len(features), *sample_size(full))
    by_features = nearest(features.features, of_training.features)
    of_kept = np.concatenate([small_pixels(batch) for batch in kept.split(FEATURE_BATCH)])
    by_pixels = nearest(of_kept, small_pixels_of(train, indices.tolist()))
    with np.load(folder / "distances.npz", allow_pickle=False) as file:
        unseen = {space: file[space] for space in file.files}
    judge, images_seen = full["metrics"]["extractor"], job.parent_record("diffusion").facts["images_seen"]
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
    job.run.image("nearest training images", job.folder / "nearest.png")
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
