"""A baseline without a network: latents drawn from a Gaussian fitted to those of the training images, and decoded."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import axes, labels, stage_settings
from experiments.artifacts import cached_latents, first_stage_of, reference_features
from experiments.chunks import Chunks
from experiments.conditions import DataFacts
from experiments.conditions.asked import drawn_images
from experiments.console import reporting
from experiments.cost import Meter
from experiments.counts import Counts
from experiments.pictures import save_grid, to_uint8
from experiments.published import is_given
from experiments.scoring import chosen, described, extractor_of, generation_protocol, sample_rows
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.latents import ENCODE_BATCH
from ldm.data.contract import ImageCache, Indices
from ldm.data.fields import Fields
from ldm.data.latents import CachedLatents
from ldm.metrics.features import Extractor, Features
from ldm.metrics.gaussian_latents import (
    LEAST_IMAGES,
    MOST_IMAGES,
    LatentGaussian,
    fitted,
    fitted_bytes,
    images_fitted,
)
from ldm.metrics.values import GAUSSIAN_LATENTS, GAUSSIAN_LATENTS_BY_CLASS, Variant
from ldm.randomness import SampleNoise
from ldm.records import LeftOut, ResultRow
from ldm.training.flops import count_flops

BATCH = 50
SHOWN = 16


@dataclass(frozen=True)
class _Share:
    """The samples that are drawn from one Gaussian, by number, and the training images that it is fitted to."""

    samples: NDArray[np.int64]
    images: NDArray[np.int64]


def run(job: Job) -> Outcome:
    """Rows of one Gaussian, and of one for each class where images have classes; a kill loses one batch.

    gaussian.png shows the first samples of both, one row each.
    """
    meter, n, seed = Meter(job.device), job.settings["n_samples"], job.settings["seed"]
    images, model, chunks = job.images("train"), first_stage_of(job), Chunks(job.folder)
    data = cached_latents(job, images, model, Fields(images, {}))
    extractor = extractor_of(job, job.parent("reference").settings["extractor"])
    shares, left_out = _shares(images, n, seed)
    reference, protocol = reference_features(job), generation_protocol(job, n)
    rows, shown = list[ResultRow](), list[Tensor]()
    with torch.inference_mode(), reporting(job.label, len(shares) * n) as reporter:
        for position, (variant, own) in enumerate(shares.items()):
            parts, drawer = list[dict[str, NDArray[Any]]](), _Drawer(data, seed, own)
            for first in range(0, n, BATCH):
                seen = functools.partial(_seen, drawer, extractor, range(first, min(first + BATCH, n)))
                parts.append(chunks.chunk(f"{variant.prefix}{first:08d}", seen))
                reporter.advance_to(position * n + min(first + BATCH, n))
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            features = Features.of(arrays)[np.argsort(arrays["number"])]
            found, missing = sample_rows(features, reference, protocol, None, variant)
            rows += found
            left_out += missing
            shown.append(torch.from_numpy(arrays["image"][np.argsort(arrays["number"][arrays["number"] < SHOWN])]))
        flops = count_flops(lambda: model.decode(drawer.means([0])))
    save_grid(job.folder / "gaussian.png", shown)
    job.log.image(job.folder / "gaussian.png")
    values = math.prod(job.parent("latents").record.facts["shape"])
    return Outcome(
        facts={"values": values, "images": images_fitted(len(images), values), "classes": len(images.classes)},
        rows=rows,
        left_out=left_out,
        protocols=described([protocol]),
        cost=meter.cost(len(shares) * n, len(shares) * n * flops, seconds=meter.seconds + chunks.seconds_before),
    )


@torch.inference_mode()
def drawn_again(job: Job, n: int) -> dict[str, Tensor]:
    """The first n samples of each Gaussian of a finished artifact, uint8 (n, 3, H, W), by what they were drawn from."""
    images, n, seed = job.images("train"), min(n, job.settings["n_samples"]), job.settings["seed"]
    data, found = cached_latents(job, images, first_stage_of(job), Fields(images, {})), {}
    for variant, own in _shares(images, n, seed)[0].items():
        drawer = _Drawer(data, seed, own)
        drawn = [drawer.drawn(range(first, min(first + BATCH, n))) for first in range(0, n, BATCH)]
        order = np.argsort(np.concatenate([number for number, _ in drawn]))
        found[variant.words] = torch.cat([image for _, image in drawn])[order]
    return found


def _shares(images: ImageCache, n: int, seed: int) -> tuple[dict[Variant, list[_Share]], list[LeftOut]]:
    """How n samples are shared out: one Gaussian of all images, and one of each class where they have classes."""
    shares, left_out = {GAUSSIAN_LATENTS: [_Share(np.arange(n), np.arange(len(images)))]}, list[LeftOut]()
    if images.classes:
        shares[GAUSSIAN_LATENTS_BY_CLASS], left_out = _by_class(images, drawn_images(len(images), n, seed))
    return shares, left_out


def _by_class(images: ImageCache, asked: Sequence[int]) -> tuple[list[_Share], list[LeftOut]]:
    """Samples by the class of the images that they are asked for; those of too small a class are of all images."""
    of_samples = images.labels[list(asked)]
    shares, left_out = list[_Share](), list[LeftOut]()
    for label in np.unique(of_samples):
        own = np.flatnonzero(images.labels == label)
        if len(own) < LEAST_IMAGES:
            reason = f"Class {images.classes[label]} has {len(own)} training image: its samples are of all classes'."
            left_out.append(LeftOut(GAUSSIAN_LATENTS_BY_CLASS.name("samples"), reason))
            own = np.arange(len(images))
        shares.append(_Share(np.flatnonzero(of_samples == label), own))
    return shares, left_out


class _Drawer:
    """Draws the samples of all shares, one share after the other, and holds the Gaussian of one."""

    def __init__(self, data: CachedLatents, seed: int, shares: Sequence[_Share]) -> None:
        self.data, self.seed, self.shares = data, seed, shares
        self.order = [(index, int(number)) for index, share in enumerate(shares) for number in share.samples]
        self.gaussian = functools.lru_cache(maxsize=1)(self._fitted)

    def means(self, indices: Indices) -> Tensor:
        """Raw latents of training images, posteriors at their means."""
        return self.data.first_stage.latent(self.data.encoded(indices))

    def _fitted(self, index: int) -> LatentGaussian:
        own = self.shares[index].images
        taken = chosen(len(own), images_fitted(len(own), self.means(own[:1]).numel()), self.seed, "gaussian")
        parts = (own[taken[first : first + ENCODE_BATCH]] for first in range(0, len(taken), ENCODE_BATCH))
        return fitted((self.means(part).cpu() for part in parts), len(taken))

    def drawn(self, positions: range) -> tuple[NDArray[np.int64], Tensor]:
        """Numbers and images of these samples. Shapes: (n,), uint8 (n, 3, H, W)."""
        latents, numbers = list[Tensor](), list[int]()
        for index, part in itertools.groupby((self.order[i] for i in positions), key=lambda item: item[0]):
            own = [number for _, number in part]
            latents.append(self.gaussian(index).draw(SampleNoise(self.seed, own)))
            numbers += own
        return np.array(numbers), to_uint8(self.data.first_stage.decode(torch.cat(latents).to(self.data.device)))


def _seen(drawer: _Drawer, extractor: Extractor, positions: range) -> Mapping[str, NDArray[Any]]:
    """Numbers of these samples, what the extractor sees in them, and the images of those that are shown."""
    number, images = drawer.drawn(positions)
    return {"number": number, "image": images.numpy()[number < SHOWN], **extractor(images).arrays}


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """How many samples are drawn; none where a denoiser is given, beside which there are no latents."""
    if is_given(config["denoiser"]):
        return None
    return {"n_samples": config["metrics"]["n_samples"], "seed": config["metrics"]["seed"]}


def estimate(settings: Settings, counts: Counts) -> Estimate:
    """One decoding an image; as if images had classes, of which the settings know nothing."""
    images, called = (
        2 * settings["n_samples"],
        counts.holding({"encode": ENCODE_BATCH, "decode": BATCH, "extract": BATCH}),
    )
    held = fitted_bytes(counts.train_images or MOST_IMAGES, math.prod(counts.first_stage.latent_shape))
    return Estimate(images, images * counts.first_stage.decode, memory=None if called is None else called + held)


STAGE = Stage(
    name="gaussian",
    parents=("first_stage", "latents", "reference"),
    version=1,
    axes=axes.OF_REFERENCE + axes.OF_FIRST_STAGE,
    until=stage_settings.FROM_LATENTS_ON,
    settings=settings,
    run=run,
    label=labels.first_stage,
    is_result=True,
    estimate=estimate,
)
