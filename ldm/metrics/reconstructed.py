"""A set of reconstructions beside their images, measured batch by batch, so that memory holds no more than one."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.distribution import reconstruction_frechet
from ldm.metrics.features import Extractor, FeatureAccumulator
from ldm.metrics.reconstruction import ImageErrors, PerceptualDistance, concatenate, image_errors
from ldm.metrics.values import MetricValue
from ldm.records import LeftOut


class Reconstructed:
    """Errors of each image, perceptual distances by the name of the judge, and both sides in the extractor's eyes."""

    def __init__(self, judges: Sequence[PerceptualDistance], extractor: Extractor) -> None:
        self.judges, self.extractor = judges, extractor
        self._errors: list[ImageErrors] = []
        self._distances: dict[str, list[NDArray[np.float64]]] = {judge.name: [] for judge in judges}
        self._decoded, self._originals = FeatureAccumulator(), FeatureAccumulator()

    def add(self, originals: Tensor, decoded: Tensor) -> None:
        """Measures a batch. Shapes: both uint8 (N, 3, H, W). Raises: ValueError where they are not."""
        self._errors.append(image_errors(originals, decoded))
        for judge in self.judges:
            distances = judge(originals / 127.5 - 1, decoded / 127.5 - 1)
            self._distances[judge.name].append(distances.double().numpy())
        self._decoded.add(self.extractor(decoded))
        self._originals.add(self.extractor(originals))

    @property
    def errors(self) -> ImageErrors:
        """Of all images, in the order in which they came."""
        return concatenate(self._errors)

    @property
    def distances(self) -> Mapping[str, NDArray[np.float64]]:
        """Perceptual distances of all images by the judge's name. Shapes: (N,) each."""
        return {name: np.concatenate(parts) for name, parts in self._distances.items()}

    def frechet(self, seed: int) -> MetricValue | LeftOut:
        """The Frechet distance of the reconstructions to their own images, its jackknife mixed by the seed."""
        return reconstruction_frechet(self._decoded.result(), self._originals.result(), self.extractor.name, seed)
