"""Numbers from papers: read from published/, each with what its paper says of how it was measured."""

import csv
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).with_name("published")
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


@functools.lru_cache
def ldm() -> tuple[Published, ...]:
    """The numbers of latent diffusion models that have a counterpart here: Tables 1, 2, 5, 7 to 11, Figures 6, 7.

    Models under guidance by another network (a classifier, or a downsampler in Tables 5 and 11) have none.
    """
    return (
        *_autoencoders(),
        *_unconditional(),
        *_class_conditional(),
        *_text(),
        *_layout(),
        *_super_resolution(),
        *_inpainting(),
        *_training_progress(),
        *_throughput(),
    )


def ddpm_rate_distortion() -> pd.DataFrame:
    """Progressive lossy coding of CIFAR-10's test set: steps, bits_per_dim, rmse255 (Ho et al. 2020, Table 4)."""
    rows = read("ddpm_table4_rate_distortion")
    names = {
        "reverse_process_time_T-t+1": "steps",
        "rate_bits_per_dim": "bits_per_dim",
        "distortion_RMSE_0_255": "rmse255",
    }
    return pd.DataFrame([{new: float(row[old]) for old, new in names.items()} for row in rows])


def read(name: str) -> list[dict[str, str]]:
    """The rows of a file of published/ as they stand there."""
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
    """The same as setting, theirs, ours."""
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


def _autoencoders() -> Iterator[Published]:
    """Table 8; that images of ImageNet's validation set were cut to 256 px is said of the models, not of the table."""
    measured = Measured("imagenet", 256, n=None, reference="heldout")
    for row in read("ldm_table8_autoencoders"):
        if row["family"] not in ("VQ", "KL"):
            continue
        attention = "" if row["first_stage_attention"] == "yes" else ", no attention"
        codes = _whole(row["codebook_size_Z"])
        size = f", |Z| = {codes}" if codes else f", {row['c']} channels"
        for column, metric in (("R-FID", "rfid"), ("PSNR", "psnr"), ("SSIM", "ssim")):
            yield Published(
                where=f"{PAPER}, Table 8",
                model=f"{row['family']}-f{row['f']}{size}{attention}",
                stage="reconstruction",
                metric=metric,
                value=float(row[column]),
                f=int(row["f"]),
                regulariser=row["family"].lower(),
                measured=measured,
                source=row["source"],
                spread=_number(row.get(f"{column}_std", "")),
                channels=int(row["c"]),
                codes=codes,
            )


def _unconditional() -> Iterator[Published]:
    """Table 1: 50,000 samples against the whole training set (Appendix E.3.1)."""
    data = {"CelebA-HQ": "celebahq", "FFHQ": "ffhq", "LSUN-Churches": "lsun", "LSUN-Bedrooms": "lsun"}
    for row in read("ldm_table1_unconditional"):
        if row["is_LDM"] != "yes":
            continue
        yield Published(
            where=f"{PAPER}, Table 1",
            model=f"{_plain(row['method'])}, {row['dataset']}",
            stage="evaluation",
            metric="fid",
            value=float(row["FID"]),
            f=int(row["f"]),
            regulariser=row["regulariser"].lower(),
            measured=Measured(data[row["dataset"].split()[0]], 256, "none", 50_000, "train"),
            source=row["source"],
            steps=_whole(row["DDIM_steps"]),
            eta=_number(row["eta"].removeprefix("eta=")),
            guidance_scale=1.0,
        )


def _fid_and_is(row: Mapping[str, str]) -> Iterator[tuple[str, float, float | None]]:
    """Metric, value, and the spread that some tables print behind a plus-minus sign."""
    for metric, column in (("fid", "FID"), ("is", "IS")):
        value, _, spread = row[column].partition("±")
        yield metric, float(value), _number(spread)


def _class_conditional() -> Iterator[Published]:
    """Table 10, which holds Table 3: 50,000 samples against the whole training set (Appendix E.3.1)."""
    for row in read("ldm_table3_10_class_conditional"):
        f = re.match(r"LDM-(\d+)", row["method"])
        if f is None or "classifier scale" in row["setting"]:
            continue
        scale = re.search(r"scale ([\d.]+)", row["setting"])
        thousands, batch = (
            re.search(pattern, row["setting"]) for pattern in (r"([\d.]+[MK]) train steps", r"batch size (\d+)")
        )
        assert thousands is not None
        assert batch is not None
        for metric, value, spread in _fid_and_is(row):
            yield Published(
                where=f"{PAPER}, Table 10",
                model=f"{_plain(row['method'])}, {thousands[1]} steps",
                stage="evaluation",
                metric=metric,
                value=value,
                f=int(f[1]),
                regulariser="vq",
                measured=Measured("imagenet", 256, "class", 50_000, "train"),
                source=row["source"],
                spread=spread,
                steps=_whole(row["setting"]),
                guidance_scale=float(scale[1]) if scale else 1.0,
                images_seen=round(_count(thousands[1]) * int(batch[1])),
            )


def _text() -> Iterator[Published]:
    """Table 2: compared with 30,000 images of COCO's validation set (Appendix E.3.2)."""
    for row in read("ldm_table2_text_to_image"):
        if not row["method"].startswith("LDM"):
            continue
        scale = re.search(r"s = ([\d.]+)", row["setting"])
        for metric, value, spread in _fid_and_is(row):
            yield Published(
                where=f"{PAPER}, Table 2",
                model=_plain(row["method"]),
                stage="evaluation",
                metric=metric,
                value=value,
                f=8,
                regulariser="kl",
                measured=Measured("coco", 256, "text", 30_000, "heldout"),
                source=row["source"],
                spread=spread,
                steps=_whole(row["setting"]),
                guidance_scale=float(scale[1]) if scale else 1.0,
            )


def _layout() -> Iterator[Published]:
    """Table 9: 2,048 images, of COCO's segmentation challenge or OpenImages' validation set (Appendix E.3.3)."""
    columns = {"FID_COCO256": ("coco", 256), "FID_OpenImages256": ("openimages", 256)}
    columns |= {"FID_OpenImages512": ("openimages", 512)}
    for row in read("ldm_table9_layout_to_image"):
        f = re.match(r"LDM-(\d+)", row["method"])
        if f is None:
            continue
        for column, (data, resolution) in columns.items():
            if row[column]:
                yield Published(
                    where=f"{PAPER}, Table 9",
                    model=f"{_plain(row['method'])}, {data} {resolution} px",
                    stage="evaluation",
                    metric="fid",
                    value=float(row[column]),
                    f=int(f[1]),
                    regulariser="vq",
                    measured=Measured(data, resolution, "layout", 2048, "heldout"),
                    source=row["source"],
                    steps=_whole(row["method"].partition("(")[2]),
                    guidance_scale=1.0,
                )


HELDOUT = "as in the held-out images"
BEHIND = "the heldout images behind the conditions"
"""What our protocols say of samples with the conditions of held-out images, and of comparing each with its own."""


def _super_resolution() -> Iterator[Published]:
    """Tables 5 and 11: ImageNet's validation images of at least 256 px, how many is not said (Appendix E.3.4)."""
    task = "bicubic, 4 times"
    columns = {
        "FID_val_features": ("fid", ", against held-out images", "heldout", HELDOUT),
        "FID_train_features": ("fid", ", against training images", "train", HELDOUT),
        "IS": ("is", "", None, HELDOUT),
        "PSNR": ("superres_psnr", "", BEHIND, None),
        "SSIM": ("superres_ssim", "", BEHIND, None),
    }
    for row in read("ldm_table5_11_super_resolution"):
        name, remarks = _remarks(row["method"])
        if name is None or "guiding" in remarks:
            continue
        steps = next(_whole(remark) for remark in remarks if remark.endswith(" steps"))
        model = ", ".join([name, *(remark for remark in remarks if not remark.endswith(" steps"))])
        for column, (metric, against, reference, balance) in columns.items():
            yield Published(
                where=f"{PAPER}, Table {row['table']}",
                model=model + against,
                stage="evaluation",
                metric=metric,
                value=_leading(row[column]),
                f=_factor(name),
                regulariser="vq",
                measured=Measured("imagenet", 256, "superres", None, reference, task, balance),
                source=row["source"],
                spread=_number(row[column].partition("±")[2]),
                steps=steps,
                guidance_scale=1.0,
            )


def _inpainting() -> Iterator[Published]:
    """Table 7: 30,000 crops of Places' test images at 512 px with the masks of Suvorov et al. 2022 (Appendix E.2.2).

    Sampler and steps are not said.
    """
    columns = {
        "FID_all": "inpaint_fid",
        "LPIPS_all": "inpaint_lpips",
        "FID_40-50%_masked": f"inpaint_fid{BAND}",
        "LPIPS_40-50%_masked": f"inpaint_lpips{BAND}",
    }
    for row in read("ldm_table7_inpainting"):
        name, remarks = _remarks(row["method"])
        if name is None:
            continue
        for column, metric in columns.items():
            n = None if metric.endswith(BAND) else 30_000
            yield Published(
                where=f"{PAPER}, Table 7",
                model=", ".join([name, *remarks]),
                stage="evaluation",
                metric=metric,
                value=_leading(row[column]),
                f=_factor(name),
                regulariser="vq",
                measured=Measured("places", 512, "inpaint", n, BEHIND, "masks of Suvorov et al. 2022"),
                source=row["source"],
                spread=_number(row[column].partition("±")[2]),
                guidance_scale=1.0,
            )


def _training_progress() -> Iterator[Published]:
    """Figure 6, read off by hand; what 5,000 samples were compared with is not said."""
    batches = {row["model"]: int(row["Batch Size"]) for row in read("ldm_table13_hyperparameters_tradeoff_imagenet")}
    for row in read("ldm_figure6_training_progress_digitised"):
        f = _factor(row["model"])
        for metric, column, error in (("fid", "FID", 1.5), ("is", "IS", 0.4)):
            if not row[column]:
                continue
            yield Published(
                where=f"{PAPER}, Figure 6",
                model=row["model"],
                stage="progress",
                metric=metric,
                value=float(row[column]),
                f=f,
                regulariser=_regulariser(f),
                measured=Measured("imagenet", 256, "class", int(row["n_samples"])),
                source=row["source"],
                spread=error,
                steps=int(row["DDIM_steps"]),
                eta=0.0,
                guidance_scale=1.0,
                images_seen=round(float(row["train_step_millions"]) * 1e6 * batches[row["model"]]),
            )


def _throughput() -> Iterator[Published]:
    """Figure 7, read off by hand: one A100, with a batch that is not said; what samples were compared with neither."""
    data = {"CelebA-HQ 256": ("celebahq", "none"), "ImageNet 256 class-conditional": ("imagenet", "class")}
    for row in read("ldm_figure7_fid_vs_throughput_digitised"):
        f, (name, conditioning) = _factor(row["model"]), data[row["dataset"]]
        value = float(row["FID_exp"])
        yield Published(
            where=f"{PAPER}, Figure 7",
            model=f"{row['model']}, {row['dataset']}",
            stage="evaluation",
            metric="fid",
            value=value,
            f=f,
            regulariser=_regulariser(f),
            measured=Measured(name, 256, conditioning, int(row["n_samples"])),
            source=row["source"],
            spread=0.015 * value,
            steps=int(row["DDIM_steps"]),
            guidance_scale=1.0,
            sample_images_per_second=float(row["throughput_samples_per_s_one_A100"]),
        )


def _regulariser(f: int) -> str:
    """That of Figures 6 and 7, whose first stages have codebooks (Tables 13 and 14)."""
    return "identity" if f == 1 else "vq"


def _factor(model: str) -> int:
    return int(model.removeprefix("LDM-"))


def _remarks(method: str) -> tuple[str | None, list[str]]:
    """An LDM's name and what stands of it in brackets, but for whose it is; None for other models."""
    found = re.fullmatch(r"(LDM-\d+) \(ours, (.*)\)", method)
    return (found[1], found[2].split(", ")) if found else (None, [])


def _leading(text: str) -> float:
    """The number before a plus-minus sign, or alone."""
    return float(text.partition("±")[0])


def _plain(method: str) -> str:
    """The name alone of a latent diffusion model, without footnote marks and remarks."""
    found = re.match(r"LDM(-KL)?-\d+(-G)?", method)
    assert found is not None, method
    return found[0]


def _number(text: str) -> float | None:
    """The number that a text begins with, None where it begins with none."""
    found = re.match(r"\s*[\d.]+", text)
    return float(found[0]) if found else None


def _whole(text: str) -> int | None:
    found = _number(text)
    return None if found is None else int(found)


def _count(text: str) -> float:
    """2.9M and 178K as numbers."""
    return float(text[:-1]) * {"M": 1e6, "K": 1e3}[text[-1]]


def _as_number(value: Any) -> float:
    """NaN, which equals nothing, where there is none."""
    return math.nan if pd.isna(value) or value == "" else float(value)


def _shown(value: Any) -> str:
    number = _as_number(value)
    return UNKNOWN if math.isnan(number) else f"{number:g}"


def named(numbers: Sequence[Published]) -> str:
    """Where the numbers stand, e.g. "Rombach et al. 2022, Table 8"."""
    return "; ".join(dict.fromkeys(number.where for number in numbers))
