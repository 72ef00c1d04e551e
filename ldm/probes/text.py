"""Which attributes that captions name an image shows."""

import math
import re
from collections import Counter
from collections.abc import Sequence
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

LEAST_SHARE, MOST_SHARE = 0.02, 0.5
LEAST_CAPTIONS = 5
MOST_ATTRIBUTES = 64
WORD = re.compile(r"[^\W\d_]+")

# fmt: off
NO_ATTRIBUTES = frozenset((
    # function words
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "all", "both", "other",
    "another", "one", "and", "or", "but", "nor", "not", "no", "as", "than", "so", "if", "while", "when", "where",
    "which", "who", "whose", "what", "there", "here", "it", "its", "he", "him", "his", "she", "her", "they", "them",
    "their", "we", "our", "you", "your", "i", "my", "is", "are", "was", "were", "be", "been", "being", "am", "has",
    "have", "had", "having", "do", "does", "did", "can", "will", "would", "could", "may", "very", "s", "t",
    # prepositions and places: they relate things instead of naming one
    "of", "in", "on", "at", "by", "to", "from", "for", "with", "without", "into", "onto", "out", "off", "up", "down",
    "over", "under", "above", "below", "beneath", "behind", "before", "after", "between", "among", "through", "across",
    "around", "along", "against", "near", "next", "beside", "inside", "outside", "about", "upon", "toward", "towards",
    "left", "right", "top", "bottom", "front", "back", "side", "middle", "center", "centre",
    # what every caption may say of its picture
    "image", "picture", "photo", "photograph", "background",
))
# fmt: on
"""English words that are never an attribute."""


def words(caption: str) -> set[str]:
    """The words of a caption, in small letters, without digits."""
    return set(WORD.findall(caption.lower()))


def attributes_of(captions: Sequence[str]) -> tuple[str, ...]:
    """The words that captions name often enough to be learned and seldom enough to tell images apart, frequent first.

    They stand in 2 % to 50 % of the captions and in at least 5, and are not among `NO_ATTRIBUTES`; where there are more
    than 64, only the most frequent (of equals, in the order of the alphabet).
    """
    found = Counter(word for caption in captions for word in words(caption) - NO_ATTRIBUTES)
    least = max(LEAST_CAPTIONS, math.ceil(LEAST_SHARE * len(captions)))
    chosen = [word for word, count in found.items() if least <= count <= MOST_SHARE * len(captions)]
    return tuple(sorted(chosen, key=lambda word: (-found[word], word))[:MOST_ATTRIBUTES])


class TextProbe:
    """A classifier with one yes-or-no answer for each attribute of the training captions.

    It says yes where the probability of an attribute exceeds its share of the training captions: of all thresholds
    that of the best balanced accuracy, if the probabilities are right.

    Shapes: targets bool (N, attributes): does the caption name it; counts bool (N, 2, attributes): named, found.
    Source: Hinz et al. 2020, arXiv 1910.13321 (does a recogniser find what the caption names?); Brodersen et al. 2010,
    The balanced accuracy and its posterior distribution.
    """

    metric: ClassVar[str] = "text_balanced_accuracy"
    network_class = Classifier

    def __init__(self, side: int, width: int, images: ImageCache) -> None:
        captions = _captions(images)
        self.side = side
        self.answers = attributes_of(captions)
        if not self.answers:
            raise UserError(
                f"the text probe finds no attribute: no word stands in {LEAST_SHARE:.0%} to {MOST_SHARE:.0%} of the "
                f"captions and in at least {LEAST_CAPTIONS}; use more images"
            )
        named = self._named(captions).double().mean(dim=0)
        self.threshold = torch.log(named / (1 - named)).float()
        self.network = self.network_class(width, len(self.answers))
        # From its start the network answers with the shares, so that training need not find them.
        with torch.no_grad():
            self.network.head.bias.copy_(self.threshold)

    def usable(self, images: ImageCache) -> list[int]:
        """All images."""
        return list(range(len(images)))

    def targets(self, images: ImageCache, indices: Indices) -> Tensor:
        """The attributes that the images' captions name. Shapes: as the class states."""
        captions = _captions(images)
        return self._named([captions[index] for index in np.asarray(indices).tolist()])

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, averaged over attributes. Shapes: as in the contract."""
        return F.binary_cross_entropy_with_logits(self.network(resized(images, self.side)), targets.float())

    def counts(self, images: Tensor, targets: Tensor) -> NDArray[Any]:
        """Which attributes are named, and which are found. Shapes: as the class states."""
        logits = require_finite(self.network(resized(images, self.side)), "the probe")
        return torch.stack([targets, logits > self.threshold.to(logits.device)], dim=1).cpu().numpy()

    def _named(self, captions: Sequence[str]) -> Tensor:
        said = [words(caption) for caption in captions]
        return torch.tensor([[answer in mine for answer in self.answers] for mine in said])


def _captions(images: ImageCache) -> tuple[str, ...]:
    if images.captions is None:
        raise UserError("the text probe needs images with captions")
    return images.captions
