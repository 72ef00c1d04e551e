"""What planning and the building of networks need to know of the images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ldm.data.contract import Annotation


@dataclass(frozen=True)
class Vocabulary:
    """How many different things conditions can name, so that networks can be built; data configs declare them so."""

    classes: int
    box_classes: int = 0
    semantic_classes: int = 0


COUNTED_AS: Mapping[str, str] = {"boxes": "box_classes", "semantic": "semantic_classes"}
"""The entry of a vocabulary that counts the names of an annotation."""


@dataclass(frozen=True)
class DataFacts:
    """What planning needs to know of the images: sizes, classes and content."""

    train_fingerprint: str
    heldout_fingerprint: str
    train_images: int
    heldout_images: int
    classes: tuple[str, ...]
    annotations: Mapping[str, Annotation] = field(default_factory=dict)
    heldout_annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def vocabulary(self, annotations: Iterable[str]) -> Vocabulary:
        """How many classes of each kind there are, of these annotations, those that the conditions read."""
        return vocabulary_of(len(self.classes), self.annotations, annotations)


def vocabulary_of(classes: int, known: Mapping[str, Annotation], read: Iterable[str]) -> Vocabulary:
    """How many classes of each kind there are; only the annotations in `read` are looked at, which may read files."""
    counts = {kind: len(known[kind].names) for kind in read}
    return Vocabulary(classes, **{COUNTED_AS[kind]: count for kind, count in counts.items() if kind in COUNTED_AS})
