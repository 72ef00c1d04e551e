"""Layout to image: bounding boxes with classes as a token sequence, read by a transformer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition, Conditioning, field_of, masked_items
from ldm.conditioning.transformer import TokenTransformer
from ldm.errors import UserError

PER_BOX = 3
"""Tokens a box: its class, its top left and its bottom right corner."""


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
        """Raises: UserError where the boxes are missing, of another shape, or of unknown classes."""
        boxes = field_of(fields, "boxes")
        if boxes.dim() != 3 or boxes.shape[1:] != (self.boxes, 5):
            raise UserError(
                f"the layout conditioning reads {self.boxes} boxes of class, x0, y0, x1, y1 an image, but the field "
                f"'boxes' has shape {tuple(boxes.shape)}: pad with class -1"
            )
        if boxes.device.type == "cpu" and boxes.numel() and int(boxes[..., 0].max()) >= self.classes:
            raise UserError(
                f"box class {int(boxes[..., 0].max())} is out of range: the model knows classes 0 to {self.classes - 1}"
            )
        tokens, seen = self.sequence(boxes)
        return Condition(context=self.transformer(tokens, seen), context_mask=seen)

    def sequence(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The token sequences of boxes, and which tokens are seen. Shapes: boxes (N, M, 5); both (N, 1 + 3 M)."""
        present = boxes[..., 0] >= 0
        cell = (boxes[..., 1:].clamp(0, 1) * (self.grid - 1)).round().long()
        x0, y0, x1, y1 = cell.unbind(-1)
        first_place = 1 + self.classes
        corners = [first_place + y * self.grid + x for x, y in ((x0, y0), (x1, y1))]
        tokens = torch.stack([1 + boxes[..., 0].long(), *corners], dim=-1) * present[..., None]
        leading = present.new_ones(len(boxes), 1)
        seen = torch.cat([leading, present.repeat_interleave(PER_BOX, dim=1)], dim=1)
        return torch.cat([torch.zeros_like(leading, dtype=torch.long), tokens.flatten(1)], dim=1), seen

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with no box left in the items where `mask` is true."""
        return {**fields, "boxes": masked_items(field_of(fields, "boxes"), mask, -1.0)}
