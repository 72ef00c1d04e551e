"""Which class an image shows."""

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
from ldm.probes.networks import Classifier


class ClassProbe:
    """A classifier of whole images.

    Shapes: targets int64 (N,), -1 where unknown; counts int64 (N, 2): is the answer right, was there a question.
    Source: Shmelkov et al. 2018, arXiv 1807.09499 (GAN-test: trained on real images, asked about generated ones).
    """

    metric: ClassVar[str] = "class_accuracy"
    network_class = Classifier

    def __init__(self, side: int, width: int, images: ImageCache) -> None:
        if len(images.classes) < 2:
            raise UserError("the class probe needs images of at least two classes")
        self.side = side
        self.answers = images.classes
        self.network = self.network_class(width, len(self.answers))

    def usable(self, images: ImageCache) -> list[int]:
        """The images with a class."""
        found: list[int] = np.flatnonzero(images.labels >= 0).tolist()
        return found

    def targets(self, images: ImageCache, indices: Indices) -> Tensor:
        """The images' classes. Shapes: as the class states."""
        return torch.from_numpy(images.labels[np.asarray(indices)])

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy. Shapes: as in the contract."""
        return F.cross_entropy(self.network(resized(images, self.side)), targets)

    def counts(self, images: Tensor, targets: Tensor) -> NDArray[Any]:
        """Right answers, and whether there was a question. Shapes: as the class states."""
        answers = require_finite(self.network(resized(images, self.side)), "the probe").argmax(dim=1)
        return torch.stack([answers == targets, targets >= 0], dim=1).long().cpu().numpy()
