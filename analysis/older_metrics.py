"""What metrics mean in rows written before schema 2, whose names alone told it. Frozen: it describes the past.

Rows say it themselves since (`ldm.metrics.values.Metric`). What analysis had no words for then goes by its name, and
what it gave no place in the tables is detail, so that tables, figures and verdicts of an old store stay what they were.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ldm.records import (
    DECODED,
    DETAIL,
    GENERATION,
    MEMORISATION,
    NEIGHBOURHOODS,
    POSTERIOR_SAMPLE,
    RATE,
    REAL,
    RECONSTRUCTION,
    TASK,
    WINDOWS,
    ResultRow,
)

VARIANTS = {
    "window_": WINDOWS,
    "real_": REAL,
    "decoded_": DECODED,
    "shuffled_": "conditions of other samples",
    "bicubic_": "input enlarged bicubically",
    "mean_fill_": "holes in the mean colour",
}
DISTANCES = {
    "fd_infinity": "Fréchet distance at infinite n",
    "fd": "Fréchet distance",
    "sfd": "spatial Fréchet distance",
    "kd": "kernel distance",
    "cmmd": "CMMD",
    "is": "inception-score formula",
}
SHARES = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "clipped_density": "clipped density",
    "clipped_coverage": "clipped coverage",
}
STANDARD = {
    "fid_infinity": ("fd_infinity", "FID at infinite n"),
    "fid": ("fd", "FID"),
    "sfid": ("sfd", "sFID"),
    "kid": ("kd", "KID"),
    "is": ("is", "IS"),
}
NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "inception": "Inception-v3",
    "dinov2": "DINOv2",
    "clip": "CLIP",
}
HEADLINE_FROM = {"fd": 5000, "kd": 0}
PREDICTED_BY = r"(kd_|kid$|fd_|fid$)"
"""Names of the distances of decoded images that were looked at as predictors."""

TASKS = r"(class|layout|semantic|text|clip|superres|inpaint)_"
RECONSTRUCTIONS = r"(rfd_|rfid$|psnr$|ssim$|rmse255$|lpips)"
SAMPLED = r"(psnr|rmse255)_sample$"
RATES = {"rate_kl_fitted": 0, "rate_index_crossentropy": 0, "rate_lossless": 0}
"""Those that were drawn; the others were the cruder bounds."""

RATE_WORDS = {
    "rate_kl_fitted": "KL to a Gaussian fitted per channel",
    "rate_kl_prior": "KL to N(0, I)",
    "rate_index_log2": "log2 of the codebook size",
    "rate_raw": "24 bits per pixel",
}
"""What the note of the rate-distortion figure said of a rate whose title is its name."""

Meaning = Mapping[str, Any]


def filled(row: ResultRow) -> ResultRow:
    """The row with what its metric means, which rows of schema 2 say themselves."""
    return row if row.title else replace(row, **meaning(row.metric))


@functools.cache
def meaning(metric: str) -> Meaning:
    """The fields of `ResultRow` that a name stood for."""
    for prefix, words in VARIANTS.items():
        if metric.startswith(prefix):
            return _variant(metric, metric.removeprefix(prefix), words)
    if (known := _of_samples(metric)) is not None:
        return known
    if re.match(RECONSTRUCTIONS, metric):
        return _reconstruction(metric)
    if re.match(SAMPLED, metric):
        base = metric.removesuffix("_sample")
        return {**_reconstruction(base), "title": metric, "base": base, "variant": POSTERIOR_SAMPLE}
    if metric.startswith("rate_"):
        return {"title": metric, "group": RATE, "kind": metric, "headline_from": RATES.get(metric)}
    if found := re.match(r"(nearest|nearer|close)_train(?=_)", metric):
        return {"title": metric, "group": MEMORISATION, "kind": found[0]}
    if re.match(TASKS, metric):
        return {"title": metric, "group": TASK, "kind": _task_kind(metric)}
    return {"title": metric, "group": DETAIL, "kind": metric}


def _of_samples(metric: str) -> Meaning | None:
    """Of distances between distributions, and of shares of neighbourhoods."""
    if metric in STANDARD:
        kind, title = STANDARD[metric]
    else:
        kind = next((name for name in (*DISTANCES, *SHARES) if metric.startswith(f"{name}_")), "")
        network = metric.removeprefix(f"{kind}_")
        title = f"{({**DISTANCES, **SHARES}).get(kind)}, {NETWORKS.get(network, network)}"
    if not kind:
        return None
    return {
        "title": title,
        "higher_is_better": kind in SHARES or kind == "is",
        "group": NEIGHBOURHOODS if kind in SHARES else GENERATION,
        "kind": kind,
        "headline_from": HEADLINE_FROM.get(kind),
    }


def _reconstruction(metric: str) -> Meaning:
    found = {"title": metric, "group": RECONSTRUCTION, "kind": metric}
    if metric == "rfid":
        return {**found, "title": "rFID", "kind": "rfd", "headline_from": 0}
    if metric.startswith("rfd_"):
        return {**found, "title": f"reconstruction {meaning(metric[1:])['title']}", "kind": "rfd", "headline_from": 0}
    return {**found, "headline_from": 0 if metric == "psnr" else None}


def _task_kind(metric: str) -> str:
    """The name without its network; only what papers report was looked for by it."""
    band = found[0] if (found := re.search(r"_mask\d+_\d+$", metric)) else ""
    for kind, names in (("inpaint_fd", r"inpaint_(fd_|fid(_mask|$))"), ("inpaint_lpips", "inpaint_lpips")):
        if re.match(names, metric):
            return kind + band
    return metric


def _variant(metric: str, base: str, words: str) -> Meaning:
    of = meaning(base)
    title = f"{of['title']}, {words}" if of["title"] != base or words in (REAL, DECODED) else metric
    group = of["group"]
    if words == DECODED and not re.match(PREDICTED_BY, base):
        group = DETAIL
    together = ", ".join(filter(None, (of.get("variant", ""), words)))
    return {**of, "title": title, "group": group, "base": of.get("base") or base, "variant": together}
