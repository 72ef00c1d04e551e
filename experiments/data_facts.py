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


CLASSES_NAMED = 10


@dataclass(frozen=True)
class DataFacts:
    """What planning needs to know of the images: sizes, classes and content; `notes`: how they were read."""

    train_fingerprint: str
    heldout_fingerprint: str
    train_images: int
    heldout_images: int
    classes: tuple[str, ...]
    annotations: Mapping[str, Annotation] = field(default_factory=dict)
    heldout_annotations: Mapping[str, Annotation] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """How many images there are, and their classes, as a person sees whether they were read as meant."""
        named = ", ".join(self.classes[:CLASSES_NAMED]) + (", ..." if len(self.classes) > CLASSES_NAMED else "")
        classes = f"{len(self.classes):,} classes: {named}" if self.classes else "no classes"
        return f"{self.train_images:,} training and {self.heldout_images:,} held-out images, {classes}"

    def vocabulary(self, annotations: Iterable[str]) -> Vocabulary:
        """How many classes of each kind there are, of these annotations, those that the conditions read."""
        return vocabulary_of(len(self.classes), self.annotations, annotations)


def vocabulary_of(classes: int, known: Mapping[str, Annotation], read: Iterable[str]) -> Vocabulary:
    """How many classes of each kind there are; only the annotations in `read` are looked at, which may read files."""
    counts = {kind: len(known[kind].names) for kind in read}
    return Vocabulary(classes, **{COUNTED_AS[kind]: count for kind, count in counts.items() if kind in COUNTED_AS})
