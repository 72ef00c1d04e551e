"""What samples owe to their conditions: measured image by image while the images are there, made into rows afterwards.

Values of each image go by dotted names (`superres.mse`); the counts of a probe by the name of its score.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import artifacts, build
from experiments.conditions import ANNOTATION_OF, conditions_of
from experiments.generate import AskedConditions
from experiments.scoring import conditions_split, generation_protocol, judged_protocol, perceptual_protocol
from experiments.stage import Job
from ldm.data.contract import ImageCache
from ldm.data.degradation import Degradation
from ldm.metrics import clip_score, inpainting, superres
from ldm.metrics.clip_score import ClipScore, load_clip_score
from ldm.metrics.distribution import metric_name
from ldm.metrics.features import Extractor, Features
from ldm.metrics.reconstruction import ImageErrors, PerceptualDistance, image_errors
from ldm.metrics.task import shuffled_partners, task_score
from ldm.metrics.values import BICUBIC, MEAN_FILL, OTHER_CONDITIONS, REAL_IMAGES, MetricValue, varied
from ldm.probes import PROBES, Probe
from ldm.randomness import numpy_generator
from ldm.records import LeftOut, ResultRow, content_hash
from ldm.records import Protocol as HowMeasured

LPIPS = "lpips_alex"
NO_LPIPS = (
    "LPIPS needs AlexNet's weights and none are given: name torchvision's file with metrics.lpips=PATH; the feature "
    "distance stands in its place."
)

Values = dict[str, NDArray[Any]]
"""Values of each image by name, images first."""

Scores = tuple[list[MetricValue], list[LeftOut]]


class Measure(Protocol):
    """Something measured of samples `part` of a sample set, uint8 (n, 3, H, W), and the fields they were given."""

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values: ...


@dataclass(frozen=True)
class ProbeMeasure:
    """A probe asked for each sample's condition, and for that of another sample, which is the floor.

    Sample i has the condition of image `indices[i]`; `partners` names the other sample.
    """

    probe: Probe
    images: ImageCache
    indices: Sequence[int]
    partners: NDArray[np.int64]
    device: str

    @torch.inference_mode()
    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        seen = _in_unit_range(samples.to(self.device))
        found = {}
        for prefix, whose in (("", part), ("shuffled_", self.partners[part.start : part.stop])):
            targets = self.probe.targets(self.images, [self.indices[i] for i in whose])
            found[prefix + self.probe.metric] = self.probe.counts(seen, targets.to(self.device))
        return found


@dataclass(frozen=True)
class ClipMeasure:
    """CLIP scores of samples with their captions, with those of other samples, and of the captions' own images."""

    model: ClipScore
    asked: AskedConditions
    partners: NDArray[np.int64]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        captions = self.asked.fields.images.captions
        assert captions is not None, "planning asks for the annotation first"
        own = [captions[self.asked.indices[i]] for i in part]
        others = [captions[self.asked.indices[i]] for i in self.partners[part.start : part.stop]]
        return {
            "clip_score": self.model(samples, own),
            "shuffled_clip_score": self.model(samples, others),
            "real_clip_score": self.model(self.asked.originals(part), own),
        }


@dataclass(frozen=True)
class SuperresMeasure:
    """Outputs against the images behind their inputs, and degraded again against the inputs themselves."""

    asked: AskedConditions
    degradation: Degradation
    distances: Sequence[PerceptualDistance]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        originals, low = self.asked.originals(part), fields["low_resolution"]
        plain = superres.enlarged(low, (samples.shape[2], samples.shape[3]))
        again = [
            self.degradation(one, lambda i=i: numpy_generator(self.asked.seed, "fields", i))  # type: ignore[misc]
            for i, one in zip(part, _in_unit_range(samples.cpu()), strict=True)
        ]
        return {
            **_errors("superres", originals, samples.cpu(), self.distances),
            **_errors("bicubic_superres", originals, plain, self.distances),
            "superres.consistency": superres.consistency_error(torch.stack(again), low),
        }


@dataclass(frozen=True)
class InpaintMeasure:
    """Filled-in images against the images themselves, by the share that the hole covers."""

    asked: AskedConditions
    extractor: Extractor
    distances: Sequence[PerceptualDistance]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        originals, mask, samples = self.asked.originals(part), fields["mask"], samples.cpu()
        plain = inpainting.mean_filled(originals, mask)
        return {
            **_distances("inpaint", originals, samples, self.distances),
            **_distances("mean_fill_inpaint", originals, plain, self.distances),
            "inpaint.covered": inpainting.covered_share(mask),
            "inpaint.known": inpainting.known_error(originals, samples, mask),
            "inpaint.features": self.extractor(originals).features,
        }


def measures_of(job: Job, asked: AskedConditions, extractor: Extractor) -> list[Measure]:
    """What is measured of the samples of a job's plan; nothing where they are larger than the images."""
    diffusion, n, found = job.parent("diffusion").settings, len(asked.indices), list[Measure]()
    partners = shuffled_partners(n, asked.seed)
    if job.settings["height"] is not None:
        return found
    distances = build.perceptual_distances(job.settings.get("lpips_weights"))
    for kind in conditions_of(diffusion):
        match kind:
            case "superres":
                settings = diffusion["conditioning"]["superres"]
                degradation = Degradation(settings["degradation"], settings["scale"])
                found.append(SuperresMeasure(asked, degradation, distances))
            case "inpaint":
                found.append(InpaintMeasure(asked, extractor, distances))
            case _ if kind in job.parent("probe").record.facts["probes"]:
                probe = artifacts.trained_probe(job, kind)
                found.append(ProbeMeasure(probe, asked.fields.images, asked.indices, partners, job.device))
    if job.settings.get("clip_model"):
        model = load_clip_score(Path(job.settings["clip_model"]).expanduser(), job.device)
        found.append(ClipMeasure(model, asked, partners))
    return found


def task_facts(job: Job, asked: AskedConditions) -> dict[str, Any]:
    """What protocols of task scores say of whose conditions were asked for, and of the CLIP model."""
    kinds, clip = conditions_of(job.parent("diffusion").settings), job.settings.get("clip_model")
    if not kinds:
        return {}
    facts = {"asked": asked_facts(asked.fields.images, conditions_split(job.settings), kinds)}
    if clip is None:
        return facts
    return {**facts, "clip": clip_facts(load_clip_score(Path(clip).expanduser(), job.device))}


def clip_facts(model: ClipScore) -> dict[str, Any]:
    """What protocols say of a CLIP model."""
    return {
        "extractor": "clip",
        "extractor_size": model.size,
        "extractor_weights": model.weights_hash,
        "resize": "transformers' preprocessing",
    }


def asked_facts(images: ImageCache, split: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Whose conditions were asked for, as protocols say it: `hash` covers images and the annotations of these kinds."""
    read = [images.annotations[ANNOTATION_OF[kind]].fingerprint for kind in kinds if kind in ANNOTATION_OF]
    return {"split": split, "hash": content_hash([images.fingerprint, *read]), "images": len(images)}


@dataclass(frozen=True)
class Judged:
    """Scores that one judge gave, and how."""

    scores: Scores
    protocol: HowMeasured

    def rows(self, images_seen: int) -> list[ResultRow]:
        """The scores that could be given."""
        return [value.row(self.protocol.id, images_seen) for value in self.scores[0]]


def judged(job: Job, values: Values, features: Features) -> tuple[list[Judged], list[LeftOut]]:
    """The scores of the samples stage's values of each image, and what no judge was there for."""
    asked, n = job.parent("samples").record.facts["asked"], len(features)
    kinds, found, left_out = conditions_of(job.parent("diffusion").settings), list[Judged](), list[LeftOut]()
    for kind in kinds:
        if kind in PROBES:
            probes = job.parent("probe").record.facts
            if kind in probes["obstacles"]:
                left_out.append(LeftOut(PROBES[kind].metric, probes["obstacles"][kind]))
            else:
                judge = probe_protocol(job, kind, probes["probes"][kind], asked, n)
                found.append(Judged(_probe_scores(PROBES[kind].metric, values), judge))
        else:
            found += _pair_judged(job, kind, values, features, asked)
            if LPIPS not in _named(values, f"{kind}.distance."):
                left_out.append(LeftOut(f"{kind}_{LPIPS}", NO_LPIPS))
    if "clip_score" in values:
        similar = [
            clip_score.clip_score(values[varied(clip_score.CLIP_SCORE, *variants).name], *variants)
            for variants in ((), (OTHER_CONDITIONS,), (REAL_IMAGES,))
        ]
        clip = job.parent("samples").record.facts["clip"]
        found.append(Judged((similar, []), _task_protocol(job, "clip_score", asked, n, **clip)))
    elif "text" in kinds:
        left_out.append(LeftOut("clip_score", clip_score.MISSING))
    return found, left_out


def probe_protocol(job: Job, kind: str, probe: Mapping[str, Any], asked: Mapping[str, Any], n: int) -> HowMeasured:
    """How n images are asked for conditions by the probe of a kind; `probe` are its facts."""
    return _task_protocol(
        job,
        f"{kind} probe",
        asked,
        n,
        extractor=f"probe_{kind}",
        extractor_size=probe["side"],
        extractor_weights=probe["weights_hash"],
        resize="bilinear_antialias",
    )


def _task_protocol(
    job: Job,
    kind: str,
    asked: Mapping[str, Any],
    n: int,
    *,
    extractor: str,
    extractor_size: int,
    extractor_weights: str,
    resize: str,
) -> HowMeasured:
    return HowMeasured(
        kind=kind,
        n_samples=n,
        reference=f"conditions of {asked['split']} images",
        reference_hash=asked["hash"],
        n_reference=asked["images"],
        resolution=job.resolution,
        resize=resize,
        extractor=extractor,
        extractor_size=extractor_size,
        extractor_weights=extractor_weights,
        extractor_precision="float32",
        class_balance=f"as asked for in {asked['split']} images",
        evaluation_seed=job.settings["seed"],
    )


def _pair_judged(job: Job, kind: str, values: Values, features: Features, asked: Mapping[str, Any]) -> Iterator[Judged]:
    """How near outputs are to the images behind their conditions, pixel by pixel and to each network that sees both."""
    n, judge = len(features), job.parent("samples").settings["extractor"]["name"]
    given, missing = _superres_scores(values) if kind == "superres" else _inpaint_scores(job, values, features)
    plain = _task_protocol(job, kind, asked, n, extractor="none", extractor_size=0, extractor_weights="", resize="none")
    plain = dataclasses.replace(
        plain,
        reference=f"the {asked['split']} images behind the conditions",
        extractor_precision="",
        class_balance=f"as in the {asked['split']} images",
    )
    distances = build.perceptual_distances(job.parent("samples").settings.get("lpips_weights"))
    networks = {one.name: perceptual_protocol(job, plain, one) for one in distances}
    networks |= {metric_name("fd", judge): judged_protocol(plain, generation_protocol(job, n))}

    def network(metric: str) -> str:
        return next((name for name in networks if name in metric), "")

    for name, protocol in {"": plain, **networks}.items():
        own = [score for score in given if network(score.metric) == name]
        yield Judged((own, [item for item in missing if network(item.metric) == name]), protocol)


def _probe_scores(metric: str, values: Values) -> Scores:
    floor = task_score(metric, values[OTHER_CONDITIONS.name(metric)], OTHER_CONDITIONS)
    return _sorted_out([task_score(metric, values[metric]), floor])


def _superres_scores(values: Values) -> Scores:
    found: list[MetricValue | LeftOut] = [superres.consistency(values["superres.consistency"])]
    for name, variants in (("superres", ()), ("bicubic_superres", (BICUBIC,))):
        errors = ImageErrors(values[f"{name}.mse"], values.get(f"{name}.ssim"))
        scores, missing = superres.superres_metrics(errors, _named(values, f"{name}.distance."), *variants)
        found += [*scores, *missing]
    return _sorted_out(found)


def _inpaint_scores(job: Job, values: Values, features: Features) -> Scores:
    covered = values["inpaint.covered"]
    originals = Features(values["inpaint.features"], None)
    found: list[MetricValue | LeftOut] = [inpainting.known_metrics(values["inpaint.known"])]
    for scores, missing in (
        inpainting.frechet_by_band(features, originals, covered, job.parent("samples").settings["extractor"]["name"]),
        *(
            inpainting.distances_by_band(_named(values, f"{name}.distance."), covered, *variants)
            for name, variants in (("inpaint", ()), ("mean_fill_inpaint", (MEAN_FILL,)))
        ),
    ):
        found += [*scores, *missing]
    return _sorted_out(found)


def _errors(name: str, originals: Tensor, others: Tensor, distances: Sequence[PerceptualDistance]) -> Values:
    errors = image_errors(originals, others)
    similarity = {} if errors.ssim is None else {f"{name}.ssim": errors.ssim}
    return {f"{name}.mse": errors.mse, **similarity, **_distances(name, originals, others, distances)}


def _distances(name: str, originals: Tensor, others: Tensor, distances: Sequence[PerceptualDistance]) -> Values:
    pair = _in_unit_range(originals), _in_unit_range(others)
    return {f"{name}.distance.{one.name}": one(*pair).double().cpu().numpy() for one in distances}


def _named(values: Values, prefix: str) -> Values:
    """The values whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): found for name, found in values.items() if name.startswith(prefix)}


def _sorted_out(found: Sequence[MetricValue | LeftOut]) -> Scores:
    return (
        [item for item in found if isinstance(item, MetricValue)],
        [item for item in found if isinstance(item, LeftOut)],
    )


def _in_unit_range(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1]."""
    return images.float() / 127.5 - 1
