"""Semantic synthesis: a label map, averaged down to the latent's size, beside the latent."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.conditions.asked import GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm, ImportedModel
from experiments.conditions.drawing import colour
from experiments.conditions.probe_score import ProbeScore
from ldm.conditioning import SemanticConditioning
from ldm.data import fields
from ldm.errors import UserError
from ldm.parts import option

GREY = (200, 200, 200)
DARK = (90, 90, 90)


@dataclass(frozen=True)
class SemanticOptions:
    """channels: of the map beside the latent."""

    channels: int = option(low=1, help="that the classes are embedded in")


def _conditioning(options: SemanticOptions, context: BuildContext) -> SemanticConditioning:
    return SemanticConditioning(context.vocabulary.semantic_classes, options.channels, context.f)


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    """The map in colours; 0, often the background, and what is unlabelled in greys."""
    labels, classes = given.fields["semantic"], len(given.images.annotations["semantic"].names)
    palette = np.array([GREY, *(colour(label - 1) for label in range(1, classes)), DARK], np.uint8)
    known = torch.where((labels >= 0) & (labels < classes), labels, classes)
    return Image.fromarray(palette[known.numpy()]).resize(size, Image.Resampling.NEAREST)


def _options_of(named: SemanticConditioning, path: str) -> dict[str, Any]:
    return {"channels": named.concat_channels}


def _fitted(named: SemanticConditioning, model: ImportedModel, context: BuildContext) -> SemanticConditioning:
    classes = context.vocabulary.semantic_classes
    if (named.classes, named.factor) != (classes, context.f):
        raise UserError(
            f"the denoiser at {model.path} reads label maps of {named.classes} classes and {named.factor} times the "
            f"latent's side, but the data has {classes} classes, and f is {context.f}"
        )
    return named


SEMANTIC = ConditionKind(
    name="semantic",
    options=SemanticOptions,
    fields=lambda options, device: {"semantic": fields.semantic},
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=False,
    is_map=True,
    annotation="semantic",
    needs="a label map for every image",
    vocabulary="semantic_classes",
    probe=ProbeScore("semantic"),
    imported=ImportedForm(SemanticConditioning, _options_of, _fitted),
)
