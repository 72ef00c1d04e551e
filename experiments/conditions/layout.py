"""Layout to image: bounding boxes with classes, read by a transformer that is trained along."""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from experiments.conditions.asked import GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm, ImportedModel
from experiments.conditions.drawing import FONT, colour
from experiments.conditions.probe_score import ProbeScore
from ldm.conditioning import BoxTokenConditioning, LayoutConditioning
from ldm.data.fields import Boxes
from ldm.errors import UserError
from ldm.parts import option


@dataclass(frozen=True)
class LayoutOptions:
    """dim, depth: width of the tokens and layers of the transformer. grid: places a side that a corner is rounded to.

    boxes: at most so many an image, the largest.
    """

    dim: int = option(low=1, help="width of the tokens")
    depth: int = option(low=1, help="blocks of the transformer")
    grid: int = option(low=1, help="places a side that corners are rounded to")
    boxes: int = option(low=1, help="at most so many an image, the largest")


def _conditioning(options: LayoutOptions, context: BuildContext) -> LayoutConditioning:
    return LayoutConditioning(context.vocabulary.box_classes, options.boxes, options.grid, options.dim, options.depth)


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    names, boxes = given.images.annotations["boxes"].names, given.fields["boxes"]
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for label, *corners in boxes[boxes[:, 0] >= 0].tolist():
        x0, y0, x1, y1 = (round(at * (side - 1)) for at, side in zip(corners, (*size, *size), strict=True))
        pen.rectangle((x0, y0, x1, y1), outline=colour(int(label)), width=2)
        pen.text((x0 + 4, y0 + 2), names[int(label)], fill=colour(int(label)), font=FONT)
    return canvas


def _options_of(named: BoxTokenConditioning, path: str) -> dict[str, Any]:
    depth = len(named.transformer.layers)
    return {"dim": named.context_dim, "depth": depth, "grid": named.grid, "boxes": named.boxes}


def _fitted(named: BoxTokenConditioning, model: ImportedModel, context: BuildContext) -> BoxTokenConditioning:
    classes = context.vocabulary.box_classes
    if classes > named.classes:
        raise UserError(
            f"the denoiser at {model.path} reads boxes in a vocabulary of {named.classes + 1} tokens, which holds at "
            f"most {named.classes} classes, but the data has {classes}"
        )
    return named


LAYOUT = ConditionKind(
    name="layout",
    options=LayoutOptions,
    fields=lambda options, device: {"boxes": Boxes(options.boxes)},
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=True,
    annotation="boxes",
    needs="bounding boxes with classes",
    vocabulary="box_classes",
    probe=ProbeScore("layout", lambda options: {"most": options.boxes}),  # no more than the model is given
    imported=ImportedForm(BoxTokenConditioning, _options_of, _fitted),
)
