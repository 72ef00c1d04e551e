"""The metric that stands for quality in figures and table, and metrics in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

MANY_SAMPLES = 5000
"""From here on the Frechet distance is the headline; below, its bias at small n exceeds most differences."""

KERNEL = ("kd_", "kid")
"""How the names of kernel distances begin; these have no bias that depends on n."""

WINDOW = "window_"
"""Before the name of a metric that was measured on windows of samples larger than the training images."""

DISTANCE = r"(fd_(?!infinity)|kd_|fid$|kid$)"
"""Names of what may be the headline."""

METRIC_NAMES = {
    "fd_infinity": "Fréchet distance at infinite n",
    "fd": "Fréchet distance",
    "sfd": "spatial Fréchet distance",
    "kd": "kernel distance",
    "cmmd": "CMMD",
    "is": "inception-score formula",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "clipped_density": "clipped density",
    "clipped_coverage": "clipped coverage",
}
STANDARD_NAMES = {"fid_infinity": "FID at infinite n", "fid": "FID", "sfid": "sFID", "kid": "KID", "is": "IS"}
EXTRACTOR_NAMES = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "inception": "Inception-v3",
    "dinov2": "DINOv2",
    "clip": "CLIP",
}


@dataclass(frozen=True)
class Headline:
    """The metric that stands for quality in figures and table; `floor` metrics are the same of real images."""

    metric: str
    n: int

    @property
    def title(self) -> str:
        """As it is written on an axis."""
        return metric_title(self.metric)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel distance, else a Frechet distance."""
        return _is_kernel(self.metric)

    @property
    def real(self) -> str:
        """Its floor: real images of the split that is not the reference."""
        return f"real_{self.metric}"

    @property
    def decoded(self) -> str:
        """Its floor: the same images encoded and decoded."""
        return f"decoded_{self.metric}"


def headline(frame: pd.DataFrame, stage: str = "evaluation") -> Headline | None:
    """The kernel distance below 5000 samples, else the Frechet distance, of the cells' own extractor with most rows.

    Distances of windows count where there are none of whole samples.
    """
    rows = frame[frame["stage"] == stage]
    distances = rows[rows["metric"].str.match(DISTANCE)]
    if distances.empty:
        distances = rows[rows["metric"].str.match(WINDOW + DISTANCE)]
    if distances.empty:
        return None
    extractors = distances["metric"].map(_extractor)
    if (is_own := extractors == distances["extractor"]).any():  # not of those that judge beside it
        distances, extractors = distances[is_own], extractors[is_own]
    chosen = extractors.value_counts().sort_index(kind="stable").sort_values(ascending=False, kind="stable").index[0]
    own = distances[extractors == chosen]
    n = int(own["n"].min())
    kernel = own["metric"].map(_is_kernel)
    wanted = own[kernel if n < MANY_SAMPLES else ~kernel]
    metric = (wanted if not wanted.empty else own)["metric"].iloc[0]
    return Headline(str(metric), n)


def _is_kernel(metric: str) -> bool:
    return metric.removeprefix(WINDOW).startswith(KERNEL)


def _extractor(metric: str) -> str:
    """The network of a distance; the names without one stand for the standard Inception weights."""
    return metric.removeprefix(WINDOW).partition("_")[2] or "inception"


def metric_title(metric: str) -> str:
    """A metric's name in words, e.g. "kernel distance, EfficientNet-Lite2"."""
    if metric.startswith(WINDOW):
        return f"{metric_title(metric.removeprefix(WINDOW))}, windows of larger samples"
    if metric in STANDARD_NAMES:
        return STANDARD_NAMES[metric]
    kind = next((name for name in METRIC_NAMES if metric.startswith(f"{name}_")), None)
    if kind is None:
        return metric
    extractor = metric.removeprefix(f"{kind}_")
    return f"{METRIC_NAMES[kind]}, {EXTRACTOR_NAMES.get(extractor, extractor)}"


def compared_images(protocol: Mapping[str, Any]) -> tuple[str, str]:
    """Which real images were measured, and which they were compared with, e.g. "training images", "held-out images"."""
    splits = {"train": "training images", "heldout": "held-out images"}
    measured = str(protocol.get("class_balance", "real images")).removeprefix("as in the ")
    return measured, splits.get(protocol.get("reference", ""), "images that no record names")
