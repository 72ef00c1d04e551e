"""What a config tells the model, what the images must know for it, and at what size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ldm.data.contract import Annotation
from ldm.probes import PROBES

CONDITIONS = ("class", "text", "layout", "semantic", "superres", "inpaint")
"""What a diffusion model can be told; the keys of the group `conditioning` that name conditions."""


MAPS = ("semantic", "superres", "inpaint")
"""The conditions that are images themselves."""


GIVES_TOKENS = ("class", "text", "layout")
"""The conditions that are given by cross-attention; the others are concatenated."""


ANNOTATION_OF: Mapping[str, str] = {"text": "captions", "layout": "boxes", "semantic": "semantic"}
"""What the data must know of its images for a condition."""


NEEDED_AS: Mapping[str, str] = {
    "captions": "a caption for every image",
    "boxes": "bounding boxes with classes",
    "semantic": "a label map for every image",
}


@dataclass(frozen=True)
class Vocabulary:
    """How many different things conditions can name, so that networks can be built."""

    classes: int
    box_classes: int = 0
    semantic_classes: int = 0


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

    def vocabulary(self, config: Mapping[str, Any]) -> Vocabulary:
        """How many classes of each kind there are, of the annotations that the config's conditions read."""
        return vocabulary_of(len(self.classes), self.annotations, annotations_read(config))


def larger_maps(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size at which images are asked for the conditions of samples; None: at the training size.

    Conditions that are maps must be made at the samples' own size; tokens say the same of any.
    """
    is_larger = config["samples"]["height"] is not None
    return sample_size(config) if is_larger and set(MAPS) & set(conditions_of(config)) else None


def sample_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the samples of a resolved config, in pixels."""
    resolution = config["data"]["resolution"]
    return config["samples"]["height"] or resolution, config["samples"]["width"] or resolution


def task_of(config: Mapping[str, Any]) -> str | None:
    """What an image to start from lacks, in words, so that easier and harder tasks are told apart; None without one."""
    settings, said = config["conditioning"], []
    if "superres" in settings:
        said.append(f"{settings['superres']['degradation']}, {settings['superres']['scale']} times")
    if "inpaint" in settings:
        said.append(f"masks {', '.join(settings['inpaint']['masks'])}")
    return "; ".join(said) or None


def conditions_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions that a config's group `conditioning` names, in a fixed order."""
    return tuple(kind for kind in CONDITIONS if kind in config["conditioning"])


def annotations_read(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of annotations that a config's conditions read."""
    return tuple(ANNOTATION_OF[kind] for kind in conditions_of(config) if kind in ANNOTATION_OF)


def probed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions of a resolved config that probes ask its samples for; none of larger samples."""
    is_larger = config["samples"]["height"] is not None
    return () if is_larger else tuple(kind for kind in conditions_of(config) if kind in PROBES)


def vocabulary_of(classes: int, known: Mapping[str, Annotation], read: Iterable[str]) -> Vocabulary:
    """How many classes of each kind there are; only the annotations in `read` are looked at, which may read files."""
    counts = {kind: len(known[kind].names) for kind in read}
    return Vocabulary(classes, counts.get("boxes", 0), counts.get("semantic", 0))
