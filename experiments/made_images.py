"""Images that the finished stages of a store made: as they were saved, or made anew from their networks and seeds."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.artifacts import first_stage_of
from experiments.console import reporting
from experiments.generate import Batch, images_of
from experiments.saved_samples import IMAGES
from experiments.scoring import FEATURE_BATCH, STATED, feature_file, features_of
from experiments.stage import Job
from experiments.stages import gaussian, progress, reconstruction, samples
from ldm.metrics.features import Extractor, Features
from ldm.metrics.model_ladder import DECODED, GAUSSIAN, GAUSSIAN_BY_CLASS, MILESTONE, SAMPLES
from ldm.records import GAUSSIAN as OF_ALL_IMAGES
from ldm.records import StageRecord

MADE_BY: Mapping[str, str] = {
    "reconstruction": DECODED,
    "gaussian": GAUSSIAN,
    "samples": SAMPLES,
    "progress": MILESTONE,
}
"""The stages that make images, and the kind of these."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage that made images: its job, its record, its file of a name, and the axes of its cell.

    `axes` hold the `settings` of the cell that no axis shows, too. `extractors`: by name, what the stages of its cell
    say of the extractors that saw its samples; its own is under None.
    """

    job: Job
    record: StageRecord
    file: Callable[[str], Path]
    axes: Mapping[str, Any]
    settings: Sequence[str]
    extractors: Mapping[str | None, Mapping[str, Any]]


@dataclass(frozen=True)
class MadeSet:
    """A set of images in the order in which its stage made them.

    `first_stage`: the identity of what decoded them. `images` reads or makes them, uint8 (n, 3, H, W). `features`:
    files of what extractors saw in them, by what is `STATED` of these. `saturated`: the share of values that are 0 or
    255, where the stage tells. `is_excerpt`: whether its images are fewer than the stage made.
    """

    kind: str
    axes: Mapping[str, Any]
    first_stage: str
    identity: str
    images: Callable[[], Tensor]
    features: Mapping[tuple[Any, ...], Path] = field(default_factory=dict)
    saturated: float | None = None
    images_seen: int | None = None
    is_excerpt: bool = False

    def was_seen_by(self, extractor: Extractor) -> bool:
        """Whether what the extractor saw in all of them lies there."""
        return stated(extractor) in self.features

    def seen(self, extractor: Extractor, n: int) -> Features:
        """The first n images, or as many as there are, in the eyes of an extractor: then, or now."""
        if self.was_seen_by(extractor):
            return Features.load(self.features[stated(extractor)])[:n]
        return features_of(self.images()[:n].split(FEATURE_BATCH), extractor)


def stated(extractor: Extractor) -> tuple[Any, ...]:
    """What protocols say of an extractor."""
    return tuple(getattr(extractor, name) for name in STATED)


def sets_of(artifact: Artifact, indices: Sequence[int], n: int, make: bool) -> Iterator[MadeSet]:
    """The sets of images of an artifact, of decoded images those of these held-out ones, else the first n.

    `make`: whether samples that are not saved are made anew. Without it a sample set is that of its picture where its
    images are asked for, and there are no milestones.
    """
    job, kind = artifact.job, MADE_BY[artifact.record.stage]

    def found(kind: str, images: Callable[[], Tensor], **more: Any) -> MadeSet:
        identity = job.parent("first_stage").record.identity
        return MadeSet(kind, artifact.axes, identity, artifact.record.identity, images, **more)

    if kind == DECODED:
        yield found(kind, functools.cache(functools.partial(_decoded, job, indices)))
    elif kind == GAUSSIAN:
        for words, images in gaussian.drawn_again(job, n).items():
            yield found(GAUSSIAN if words == OF_ALL_IMAGES else GAUSSIAN_BY_CLASS, functools.partial(_same, images))
    elif kind == SAMPLES:
        is_saved = (job.folder / IMAGES).exists()
        again = functools.partial(_sampled, job.label, n, lambda: samples.sampled_again(job, n))
        shown = functools.partial(_shown, artifact, n)
        yield found(
            kind,
            functools.cache(again if make and not is_saved else shown),
            features=_features(artifact),
            saturated=artifact.record.facts.get("saturated"),
            is_excerpt=not (make or is_saved) and min(n, job.settings["n_samples"]) > samples.SHOWN,
        )
    elif make:
        for seen in progress.milestones_of(job):
            again = functools.partial(_sampled, job.label, n, functools.partial(progress.sampled_again, job, seen, n))
            yield found(kind, functools.cache(again), images_seen=seen)


def _same(images: Tensor) -> Tensor:
    return images


def _decoded(job: Job, indices: Sequence[int]) -> Tensor:
    model, seed = first_stage_of(job), job.settings["seed"]
    return torch.cat(list(reconstruction.decoded(model, job.images("heldout"), indices, seed, job.device)))


def _sampled(label: str, n: int, again: Callable[[], Iterable[Batch]]) -> Tensor:
    with reporting(label, n) as reporter:
        return torch.cat(list(images_of(again(), reporter, 0)))


def _shown(artifact: Artifact, n: int) -> Tensor:
    side = artifact.job.resolution
    return samples.first_images(artifact.file, artifact.record.config["n_samples"], side, side)[:n]


def _features(artifact: Artifact) -> dict[tuple[Any, ...], Path]:
    """Files of what extractors saw in the samples of an artifact."""
    names = (None, *artifact.record.config.get("other_extractors", ()))
    return {
        tuple(artifact.extractors[name][key] for key in STATED): artifact.file(feature_file(name))
        for name in names
        if name in artifact.extractors
    }
