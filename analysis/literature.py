"""A number of a paper, and in what a row of ours was measured or made otherwise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

PAPER = "Rombach et al. 2022"
BAND = "_mask40_50"
"""The end of names of metrics of images whose holes cover 40 to 50 per cent, as Table 7 has them."""

UNKNOWN = "none"
"""A setting that a row of ours does not have."""

JUDGED = {"fid", "is", "rfid", "inpaint_fid", f"inpaint_fid{BAND}"}
"""Metrics of the standard Inception weights, whose values depend on how many images they are computed from."""

REFERENCED = {
    "fid",
    "superres_psnr",
    "superres_ssim",
    "inpaint_fid",
    "inpaint_lpips",
    f"inpaint_fid{BAND}",
    f"inpaint_lpips{BAND}",
}
"""Metrics that compare samples with images, so that it matters with which."""

UNSPECIFIED = {
    "ssim": "RGB, Gaussian window",
    "superres_psnr": "RGB, mean over images",
    "superres_ssim": "RGB, Gaussian window",
}
"""Metrics that go by one name for several computations, of which no paper here says its own; and what ours are."""

NAMES = {
    "fid": "FID",
    "is": "IS",
    "rfid": "rFID",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "superres_psnr": "PSNR",
    "superres_ssim": "SSIM",
    "inpaint_fid": "FID",
    "inpaint_lpips": "LPIPS, network not stated",
    f"inpaint_fid{BAND}": "FID, 40-50 % masked",
    f"inpaint_lpips{BAND}": "LPIPS, 40-50 % masked, network not stated",
}


@dataclass(frozen=True)
class Measured:
    """How a published number was measured; what is None the paper does not say.

    `n` = images or samples, `reference` = the images that these are compared with. Where a model starts from images:
    `task` = what these lack, `class_balance` = whose they are where `reference` does not say it; None elsewhere.
    """

    data: str
    resolution: int
    conditioning: str = "none"
    n: int | None = None
    reference: str | None = None
    task: str | None = None
    class_balance: str | None = None

    def is_task_of(self, conditioning: str) -> bool:
        """Whether it can stand beside a model told so: what starts from images stands only beside the like."""
        return self.task is None or self.conditioning in conditioning.split("+")


@dataclass(frozen=True)
class Published:
    """One number of a paper, under our names; axes that are None the paper does not say, or they do not apply.

    `spread`: what the paper prints behind ±, or the error of reading a figure.
    """

    where: str
    model: str
    stage: str
    metric: str
    value: float
    f: int
    regulariser: str
    measured: Measured
    source: str
    spread: float | None = None
    channels: int | None = None
    codes: int | None = None
    steps: int | None = None
    eta: float | None = None
    guidance_scale: float | None = None
    images_seen: int | None = None
    sample_images_per_second: float | None = None

    @property
    def index_bits_per_pixel(self) -> float | None:
        """Rate of the indices without entropy coding: log2 of the codebook size over f^2; None where not quantised."""
        return math.log2(self.codes) / self.f**2 if self.codes else None


def named(numbers: Sequence[Published]) -> str:
    """Where the numbers stand, e.g. "Rombach et al. 2022, Table 8"."""
    return "; ".join(dict.fromkeys(number.where for number in numbers))


def protocol_differences(number: Published, row: Mapping[Any, Any], protocol: Mapping[str, Any]) -> list[str]:
    """In what a row of ours was measured otherwise than a published number, as "field (theirs; ours)"."""
    theirs, found = number.measured, []
    compared: list[tuple[str, Any, Any]] = [
        ("data", theirs.data, row["data"]),
        ("resolution", theirs.resolution, row["resolution"]),
    ]
    if number.stage != "reconstruction":
        compared.append(("conditioning", theirs.conditioning, row["conditioning"]))
    if row["metric"] != number.metric:
        compared.append(("metric", NAMES[number.metric], row["metric"]))
    if number.metric in JUDGED:
        compared.append(("n", theirs.n, row["n"]))
    if number.metric in REFERENCED:
        compared.append(("reference", theirs.reference, protocol.get("reference")))
    if number.metric in UNSPECIFIED:
        compared.append(("implementation", None, UNSPECIFIED[number.metric]))
    if theirs.task is not None:
        compared.append(("task", theirs.task, row.get("task") or "not stated"))
    if theirs.class_balance is not None:
        compared.append(("class balance", theirs.class_balance, protocol.get("class_balance")))
    for name, there, here in compared:
        if there is None:
            found.append(f"{name} (not stated; {here})")
        elif there != here:
            found.append(f"{name} ({there}; {here})")
    return found + [str(mark) for mark in protocol.get("marks", ())]


def setting_differences(number: Published, row: Mapping[Any, Any]) -> list[str]:
    """In what a model of ours was made or sampled otherwise, as "axis (theirs; ours)"; what is not stated is no one."""
    return [f"{setting} ({there}; {here})" for setting, there, here in unlike_settings(number, row)]


def unlike_settings(number: Published, row: Mapping[Any, Any]) -> list[tuple[str, str, str]]:
    """In what a model of ours was made or sampled otherwise: setting, theirs, ours."""
    found = []
    for axis in ("channels", "steps", "eta", "guidance_scale"):
        there, here = getattr(number, axis), row.get(axis)
        if there is not None and _as_number(here) != there:
            found.append((axis.replace("_", " "), f"{there:g}", _shown(here)))
    seen = row.get("images_seen")
    if number.images_seen is not None and not abs(_as_number(seen) / number.images_seen - 1) < 0.05:
        found.append(("images seen", f"{number.images_seen:,}", _shown(seen)))
    if number.steps is not None and row.get("sampler") not in ("ddim", "", None):
        found.append(("sampler", "ddim", str(row["sampler"])))
    return found


def _as_number(value: Any) -> float:
    """NaN, which equals nothing, where there is none."""
    return math.nan if pd.isna(value) or value == "" else float(value)


def _shown(value: Any) -> str:
    number = _as_number(value)
    return UNKNOWN if math.isnan(number) else f"{number:g}"
