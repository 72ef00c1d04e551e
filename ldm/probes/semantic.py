"""Which class every pixel shows."""

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.data.contract import ImageCache, Indices
from ldm.errors import UserError
from ldm.finite import require_finite
from ldm.probes.contract import resized
from ldm.probes.networks import Segmenter

VOID = -1


class SemanticProbe:
    """A segmenter; label values beyond the named classes are void: neither trained nor counted.

    Images enter at the probe's side; its logits are enlarged to the label map, bilinear.

    Shapes: targets int64 (N, H, W), -1 where void; counts int32 (N, 3, classes): pixels found and true, found, true.
    Source: Park et al. 2019, arXiv 1903.07291, section 4 (a segmenter scores generated images by mean IoU).
    """

    metric: ClassVar[str] = "semantic_miou"
    network_class = Segmenter

    def __init__(self, side: int, width: int, images: ImageCache) -> None:
        if images.semantic is None:
            raise UserError("the semantic probe needs images with label maps")
        self.side = side
        self.answers = images.annotations["semantic"].names
        self.classes = len(self.answers)
        self.network = self.network_class(width, self.classes)

    def usable(self, images: ImageCache) -> list[int]:
        """All images."""
        return list(range(len(images)))

    def targets(self, images: ImageCache, indices: Indices) -> Tensor:
        """The images' label maps. Shapes: as the class states."""
        if images.semantic is None:
            raise UserError("the semantic probe asks about label maps, and these images have none")
        maps = torch.from_numpy(images.semantic[np.asarray(indices)].astype(np.int64))
        return maps.masked_fill(maps >= self.classes, VOID)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all pixels that are not void. Shapes: as in the contract."""
        known = (targets != VOID).sum().clamp(min=1)
        return F.cross_entropy(self._logits(images, targets), targets, ignore_index=VOID, reduction="sum") / known

    def counts(self, images: Tensor, targets: Tensor) -> NDArray[Any]:
        """Pixels by class: found and true, found, true. Shapes: as the class states."""
        found = require_finite(self._logits(images, targets), "the probe").argmax(dim=1)
        counted = [
            torch.where(chosen, value, self.classes)
            for chosen, value in (
                ((found == targets), targets),
                (targets != VOID, found),
                (targets != VOID, targets),
            )
        ]
        return torch.stack([_histograms(value, self.classes) for value in counted], dim=1).int().cpu().numpy()

    def _logits(self, images: Tensor, targets: Tensor) -> Tensor:
        logits: Tensor = self.network(resized(images, self.side))
        if logits.shape[2:] == targets.shape[1:]:
            return logits
        return F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=False)


def _histograms(values: Tensor, classes: int) -> Tensor:
    """How often each class occurs in each map (N, H, W); the value `classes` is not counted."""
    counts = torch.zeros(len(values), classes + 1, dtype=torch.int64, device=values.device)
    flat = values.flatten(1)
    return counts.scatter_add_(1, flat, torch.ones_like(flat))[:, :classes]
