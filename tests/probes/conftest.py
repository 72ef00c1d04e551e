"""Pictures that show what they are annotated with: a bright square of one of three colours in a dark place."""

import json

import numpy as np
import pytest

from ldm.data.contract import Annotation, ImageCache, annotation_file

SIDE = 16
COLOURS = {"red": (230, 60, 50), "green": (60, 210, 80), "blue": (70, 90, 230)}


def painted(folder, n: int, seed: int) -> ImageCache:
    """`n` pictures: class, box and label map of the square, a caption that names its colour."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 60, (n, SIDE, SIDE, 3)).astype(np.uint8)
    labels = draw.integers(0, 3, n)
    semantic, boxes, captions = np.zeros((n, SIDE, SIDE), np.uint8), [], []
    for index, label in enumerate(labels):
        x, y = draw.integers(0, SIDE - 8, 2)
        images[index, y : y + 8, x : x + 8] = list(COLOURS.values())[label]
        semantic[index, y : y + 8, x : x + 8] = 1 + label
        name = list(COLOURS)[label]
        boxes.append([(int(label), name, x / SIDE, y / SIDE, (x + 8) / SIDE, (y + 8) / SIDE, 0.25)])
        captions.append(f"A {name} square in the dark")
    folder.mkdir()
    annotations = {
        "captions": Annotation("captions"),
        "boxes": Annotation("boxes", tuple(COLOURS)),
        "semantic": Annotation("semantic", ("dark", *COLOURS)),
    }
    files = {kind: folder / annotation_file(kind, annotation) for kind, annotation in annotations.items()}
    np.save(files["semantic"], semantic)
    files["boxes"].write_text(json.dumps(boxes))
    files["captions"].write_text(json.dumps(captions))
    return ImageCache(
        folder=folder,
        fingerprint=f"squares-{seed}",
        resolution=SIDE,
        classes=tuple(COLOURS),
        names=tuple(map(str, range(n))),
        skipped=(),
        images=images,
        labels=labels,
        unseen_objects=np.zeros(n, bool),
        annotations=annotations,
    )


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> ImageCache:
    return painted(tmp_path_factory.mktemp("squares") / "train", 60, seed=0)


@pytest.fixture(scope="session")
def other_squares(tmp_path_factory) -> ImageCache:
    return painted(tmp_path_factory.mktemp("squares") / "heldout", 40, seed=1)
