"""A toy task: an image of this mean colour."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from experiments.conditions.asked import AskedConditions, GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind
from experiments.conditions.pairs import pair_protocol
from experiments.conditions.scores import Instruments, Measure, MeasuredSamples, Scored, Values, in_unit_range
from ldm.conditioning import Condition, Conditioning
from ldm.conditioning.contract import field_of, masked_items
from ldm.data.contract import ImageCache
from ldm.data.fields import Draw
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import OTHER_CONDITIONS, Metric, Variant, varied
from ldm.records import TASK, LeftOut

ERROR = Metric("mean_colour_error", "error of the mean colour", False, TASK, "grey levels", headline_from=0)
NONE = 2.0
"""A colour outside of all images: none is asked for."""


@dataclass(frozen=True)
class ColourOptions:
    """dim: width of the token."""

    dim: int


def colour(images: ImageCache, indices: NDArray[np.integer], draw: Draw) -> Tensor:
    """The mean colour of each image, (N, 3) in [-1, 1]."""
    return images.batch(indices).mean(dim=(2, 3))


class ColourConditioning(Conditioning):
    """One token of the colour and of whether there is one. Shapes: field "colour" (N, 3); context (N, 1, dim)."""

    fields = ("colour",)
    tokens = 1
    concat_channels = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.context_dim = dim
        self.token = nn.Linear(4, dim)

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The token of each colour."""
        asked = field_of(fields, "colour")
        is_none = (asked[:, :1] == NONE).to(asked.dtype)
        return Condition(context=self.token(torch.cat([asked * (1 - is_none), is_none], dim=1)).unsqueeze(1))

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with no colour where `mask` is true."""
        return {**fields, "colour": masked_items(field_of(fields, "colour"), mask, NONE)}


@dataclass(frozen=True)
class ColourMeasure:
    """How far samples are from the colours that they and others were given."""

    asked: AskedConditions

    def __call__(self, samples: Tensor, part: range, fields: Mapping[str, Tensor]) -> Values:
        """Grey levels off, (n,) each. Shapes: samples uint8 (n, 3, H, W)."""
        found = in_unit_range(samples.cpu()).mean(dim=(2, 3))
        partners = self.asked.partners[part.start : part.stop]
        others = colour(self.asked.fields.images, np.asarray(self.asked.indices)[partners], lambda item: None)
        pairs = {"mean_colour.own": fields["colour"].cpu(), "mean_colour.other": others}
        return {name: (127.5 * (found - given).abs().mean(dim=1)).double().numpy() for name, given in pairs.items()}


@dataclass(frozen=True)
class ColourScore:
    """How far the mean colour of samples is from what was asked for."""

    weights: ClassVar[Mapping[str, str]] = {}
    floor: ClassVar[Variant] = OTHER_CONDITIONS
    ceiling: ClassVar[Variant | None] = None

    def measure(self, options: ColourOptions, asked: AskedConditions, instruments: Instruments) -> Measure | None:
        """The error of each sample."""
        return ColourMeasure(asked)

    def facts(self, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
        """No network takes part."""
        return {}

    def scored(self, samples: MeasuredSamples) -> tuple[list[Scored], list[LeftOut]]:
        """The error, and its floor."""
        own, other = (samples.values[f"mean_colour.{name}"] for name in ("own", "other"))
        values = [mean_value(ERROR, own), mean_value(varied(ERROR, OTHER_CONDITIONS), other)]
        return [Scored.of(values, pair_protocol("mean_colour", samples))], []


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    red, green, blue = (round(127.5 * (float(value) + 1)) for value in given.fields["colour"])
    return Image.new("RGB", size, (red, green, blue))


def _conditioning(options: ColourOptions, context: BuildContext) -> ColourConditioning:
    return ColourConditioning(options.dim)


MEAN_COLOUR = ConditionKind(
    name="mean_colour",
    options=ColourOptions,
    fields=lambda options, device: {"colour": colour},
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=True,
    scores=(ColourScore(),),
)
