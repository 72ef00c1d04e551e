"""Inpainting: the latent of the image without a random region, and that region, beside the latent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from experiments.conditions.asked import AskedConditions, GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm, ImportedModel
from experiments.conditions.drawing import picture_of
from experiments.conditions.pairs import (
    WEIGHTS,
    distance_protocols,
    distances_between,
    measured_distances,
    pair_protocol,
    without_lpips,
)
from experiments.conditions.scores import Instruments, Measure, MeasuredSamples, Scored, Values
from experiments.pictures import to_uint8
from experiments.protocols import through_extractor
from ldm.conditioning import InpaintingConditioning
from ldm.data import fields
from ldm.data.fields import FieldMaker, Masks
from ldm.data.masks import MASK_KINDS
from ldm.errors import UserError
from ldm.metrics import inpainting
from ldm.metrics.features import Extractor, Features
from ldm.metrics.perceptual import perceptual_distances
from ldm.metrics.reconstruction import PerceptualDistance
from ldm.metrics.values import MEAN_FILL, MetricValue, Variant
from ldm.parts import option
from ldm.records import LeftOut


@dataclass(frozen=True)
class InpaintOptions:
    """masks: the kinds of regions, drawn evenly."""

    masks: tuple[str, ...] = option(choices=MASK_KINDS, help="kinds of regions that are left out")


def _check(options: InpaintOptions) -> None:
    if not options.masks:
        raise UserError(f"conditioning.inpaint.masks={options.masks} must name some of {', '.join(MASK_KINDS)}")


def _fields(options: InpaintOptions, device: str) -> dict[str, FieldMaker]:
    return {"image": fields.image, "mask": Masks(tuple(options.masks))}


def _conditioning(options: InpaintOptions, context: BuildContext) -> InpaintingConditioning:
    return InpaintingConditioning(context.encode, context.channels, context.f)


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    known = torch.where(given.fields["mask"] > 0, torch.zeros(()), given.fields["image"])
    return picture_of(to_uint8(known)).resize(size, Image.Resampling.NEAREST)


def _fitted(named: InpaintingConditioning, model: ImportedModel, context: BuildContext) -> InpaintingConditioning:
    scale = model.latent_scale()

    def raw(image: Tensor) -> Tensor:
        """The raw latent, which the reference's inpainting model is given."""
        return scale.denormalise(context.encode(image))

    return InpaintingConditioning(raw, named.concat_channels - 1, context.f, named.covered, named.reduction)


@dataclass(frozen=True)
class InpaintMeasure:
    """Filled-in images against the images themselves, by the share that the hole covers."""

    asked: AskedConditions
    extractor: Extractor
    distances: Sequence[PerceptualDistance]

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        """Distances, covered share and features of each sample. Shapes: samples uint8 (n, 3, H, W)."""
        originals, mask, samples = self.asked.originals(part), fields["mask"], samples.cpu()
        plain = inpainting.mean_filled(originals, mask)
        return {
            **distances_between("inpaint", originals, samples, self.distances),
            **distances_between("mean_fill_inpaint", originals, plain, self.distances),
            "inpaint.covered": inpainting.covered_share(mask),
            "inpaint.known": inpainting.known_error(originals, samples, mask),
            "inpaint.features": self.extractor(originals).features,
        }


OUTPUTS: Mapping[str, tuple[Variant, ...]] = {"inpaint": (), "mean_fill_inpaint": (MEAN_FILL,)}
"""What is compared with the images: samples, and holes in the mean colour of the rest, the floor."""


@dataclass(frozen=True)
class InpaintScore:
    """How near filled-in images are to the images themselves, by the share that the hole covers."""

    weights: ClassVar[Mapping[str, str]] = WEIGHTS
    floor: ClassVar[Variant] = MEAN_FILL
    ceiling: ClassVar[Variant | None] = None  # the image itself has no error

    def measure(self, options: InpaintOptions, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """Distances of each sample, and the features of the images themselves."""
        distances = perceptual_distances(instruments.settings.get("lpips_weights"))
        return InpaintMeasure(asked, instruments.extractor, distances)

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """The distances say all when samples are scored."""
        return {}

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The known pixels, then each distance of outputs and floor, then the Frechet distance."""
        values, plain = samples.values, pair_protocol("inpaint", samples)
        covered = values["inpaint.covered"]
        scored = [Scored.of([inpainting.known_metrics(values["inpaint.known"])], plain)]
        for distance, protocol in distance_protocols(plain, samples).items():
            found: list[MetricValue | LeftOut] = []
            for name, variants in OUTPUTS.items():
                measured = {distance: measured_distances(values, name)[distance]}
                scores, missing = inpainting.distances_by_band(measured, covered, *variants)
                found += [*scores, *missing]
            scored.append(Scored.of(found, protocol))
        originals, generation = Features(values["inpaint.features"], None), samples.generation
        scores, missing = inpainting.frechet_by_band(samples.features, originals, covered, generation.extractor)
        scored.append(Scored.of([*scores, *missing], through_extractor(plain, generation)))
        return scored, without_lpips("inpaint", samples)


INPAINT = ConditionKind(
    name="inpaint",
    options=InpaintOptions,
    fields=_fields,
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=False,
    is_map=True,
    leaves_known=True,
    check=_check,
    task=lambda options: f"masks {', '.join(options.masks)}",
    scores=(InpaintScore(),),
    imported=ImportedForm(InpaintingConditioning, lambda named, path: {}, _fitted),
)
