"""Layout to image: bounding boxes with classes as a token sequence, read by a transformer."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition, Conditioning, field_of, masked_items
from ldm.conditioning.text import tokens_of
from ldm.conditioning.transformer import TokenTransformer
from ldm.errors import UserError

PER_BOX = 3
"""Tokens a box: its class, its top left and its bottom right corner."""

PER_CROP = 2
"""Tokens of the crop that may end a sequence of the reference: its top left and its bottom right corner."""


class LayoutConditioning(Conditioning):
    """Each box as three tokens (class, top left, bottom right corner on a grid), read by a transformer trained along.

    The vocabulary holds a token for "the whole picture", which stands first in every sequence, one for each class, and
    one for each place of a square grid with `grid` places a side. Boxes that pad a sequence (class -1) are masked, in
    the transformer as in cross-attention; with all of them masked the leading token is the null condition.

    Shapes: field "boxes" (N, `boxes`, 5): class, x0, y0, x1, y1 in fractions of the sides; context
    (N, 1 + 3 boxes, width).
    Source: Rombach et al. 2022, appendix E.2.1; three tokens a box as in the code of Esser et al. 2021.
    """

    fields = ("boxes",)
    concat_channels = 0

    def __init__(self, classes: int, boxes: int, grid: int, width: int, depth: int) -> None:
        super().__init__()
        self.classes = classes
        self.boxes = boxes
        self.grid = grid
        self.tokens = 1 + PER_BOX * boxes
        self.context_dim = width
        self.transformer = TokenTransformer(1 + classes + grid**2, self.tokens, width, depth)

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The boxes' tokens, embedded, from the field and of the shape that the class states.

        Raises: UserError where the boxes are missing, of another shape, or of classes that are out of range.
        """
        tokens, seen = self.sequence(boxes_of(fields, self.boxes, self.classes))
        return Condition(context=self.transformer(tokens, seen), context_mask=seen)

    def sequence(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The token sequences of boxes, and which tokens are seen. Shapes: boxes (N, M, 5); both (N, 1 + 3 M)."""
        present = boxes[..., 0] >= 0
        places = 1 + self.classes + corner_places(boxes, self.grid)
        tokens = torch.cat([1 + boxes[..., :1].long(), places], dim=-1) * present[..., None]
        leading = present.new_ones(len(boxes), 1)
        seen = torch.cat([leading, present.repeat_interleave(PER_BOX, dim=1)], dim=1)
        return torch.cat([torch.zeros_like(leading, dtype=torch.long), tokens.flatten(1)], dim=1), seen

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with no box left in the items where `mask`, (N,), is true; result as fields."""
        return with_boxes_dropped(fields, mask)


class BoxTokenConditioning(Conditioning):
    """Boxes as the token sequence of the reference's layout models, read by the transformer of such a model.

    Each box is its class, its top left and its bottom right corner on a grid of as many places a side as the
    vocabulary has room for; classes and places share the vocabulary, whose last token pads, and padding is seen like
    any token. Where two tokens are left, they are the corners of the crop in the picture that the boxes were measured
    in: those here are measured in the image itself, so the crop is all of it. An image without boxes is the null
    condition. The reference's order of boxes is random, ours that of the field.

    Shapes: field "boxes" (N, `boxes`, 5): class, x0, y0, x1, y1 in fractions of the sides; or, where they were made
    elsewhere, field "tokens" (N, L) of integers; context (N, L, width).
    Source: Rombach et al. 2022, appendix E.2.1; the sequence that of the code of Esser et al. 2021 (object
    descriptors with crop, without the bits for groups).
    """

    fields = ("boxes",)
    concat_channels = 0

    def __init__(self, transformer: TokenTransformer) -> None:
        """Takes the number of boxes, classes and places from `transformer`.

        Raises: ValueError where its sequences are neither whole boxes nor whole boxes and a crop.
        """
        super().__init__()
        self.boxes, rest = divmod(transformer.length, PER_BOX)
        if rest not in (0, PER_CROP):
            raise ValueError(f"sequences of {transformer.length} tokens are no boxes of {PER_BOX} tokens each")
        self.has_crop = rest == PER_CROP
        self.padding = transformer.vocabulary - 1
        self.classes = self.padding
        self.grid = math.isqrt(transformer.vocabulary)
        self.tokens = transformer.length
        self.context_dim = transformer.token.embedding_dim
        self.transformer = transformer

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The boxes' tokens, embedded, from the field and of the shape that the class states.

        Raises: UserError where boxes (or tokens) are missing, of another shape, or of classes that are out of range.
        """
        if "tokens" not in fields:
            fields = {"tokens": self.sequence(boxes_of(fields, self.boxes, self.classes))}
        return Condition(context=self.transformer(tokens_of(fields, self.tokens, self.transformer.vocabulary)))

    def sequence(self, boxes: Tensor) -> Tensor:
        """The token sequences of boxes. Shapes: boxes (N, M, 5); result (N, 3 M), or (N, 3 M + 2) with the crop."""
        described = torch.cat([boxes[..., :1].long(), corner_places(boxes, self.grid)], dim=-1)
        tokens = described.where(boxes[..., :1] >= 0, self.padding).flatten(1)
        if not self.has_crop:
            return tokens
        return torch.cat([tokens, tokens.new_tensor([0, self.grid**2 - 1]).expand(len(tokens), PER_CROP)], dim=1)

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with no box left in the items where `mask`, (N,), is true; result as fields."""
        return with_boxes_dropped(fields, mask)


def boxes_of(fields: Mapping[str, Tensor], most: int, classes: int) -> Tensor:
    """The field "boxes", (N, most, 5), checked (on a GPU, where reading it would stall every step, only its shape).

    Raises: UserError where it is missing, of another shape, or of classes that are out of range.
    """
    boxes = field_of(fields, "boxes")
    if boxes.dim() != 3 or boxes.shape[1:] != (most, 5):
        raise UserError(
            f"the layout conditioning reads {most} boxes of class, x0, y0, x1, y1 an image, but the field "
            f"'boxes' has shape {tuple(boxes.shape)}: pad with class -1"
        )
    if boxes.device.type == "cpu" and boxes.numel() and int(boxes[..., 0].max()) >= classes:
        raise UserError(
            f"box class {int(boxes[..., 0].max())} is out of range: the model knows classes 0 to {classes - 1}"
        )
    return boxes


def corner_places(boxes: Tensor, grid: int) -> Tensor:
    """Top left and bottom right corner as places of a square grid, counted row by row.

    Shapes: boxes (N, M, 5); result (N, M, 2) of integers below grid^2.
    """
    x0, y0, x1, y1 = (boxes[..., 1:].clamp(0, 1) * (grid - 1)).round().long().unbind(-1)
    return torch.stack([y0 * grid + x0, y1 * grid + x1], dim=-1)


def with_boxes_dropped(fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """All fields, with no box left in the field "boxes", (N, M, 5), where `mask`, (N,), is true; result as fields."""
    return {**fields, "boxes": masked_items(field_of(fields, "boxes"), mask, -1.0)}
