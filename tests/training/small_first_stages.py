"""A small image set, and the training of tiny first stages on it; importable, so that other processes make the same."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldm.data.contract import ImageCache
from ldm.first_stage import build_first_stage
from ldm.first_stage.alignment import Alignment, AlignmentTerm
from ldm.first_stage.discriminator import PatchDiscriminator
from ldm.first_stage.losses import FirstStageLoss
from ldm.first_stage.shaping import LatentShaping
from ldm.ranks import ALONE, Ranks
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining

SIDE = 16
ALIGNED = Alignment(teacher="efficientnet_lite0", cosine_margin=0.9, distance_margin=0.1)
OPTIONS = {"vq": {"codes": 24, "revive_every": 2}, "fsq": {"levels": [8, 5, 5]}}


class Quarters:
    """A teacher of the mean colours of an image's quarters."""

    width = 3

    def __call__(self, image: Tensor, side: int) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(image, 2)


def halves() -> ImageCache:
    """Twelve images of two classes: two flat halves in random colours, the edge along one axis or the other."""
    draw = np.random.default_rng(0)
    images = np.empty((12, SIDE, SIDE, 3), np.uint8)
    for index, image in enumerate(images):
        colours = draw.integers(0, 256, (2, 3))
        split = draw.integers(4, 12)
        image[:] = colours[0]
        (image[split:] if index % 2 else image[:, split:])[:] = colours[1]
    return ImageCache(
        folder=None,
        fingerprint="halves",
        resolution=SIDE,
        classes=("upright", "lying"),
        names=tuple(map(str, range(12))),
        skipped=(),
        images=images,
        labels=np.arange(12) % 2,
        unseen_objects=np.zeros(12, bool),
    )


def first_stage_training(
    pictures: ImageCache,
    regulariser: str,
    start: int = 0,
    norm: str | None = "group",
    dropout: float = 0.0,
    family: str = "reference",
    autocast: torch.dtype | None = None,
    ranks: Ranks = ALONE,
    shapings: Sequence[LatentShaping] = (),
    aligned: bool = False,
    **changes,
) -> FirstStageTraining:
    """The training of a tiny first stage; `start` seeds its random weights, `changes` are settings."""
    torch.manual_seed(start)
    model = build_first_stage(
        regulariser=regulariser,
        factor=4,
        channels=3,
        ch=8,
        ch_mult=(1, 1, 2),
        num_res_blocks=1,
        resolution=SIDE,
        attn_sides=(),
        mid_attention=family == "dc",  # which has none, and nothing that it could be left out of
        dropout=dropout,
        options=OPTIONS.get(regulariser, {}),
        initialisation="components" if changes.get("from_components") else "reference",
        family=family,
    )
    settings = {
        "seed": 3,
        "images": 48,
        "batch": 4,
        "learning_rate": 2e-3,
        "warm_up": 8,
        "decay": "cosine",
        "gradient_clip": 1.0,
        "adversarial_from": 0.25,
    }
    return FirstStageTraining(
        model,
        FirstStageLoss(None, "mean", {"kl": 1e-6, "codebook": 1.0, "entropy": 0.1, "commitment": 0.25}),
        None if norm is None else PatchDiscriminator(8, 1, norm),
        pictures,
        FirstStageSettings(**{**settings, **changes}),
        "cpu",
        autocast,
        ranks,
        shapings,
        smallest=1 if norm is None else 2,
        alignment=AlignmentTerm(ALIGNED, 3, Quarters()) if aligned else None,
    )
