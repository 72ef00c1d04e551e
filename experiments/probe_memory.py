"""Memory of training probes, counted on the meta device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.call_memory import FLOAT_BYTES, META
from experiments.conditions import Vocabulary
from experiments.counts import with_moments
from ldm.probes import PROBES
from ldm.probes.contract import resized
from ldm.probes.text import MOST_ATTRIBUTES
from ldm.training.peak_memory import peak_bytes

ANSWERS: Mapping[str, Callable[[Vocabulary], int]] = {
    "class": lambda known: known.classes,
    "text": lambda known: MOST_ATTRIBUTES,
    "layout": lambda known: known.box_classes,
    "semantic": lambda known: known.semantic_classes,
}
"""How many things a probe of each kind tells apart; of text, at most."""


def probe_bytes(kind: str, settings: Mapping[str, Any], resolution: int, known: Vocabulary) -> int:
    """The most bytes at a time of the tensors of a probe's training, of settings that a scale has.

    Layouts are counted as if every image had the most boxes that the probe is asked about.
    """
    side, batch = settings["side"], settings["batch"]
    answers = max(2, ANSWERS[kind](known))
    with META:
        network = PROBES[kind].network_class(settings["width"], answers)
        images = torch.empty(batch * (settings.get("most") or 1), 3, resolution, resolution)

    def step() -> None:
        logits: Tensor = network(resized(images, side))
        if logits.ndim == 4 and logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
        F.log_softmax(logits, dim=1).sum().backward()

    return FLOAT_BYTES * with_moments(network.parameters()) + peak_bytes(step)
