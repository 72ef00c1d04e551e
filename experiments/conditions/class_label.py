"""Class to image: one learned token for the class of the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from experiments.conditions.asked import GivenSample
from experiments.conditions.condition import BuildContext, ConditionKind, ImportedForm, ImportedModel
from experiments.conditions.drawing import written
from experiments.conditions.probe_score import ProbeScore
from ldm.conditioning import ClassConditioning
from ldm.data import fields
from ldm.errors import UserError, nearest
from ldm.parts import option


@dataclass(frozen=True)
class ClassOptions:
    """dim: width of the token."""

    dim: int = option(low=1, help="width of the token")


def _conditioning(options: ClassOptions, context: BuildContext) -> ClassConditioning:
    return ClassConditioning(context.vocabulary.classes, options.dim)


def _picture(given: GivenSample, size: tuple[int, int]) -> Image.Image:
    return written(given.images.classes[int(given.fields["label"])], size)


def _options_of(named: ClassConditioning, path: str) -> dict[str, Any]:
    return {"dim": named.context_dim}


def _fitted(named: ClassConditioning, model: ImportedModel, context: BuildContext) -> ClassConditioning:
    """The class embedding for data with so many classes; one row more is the null class."""
    rows, width = named.embedding.weight.shape
    classes = context.vocabulary.classes
    if classes not in (rows, rows - 1):
        raise UserError(
            f"the denoiser at {model.path} knows {rows} classes (or one fewer and none), but the data has {classes}"
        )
    with torch.device("cpu"):
        made = ClassConditioning(classes, width, null_class=rows > classes)
        made.load_state_dict(named.state_dict())
    return made


def _check_null(named: ClassConditioning) -> None:
    _ = named.null_class


def _said(options: ClassOptions, words: Sequence[str], classes: Sequence[str], device: str) -> Mapping[str, Tensor]:
    unknown = [word for word in words if word not in classes]
    if unknown:
        raise UserError(
            f"'{unknown[0]}' is no class of these images{nearest(unknown[0], classes)} (there are {', '.join(classes)})"
        )
    return {"label": torch.tensor([classes.index(word) for word in words])}


CLASS_LABEL = ConditionKind(
    name="class",
    options=ClassOptions,
    fields=lambda options, device: {"label": fields.label},
    conditioning=_conditioning,
    picture=_picture,
    gives_tokens=True,
    describes_one_image=False,  # labels are as frequent in training
    needs="classes",
    needs_classes=True,
    is_optional=True,
    vocabulary="classes",
    probe=ProbeScore("class"),
    imported=ImportedForm(ClassConditioning, _options_of, _fitted, _check_null),
    said=_said,
)
