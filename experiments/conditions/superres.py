"""Super-resolution: the image at low resolution beside the latent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from experiments.conditions.asked import AskedConditions, GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm
from experiments.conditions.drawing import picture_of
from experiments.conditions.pairs import (
    WEIGHTS,
    distance_protocols,
    distances_between,
    measured_distances,
    pair_protocol,
    without_lpips,
)
from experiments.conditions.scores import Instruments, Measure, MeasuredSamples, Scored, Values, in_unit_range
from experiments.pictures import to_uint8
from ldm.conditioning import SuperResolutionConditioning
from ldm.data.degradation import DEGRADATIONS, Degradation
from ldm.data.fields import FieldMaker, LowResolution
from ldm.metrics import superres
from ldm.metrics.perceptual import perceptual_distances
from ldm.metrics.reconstruction import ImageErrors, PerceptualDistance, image_errors, mean_value, perceptual_metric
from ldm.metrics.values import BICUBIC, MetricValue, Variant, varied
from ldm.parts import option
from ldm.randomness import numpy_generator
from ldm.records import LeftOut


@dataclass(frozen=True)
class SuperresOptions:
    """scale: how many times smaller the low-resolution image is. degradation: how it is made."""

    scale: int = option(choices=(2, 4, 8), help="by which the given image is smaller")
    degradation: str = option(choices=DEGRADATIONS, help="how it is made smaller")


def _degradation(options: SuperresOptions) -> Degradation:
    return Degradation(options.degradation, options.scale)


def _fields(options: SuperresOptions, device: str) -> dict[str, FieldMaker]:
    return {"low_resolution": LowResolution(_degradation(options))}


def _conditioning(options: SuperresOptions, context: BuildContext) -> SuperResolutionConditioning:
    return SuperResolutionConditioning(options.scale, context.f)


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    low = picture_of(to_uint8(given.fields["low_resolution"]))
    return low.resize(size, Image.Resampling.NEAREST)


def _options_of(named: SuperResolutionConditioning, path: str) -> dict[str, Any]:
    return {"scale": named.scale}


@dataclass(frozen=True)
class SuperresMeasure:
    """Outputs against the images behind their inputs, and degraded again against the inputs themselves."""

    asked: AskedConditions
    degradation: Degradation
    distances: Sequence[PerceptualDistance]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        """Errors and distances of each sample, (n,). Shapes: samples uint8 (n, 3, H, W)."""
        originals, low = self.asked.originals(part), fields["low_resolution"]
        plain = superres.enlarged(low, (samples.shape[2], samples.shape[3]))
        again = [
            self.degradation(one, lambda i=i: numpy_generator(self.asked.seed, "fields", i))  # type: ignore[misc]
            for i, one in zip(part, in_unit_range(samples.cpu()), strict=True)
        ]
        return {
            **_errors("superres", originals, samples.cpu(), self.distances),
            **_errors("bicubic_superres", originals, plain, self.distances),
            "superres.consistency": superres.consistency_error(torch.stack(again), low),
        }


def _errors(name: str, originals: Tensor, others: Tensor, distances: Sequence[PerceptualDistance]) -> Values:
    errors = image_errors(originals, others)
    similarity = {} if errors.ssim is None else {f"{name}.ssim": errors.ssim}
    return {f"{name}.mse": errors.mse, **similarity, **distances_between(name, originals, others, distances)}


OUTPUTS: Mapping[str, tuple[Variant, ...]] = {"superres": (), "bicubic_superres": (BICUBIC,)}
"""What is compared with the images: samples, and bicubic enlargements, the floor."""


@dataclass(frozen=True)
class SuperresScore:
    """How near outputs are to the images behind their inputs, and whether they agree with the inputs."""

    weights: ClassVar[Mapping[str, str]] = WEIGHTS
    floor: ClassVar[Variant] = BICUBIC
    ceiling: ClassVar[Variant | None] = None  # the image itself has no error

    def measure(self, options: SuperresOptions, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """Errors and distances of each sample."""
        distances = perceptual_distances(instruments.settings.get("lpips_weights"))
        return SuperresMeasure(asked, _degradation(options), distances)

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """The distances say all when samples are scored."""
        return {}

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The errors, then each distance, of the outputs and of their floor."""
        values, plain = samples.values, pair_protocol("superres", samples)
        found: list[MetricValue | LeftOut] = [superres.consistency(values["superres.consistency"])]
        for name, variants in OUTPUTS.items():
            errors = ImageErrors(values[f"{name}.mse"], values.get(f"{name}.ssim"))
            scores, missing = superres.superres_metrics(errors, {}, *variants)
            found += [*scores, *missing]
        scored = [Scored.of(found, plain)]
        for distance, protocol in distance_protocols(plain, samples).items():
            of_outputs = superres.of_superres(perceptual_metric(distance))
            means = [
                mean_value(varied(of_outputs, *variants), measured_distances(values, name)[distance])
                for name, variants in OUTPUTS.items()
            ]
            scored.append(Scored.of(means, protocol))
        return scored, without_lpips("superres", samples)


SUPERRES = ConditionKind(
    name="superres",
    options=SuperresOptions,
    fields=_fields,
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=False,
    is_map=True,
    side_unit=lambda options: options.scale,  # the low-resolution image has whole pixels
    task=lambda options: f"{options.degradation}, {options.scale} times",
    scores=(SuperresScore(),),
    imported=ImportedForm(SuperResolutionConditioning, _options_of),
)
