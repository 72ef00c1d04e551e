"""Numbers from papers: read from published/, each with what its paper says of how it was measured."""

import csv
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis.literature import BAND, PAPER, Measured, Published
from analysis.paper_text import count, factor, fid_and_is, leading, number, plain, regulariser_of, remarks_of, whole

FOLDER = Path(__file__).with_name("published")


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


def _autoencoders() -> Iterator[Published]:
    """Table 8; that images of ImageNet's validation set were cut to 256 px is said of the models, not of the table."""
    measured = Measured("imagenet", 256, n=None, reference="heldout")
    for row in read("ldm_table8_autoencoders"):
        if row["family"] not in ("VQ", "KL"):
            continue
        attention = "" if row["first_stage_attention"] == "yes" else ", no attention"
        codes = whole(row["codebook_size_Z"])
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
                spread=number(row.get(f"{column}_std", "")),
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
            model=f"{plain(row['method'])}, {row['dataset']}",
            stage="evaluation",
            metric="fid",
            value=float(row["FID"]),
            f=int(row["f"]),
            regulariser=row["regulariser"].lower(),
            measured=Measured(data[row["dataset"].split()[0]], 256, "none", 50_000, "train"),
            source=row["source"],
            steps=whole(row["DDIM_steps"]),
            eta=number(row["eta"].removeprefix("eta=")),
            guidance_scale=1.0,
        )


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
        for metric, value, spread in fid_and_is(row):
            yield Published(
                where=f"{PAPER}, Table 10",
                model=f"{plain(row['method'])}, {thousands[1]} steps",
                stage="evaluation",
                metric=metric,
                value=value,
                f=int(f[1]),
                regulariser="vq",
                measured=Measured("imagenet", 256, "class", 50_000, "train"),
                source=row["source"],
                spread=spread,
                steps=whole(row["setting"]),
                guidance_scale=float(scale[1]) if scale else 1.0,
                images_seen=round(count(thousands[1]) * int(batch[1])),
            )


def _text() -> Iterator[Published]:
    """Table 2: compared with 30,000 images of COCO's validation set (Appendix E.3.2)."""
    for row in read("ldm_table2_text_to_image"):
        if not row["method"].startswith("LDM"):
            continue
        scale = re.search(r"s = ([\d.]+)", row["setting"])
        for metric, value, spread in fid_and_is(row):
            yield Published(
                where=f"{PAPER}, Table 2",
                model=plain(row["method"]),
                stage="evaluation",
                metric=metric,
                value=value,
                f=8,
                regulariser="kl",
                measured=Measured("coco", 256, "text", 30_000, "heldout"),
                source=row["source"],
                spread=spread,
                steps=whole(row["setting"]),
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
                    model=f"{plain(row['method'])}, {data} {resolution} px",
                    stage="evaluation",
                    metric="fid",
                    value=float(row[column]),
                    f=int(f[1]),
                    regulariser="vq",
                    measured=Measured(data, resolution, "layout", 2048, "heldout"),
                    source=row["source"],
                    steps=whole(row["method"].partition("(")[2]),
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
        name, remarks = remarks_of(row["method"])
        if name is None or "guiding" in remarks:
            continue
        steps = next(whole(remark) for remark in remarks if remark.endswith(" steps"))
        model = ", ".join([name, *(remark for remark in remarks if not remark.endswith(" steps"))])
        for column, (metric, against, reference, balance) in columns.items():
            yield Published(
                where=f"{PAPER}, Table {row['table']}",
                model=model + against,
                stage="evaluation",
                metric=metric,
                value=leading(row[column]),
                f=factor(name),
                regulariser="vq",
                measured=Measured("imagenet", 256, "superres", None, reference, task, balance),
                source=row["source"],
                spread=number(row[column].partition("±")[2]),
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
        name, remarks = remarks_of(row["method"])
        if name is None:
            continue
        for column, metric in columns.items():
            n = None if metric.endswith(BAND) else 30_000
            yield Published(
                where=f"{PAPER}, Table 7",
                model=", ".join([name, *remarks]),
                stage="evaluation",
                metric=metric,
                value=leading(row[column]),
                f=factor(name),
                regulariser="vq",
                measured=Measured("places", 512, "inpaint", n, BEHIND, "masks of Suvorov et al. 2022"),
                source=row["source"],
                spread=number(row[column].partition("±")[2]),
                guidance_scale=1.0,
            )


def _training_progress() -> Iterator[Published]:
    """Figure 6, read off by hand; what 5,000 samples were compared with is not said."""
    batches = {row["model"]: int(row["Batch Size"]) for row in read("ldm_table13_hyperparameters_tradeoff_imagenet")}
    for row in read("ldm_figure6_training_progress_digitised"):
        f = factor(row["model"])
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
                regulariser=regulariser_of(f),
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
        f, (name, conditioning) = factor(row["model"]), data[row["dataset"]]
        value = float(row["FID_exp"])
        yield Published(
            where=f"{PAPER}, Figure 7",
            model=f"{row['model']}, {row['dataset']}",
            stage="evaluation",
            metric="fid",
            value=value,
            f=f,
            regulariser=regulariser_of(f),
            measured=Measured(name, 256, conditioning, int(row["n_samples"])),
            source=row["source"],
            spread=0.015 * value,
            steps=int(row["DDIM_steps"]),
            guidance_scale=1.0,
            sample_images_per_second=float(row["throughput_samples_per_s_one_A100"]),
        )
