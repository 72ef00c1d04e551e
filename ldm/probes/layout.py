"""Which object each box of a layout shows."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.contract import Box, ImageCache, Indices
from ldm.errors import UserError
from ldm.finite import require_finite
from ldm.probes.contract import resized
from ldm.probes.networks import Classifier

MOST_ENLARGED = 4
"""Boxes whose shorter side, in pixels of the image, would have to be enlarged by more than this are left out."""


class LayoutProbe:
    """A classifier of what the boxes cut out of an image, each resized to the probe's side, whatever its shape.

    Left out are boxes that show too little: whose shorter side is less than a quarter of the probe's side in pixels. Of
    those of an image only the `most` largest count, where a number is given: a model that is conditioned on no more is
    not asked about more.

    Shapes: targets float32 (N, M, 5): class, x0, y0, x1, y1 in fractions of the sides, class -1 where there is none;
    counts int64 (N, 2): boxes recognised, boxes asked about.
    Source: Zhao et al. 2019, arXiv 1811.11389, section 4.2 (object classification accuracy).
    """

    metric: ClassVar[str] = "layout_accuracy"
    network_class = Classifier

    def __init__(self, side: int, width: int, images: ImageCache, most: int | None = None) -> None:
        if images.boxes is None:
            raise UserError("the layout probe needs images with bounding boxes")
        self.side = side
        self.most = most
        self.answers = images.annotations["boxes"].names
        self.network = self.network_class(width, len(self.answers))

    def usable(self, images: ImageCache) -> list[int]:
        """The images with a box that shows enough."""
        return [index for index, boxes in enumerate(_boxes(images)) if self._large(boxes, images.resolution)]

    def targets(self, images: ImageCache, indices: Indices) -> Tensor:
        """The images' boxes, without those too small, padded to the largest number. Shapes: as the class states."""
        every = _boxes(images)
        kept = [self._large(every[index], images.resolution) for index in np.asarray(indices).tolist()]
        targets = torch.full((len(kept), max([1, *map(len, kept)]), 5), -1.0)
        for row, boxes in zip(targets, kept, strict=True):
            for place, box in zip(row, boxes, strict=False):
                place[:] = torch.tensor([box.label, box.x0, box.y0, box.x1, box.y1])
        return targets

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all boxes of the batch. Shapes: as in the contract."""
        crops, labels, _ = self._crops(images, targets)
        return F.cross_entropy(self.network(crops), labels)

    def counts(self, images: Tensor, targets: Tensor) -> NDArray[Any]:
        """Boxes recognised, boxes asked about. Shapes: as the class states."""
        counts = torch.zeros(len(images), 2, dtype=torch.int64, device=images.device)
        crops, labels, owners = self._crops(images, targets)
        if len(crops):
            right = (require_finite(self.network(crops), "the probe", "boxes").argmax(dim=1) == labels).long()
            counts.index_add_(0, owners, torch.stack([right, torch.ones_like(right)], dim=1))
        return counts.cpu().numpy()

    def _large(self, boxes: Sequence[Box], resolution: int) -> list[Box]:
        least = self.side / MOST_ENLARGED / resolution
        told = sorted(boxes, key=lambda box: -box.area)[: self.most]
        return [box for box in told if min(box.x1 - box.x0, box.y1 - box.y0) >= least]

    def _crops(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All crops (B, 3, side, side), their classes (B,), and whose they are (B,)."""
        height, width = images.shape[2:]
        owners, places = (targets[..., 0] >= 0).nonzero(as_tuple=True)
        boxes = targets[owners, places]
        scale = boxes.new_tensor([width, height, width, height])
        # Whole pixels that hold the box; a hair of tolerance, since fractions come from whole pixels in float32.
        corners = (boxes[:, 1:] * scale).cpu()
        low, high = (corners[:, :2] + 1e-3).floor().long(), (corners[:, 2:] - 1e-3).ceil().long()
        crops = [
            resized(images[owner : owner + 1, :, y0:y1, x0:x1], self.side)
            for owner, (x0, y0), (x1, y1) in zip(owners.tolist(), low.tolist(), high.tolist(), strict=True)
        ]
        empty = images.new_empty(0, 3, self.side, self.side)
        return torch.cat(crops) if crops else empty, boxes[:, 0].long(), owners


def _boxes(images: ImageCache) -> tuple[tuple[Box, ...], ...]:
    if images.boxes is None:
        raise UserError("the layout probe asks about bounding boxes, and these images have none")
    return images.boxes
