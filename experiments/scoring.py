"""What several stages measure alike: features of images, generation metrics as rows, and their protocol."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments import build
from experiments.artifacts import reference_facts
from experiments.data_facts import DataFacts
from experiments.stage import Job, Settings
from ldm.data.contract import SPLITS, ImageCache, Split
from ldm.errors import UserError
from ldm.metrics.distribution import KERNEL, KINDS, generation_metrics, metric_name, metric_of
from ldm.metrics.features import Extractor, FeatureAccumulator, Features
from ldm.metrics.values import REAL_IMAGES, MetricValue, Variant, variant_left_out
from ldm.randomness import generator
from ldm.records import LeftOut, Protocol, ResultRow
from ldm.training.flops import count_flops

FEATURE_BATCH = 100

STATED = ("name", "weights_hash", "size", "resize", "precision")
"""What protocols say of an extractor; two that agree in it see the same."""


def features_of(batches: Iterable[Tensor], extractor: Extractor) -> Features:
    """Features of uint8 images (N, 3, H, W) that come in batches."""
    collected = FeatureAccumulator()
    for batch in batches:
        collected.add(extractor(batch))
    return collected.result()


def batches_of(images: ImageCache, indices: Sequence[int], size: int = FEATURE_BATCH) -> Iterator[Tensor]:
    """The chosen images as uint8 batches."""
    for first in range(0, len(indices), size):
        yield images.uint8(indices[first : first + size])


def windows(images: Tensor, side: int, seed: int, indices: range) -> Tensor:
    """One square of `side` pixels of each image (N, 3, H, W); that of image i lies where (seed, i) says.

    Shapes: result (N, 3, side, side).
    """
    height, width = images.shape[2:]
    cut = []
    for image, index in zip(images, indices, strict=True):
        draws = generator(seed, "window", index)
        top, left = (int(torch.randint(whole - side + 1, (), generator=draws)) for whole in (height, width))
        cut.append(image[:, top : top + side, left : left + side])
    return torch.stack(cut)


def chosen(total: int, n: int, seed: int, purpose: str) -> list[int]:
    """n of `total` indices, rising, a function of the seed and the purpose; all of them where there are no more."""
    if n >= total:
        return list(range(total))
    return sorted(torch.randperm(total, generator=generator(seed, purpose))[:n].tolist())


MOST_REFERENCE_IMAGES = 50_000


@dataclass(frozen=True)
class SeenReference:
    """The reference images in the eyes of one extractor, and the other split measured against them: the floor."""

    features: Features
    facts: Mapping[str, Any]
    rows: Sequence[ResultRow]
    left_out: Sequence[LeftOut]
    protocol: Protocol
    flops: float


@dataclass(frozen=True)
class ReferenceImages:
    """The real images that samples of a plan are compared with, and as many of the other split as there are samples."""

    job: Job
    splits: Mapping[str, ImageCache]
    reference: Sequence[int]
    floor: Sequence[int]

    @classmethod
    def of(cls, job: Job) -> "ReferenceImages":
        """Those that a reference stage's config names."""
        settings = job.settings
        splits: Mapping[str, ImageCache] = {split: job.images(split) for split in SPLITS}
        judged_against = splits[settings["reference"]]
        reference = chosen(len(judged_against), MOST_REFERENCE_IMAGES, settings["seed"], "reference")
        return cls(job, splits, reference, floor_images(settings, splits)[1])

    @property
    def count(self) -> int:
        """How many images an extractor sees."""
        return len(self.reference) + len(self.floor)

    def judged(self, settings: Mapping[str, Any]) -> SeenReference:
        """What the extractor of these settings sees in them."""
        extractor, split = extractor_of(self.job, settings), self.job.settings["reference"]
        judged_against, measured = self.splits[split], self.splits[_other(split)]
        reference = features_of(batches_of(judged_against, self.reference), extractor)
        floor = features_of(batches_of(measured, self.floor), extractor)
        facts = {
            "reference_fingerprint": judged_against.fingerprint,
            "n_reference": len(reference),
            "extractor": {name: getattr(extractor, name) for name in STATED},
        }
        protocol = protocol_from(self.job.settings, self.job.resolution, facts, len(floor), _other(split))
        rows, left_out = generation_rows(floor, reference, protocol, REAL_IMAGES)
        flops = count_flops(lambda: extractor(self.splits["heldout"].uint8([0])))
        return SeenReference(reference, facts, rows, left_out, protocol, self.count * flops)

    def saturated(self) -> float:
        """The share of the reference images' pixel values that are 0 or 255."""
        images, found = self.splits[self.job.settings["reference"]], list[tuple[int, int]]()
        for batch in batches_of(images, self.reference):
            found.append((saturated(batch), batch.numel()))
        return sum(ends for ends, _ in found) / sum(values for _, values in found)


def saturated(images: Tensor) -> int:
    """How many values of uint8 images are 0 or 255. Shapes: any."""
    return int(((images == 0) | (images == 255)).sum())


def floor_images(settings: Mapping[str, Any], splits: Mapping[str, ImageCache]) -> tuple[str, list[int]]:
    """The split that a reference stage of these settings does not compare with, and those of it that floors measure."""
    split = _other(settings["reference"])
    return split, chosen(len(splits[split]), settings["n_samples"], settings["seed"], "floor")


def reference_images(metrics: Mapping[str, Any], facts: DataFacts) -> int:
    """How many real images samples are compared with."""
    split = facts.heldout_images if metrics["reference"] == "heldout" else facts.train_images
    return min(split, MOST_REFERENCE_IMAGES)


def left_out_by_number(metrics: Mapping[str, Any], facts: DataFacts) -> list[str]:
    """The metrics of samples that the numbers of images leave out, each with what it needs and what there is."""
    reference = reference_images(metrics, facts)
    sides = {True: min(metrics["n_samples"], reference), False: metrics["n_samples"]}
    return [
        f"{metric_name(kind.name, metrics['extractor'])} (needs {kind.images}, there are {sides[kind.of_reference]})"
        for kind in KINDS.values()
        if kind.extractor is None and kind.array != "spatial" and sides[kind.of_reference] < kind.images
    ]


def _other(split: str) -> str:
    return "train" if split == "heldout" else "heldout"


SPLIT_NAMES = {"train": "training", "heldout": "held-out"}


def sample_protocol(job: Job, n_samples: int, extractor: str | None = None) -> Protocol:
    """How generation metrics of n samples of this job's model are measured, by its extractor or another one."""
    samples = job.parents["samples"].settings if "samples" in job.parents else job.settings
    protocol = generation_protocol(job, n_samples, extractor=extractor)
    return dataclasses.replace(protocol, class_balance=f"as in the {SPLIT_NAMES[conditions_split(samples)]} images")


def conditions_split(settings: Settings) -> Split:
    """The split whose conditions samples are given, from the settings of what samples."""
    split: Split = settings["conditions"]["split"] if "conditions" in settings else "train"
    return split


def generation_protocol(job: Job, n_samples: int, measured: str = "train", extractor: str | None = None) -> Protocol:
    """How n images of the split `measured`, decoded or not, are compared with the reference images.

    They stand for samples that nothing can better.
    """
    settings = job.parent("reference").settings
    return protocol_from(settings, job.resolution, reference_facts(job, extractor), n_samples, measured)


def protocol_from(
    settings: Settings, resolution: int, facts: Mapping[str, Any], n_samples: int, measured: str = "train"
) -> Protocol:
    """The protocol of generation metrics from settings and facts of a reference stage, for the split `measured`."""
    return Protocol(
        kind="generation",
        n_samples=n_samples,
        reference=settings["reference"],
        reference_hash=facts["reference_fingerprint"],
        n_reference=facts["n_reference"],
        resolution=resolution,
        resize=facts["extractor"]["resize"],
        extractor=facts["extractor"]["name"],
        extractor_size=facts["extractor"]["size"],
        extractor_weights=facts["extractor"]["weights_hash"],
        extractor_precision=facts["extractor"]["precision"],
        class_balance=f"as in the {SPLIT_NAMES[measured]} images",
        evaluation_seed=settings["seed"],
        marks=_marks(settings),
    )


def _marks(reference: Settings) -> tuple[str, ...]:
    # At f = 1 nothing was trained with the extractor, but its rows stand beside some of models that were.
    is_marked = reference.get("allow_same_network", False)
    return ("the judge may have trained the first stage",) if is_marked else ()


def window_protocol(generation: Protocol) -> Protocol:
    """How windows of the reference's size are compared, one of each sample, whatever the size of the samples."""
    mark = "one window of each larger sample, against whole images"
    return dataclasses.replace(generation, kind="windows", marks=(*generation.marks, mark))


def reconstruction_protocol(job: Job, heldout: ImageCache, n: int) -> Protocol:
    """How n held-out images are compared with their reconstructions, and their latents counted, by no network."""
    return dataclasses.replace(unjudged_protocol(job, "reconstruction", heldout, n), reference="the images themselves")


def unjudged_protocol(
    job: Job, kind: str, images: ImageCache, n: int, *marks: str, split: Split = "heldout"
) -> Protocol:
    """How n images of a split are measured where no network judges; `marks` are what else decides the number."""
    return Protocol(
        kind=kind,
        n_samples=n,
        reference=split,
        reference_hash=images.fingerprint,
        n_reference=n,
        resolution=images.resolution,
        resize="none",
        extractor="none",
        extractor_size=0,
        extractor_weights="",
        extractor_precision="",
        class_balance=f"as in the {SPLIT_NAMES[split]} images",
        evaluation_seed=job.settings["seed"],
        marks=marks,
    )


def described(protocols: Iterable[Protocol]) -> dict[str, Any]:
    """Protocols by id, as a record keeps them."""
    return {protocol.id: dataclasses.asdict(protocol) for protocol in protocols}


def generation_rows(
    features: Features, reference: Features, protocol: Protocol, *variants: Variant
) -> tuple[list[ResultRow], list[LeftOut]]:
    """Generation metrics of real images, decoded or not, as rows of these variants of the metrics."""
    values, left_out = generation_metrics(features, reference, protocol.extractor, protocol.evaluation_seed)
    # Which image is in which block, none of these rows' readers could tell.
    values = [dataclasses.replace(value, deviations=None, alone=0.0) for value in values]
    return _varied_rows(values, left_out, protocol, None, variants)


def sample_rows(
    features: Features, reference: Features, protocol: Protocol, images_seen: int | None, *variants: Variant
) -> tuple[list[ResultRow], list[LeftOut]]:
    """Generation metrics of samples 0 to n - 1 of a model: rows whose differences cancel what equal noise gives."""
    numbers = range(len(features))
    values, left_out = generation_metrics(features, reference, protocol.extractor, protocol.evaluation_seed, numbers)
    return _varied_rows(values, left_out, protocol, images_seen, variants)


def kernel_row(features: Features, reference: Features, protocol: Protocol, asked: str) -> ResultRow:
    """The kernel distance of samples by which a setting is found, as `asked` for.

    Raises: UserError where it cannot be given: the plan counts images, of which some may have been unusable.
    """
    metric = metric_of(KERNEL, protocol.extractor).name
    rows, left_out = sample_rows(features, reference, protocol, None)
    for item in left_out:
        if item.metric == metric:
            raise UserError(f"{asked} goes by {metric}, which cannot be given: {item.reason}")
    [row] = [row for row in rows if row.metric == metric]
    return row


def _varied_rows(
    values: Iterable[MetricValue],
    left_out: Iterable[LeftOut],
    protocol: Protocol,
    images_seen: int | None,
    variants: Sequence[Variant],
) -> tuple[list[ResultRow], list[LeftOut]]:
    rows = [value.varied(*variants).row(protocol.id, images_seen) for value in values]
    return rows, [variant_left_out(item, *variants) for item in left_out]


SHORT_SAMPLER: Mapping[str, Any] = {
    "name": "ddim",
    "eta": 0.0,
    "spacing": "neutral",
    "final": "clean",
    "clip": "none",
}
"""What milestones and small denoisers are sampled with, whatever the cells are."""


def spelled_sampler(settings: Mapping[str, Any]) -> str:
    """A sampler as the protocol names it that prescribes it; its seed is that of the evaluation."""
    options = ", ".join(f"{key} {value}" for key, value in settings.items() if key not in ("name", "steps", "seed"))
    return f"{settings['name']}, {settings['steps']} steps, {options}"


def feature_file(judge: str | None = None) -> str:
    """Where a samples stage keeps what its extractor saw, or another one so named."""
    return "features.npz" if judge is None else f"features-{judge}.npz"


def extractor_of(job: Job, settings: Mapping[str, Any]) -> Extractor:
    """The judge, on the job's device."""
    return build.extractor(settings, job.device)
