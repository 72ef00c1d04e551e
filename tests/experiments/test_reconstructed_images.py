"""Reconstructions through run.py: errors of each image, their means as rows, and LPIPS where its weights are given."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from program import run
from safetensors.torch import save_file
from tiny_plans import changed, plan_of

CELL = ("ae=vq", "ae.f=4", "until=first_stage")


def random_alexnet(path: Path) -> Path:
    """Weights of AlexNet's shapes under torchvision's names."""
    torch.manual_seed(0)
    shapes = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}
    weights = {}
    for index, (out, into, kernel) in shapes.items():
        weights[f"features.{index}.weight"] = torch.randn(out, into, kernel, kernel) / (into * kernel**2) ** 0.5
        weights[f"features.{index}.bias"] = torch.zeros(out)
    save_file(weights, path)
    return path


def test_lpips_is_in_the_identity_of_reconstructions_alone(tmp_path: Path) -> None:
    weights = random_alexnet(tmp_path / "alexnet.safetensors")
    assert changed(plan_of("ae.f=4"), plan_of("ae.f=4", f"metrics.lpips={weights}")) == {"reconstruction"}


@pytest.mark.slow
def test_rows_are_the_means_of_the_images(tmp_path: Path) -> None:
    weights, store = random_alexnet(tmp_path / "alexnet.safetensors"), tmp_path / "store"
    for given in ((), (f"metrics.lpips={weights}",)):
        done = run(store, *CELL, *given)
        assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(path.read_text()) for path in store.glob("reconstruction/*/record.json")]
    without, having = sorted(records, key=lambda record: "lpips_weights" in record["config"])
    assert "metrics.lpips=PATH" in {item["metric"]: item["reason"] for item in without["left_out"]}["lpips_alex"]
    rows = {row["metric"]: row for row in having["rows"]}
    with np.load(store / "reconstruction" / having["identity"] / "images.npz") as images:
        assert set(images.files) == {
            "index",
            "mse",
            "psnr",
            "ssim",
            "feature_distance_efficientnet_lite2",
            "lpips_alex",
        }
        for metric in set(images.files) - {"index"}:
            assert rows[metric]["value"] == pytest.approx(images[metric].mean(), rel=1e-9)
            assert rows[metric]["n"] == len(images["index"])
            assert rows[metric]["ci_low"] < rows[metric]["value"] < rows[metric]["ci_high"]
            assert rows[metric]["estimand"] == "population"
    assert rows["rfd_efficientnet_lite2_colour"]["estimand"] == "expected at this n"
    assert rows["rfd_efficientnet_lite2_colour"]["ci_low"] is not None
    same = {row["metric"]: row["value"] for row in without["rows"]}
    assert same == {metric: row["value"] for metric, row in rows.items() if metric != "lpips_alex"}
