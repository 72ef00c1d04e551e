"""The stages that look for training images among samples, and the pictures that they read and write."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from program import SHORT, copy_of, run
from tiny_plans import changed, plan_of

from experiments.pictures import read_grid, save_grid
from experiments.stages.samples import first_images


@pytest.mark.parametrize("side", [(8, 8), (40, 24), (64, 96)])
def test_a_grid_gives_back_its_images(tmp_path: Path, side: tuple[int, int]) -> None:
    """Enlarged or not, to the last bit."""
    images = torch.randint(0, 256, (11, 3, *side), generator=torch.Generator().manual_seed(0)).byte()
    save_grid(tmp_path / "grid.png", list(images.split(4)))
    assert torch.equal(read_grid(tmp_path / "grid.png", 11, 4, *side), images)


def test_memorisation_is_asked_for_and_changes_no_other_stage() -> None:
    """One training set for all models."""
    plan, asked, other = plan_of(), plan_of("metrics.memorisation=true"), plan_of("metrics.memorisation=true", "ae.f=8")
    assert changed(plan, asked) == {"training_set", "memorisation"}
    assert "training_set" not in changed(asked, other)
    assert "memorisation" in changed(asked, other)
    assert [stage.name for stage in asked.needed(("memorisation",))][-2:] == ["training_set", "memorisation"]


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell whose samples are kept."""
    found = copy_of(swept_store, tmp_path_factory.mktemp("memorised"))
    done = run(found, *SHORT, "metrics.memorisation=true", "samples.keep=images")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def _record(store: Path, stage: str) -> dict:
    [path] = store.glob(f"{stage}/*/record.json")
    return json.loads(path.read_text())


def _samples(store: Path) -> Path:
    [images] = store.glob("samples/*/images.npy")
    return images.parent


@pytest.mark.long
def test_rows_have_interval_and_protocol_in_both_spaces(store: Path) -> None:
    """Samples beside held-out images, against all training images."""
    record, unseen = _record(store, "memorisation"), _record(store, "training_set")
    rows = {row["metric"]: row for row in record["rows"]}
    spaces = ("efficientnet_lite2_colour", "pixels")
    assert set(rows) == {f"{kind}_train_{space}" for kind in ("nearest", "nearer", "close") for space in spaces}
    for row in rows.values():
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        protocol = record["protocols"][row["protocol"]]
        assert (protocol["kind"], protocol["n_samples"], protocol["n_reference"]) == ("memorisation", 32, 64)
        assert protocol["reference"] == "train"
    assert {row["metric"] for row in unseen["rows"]} == {f"real_nearest_train_{space}" for space in spaces}
    assert {row["n"] for row in unseen["rows"]} == {40}


def test_distances_are_those_of_the_images_themselves(store: Path) -> None:
    """By brute force, from the samples that were kept and the images of the cache."""
    samples = _samples(store)
    kept = first_images(samples.joinpath, 32, 32, 32)
    [train] = store.glob("data/train-*/images.npy")
    pixels = np.load(train).astype(np.float64).transpose(0, 3, 1, 2)
    errors = np.sqrt(np.square(kept.numpy().astype(np.float64)[:, None] - pixels[None]).mean(axis=(2, 3, 4)))
    [row] = [row for row in _record(store, "memorisation")["rows"] if row["metric"] == "nearest_train_pixels"]
    assert row["value"] == pytest.approx(errors.min(axis=1).mean(), rel=1e-6)
    for shown in _record(store, "memorisation")["facts"]["shown"]:
        assert errors[shown["sample"]].argmin() == shown["training_image_by_pixels"]


def test_the_picture_shows_samples_above_their_nearest_training_images(store: Path) -> None:
    """Twelve of them, three rows."""
    [path] = store.glob("memorisation/*/nearest.png")
    grid = read_grid(path, 36, 12, 32, 32)
    shown = _record(store, "memorisation")["facts"]["shown"]
    samples, [train] = _samples(store), store.glob("data/train-*/images.npy")
    kept, images = (
        first_images(samples.joinpath, 32, 32, 32),
        torch.from_numpy(np.load(train).transpose(0, 3, 1, 2).copy()),
    )
    assert torch.equal(grid[:12], kept[[item["sample"] for item in shown]])
    assert torch.equal(grid[12:24], images[[item["training_image"] for item in shown]])
    assert torch.equal(grid[24:], images[[item["training_image_by_pixels"] for item in shown]])
    distances = [item["distance"] for item in shown]
    assert distances == sorted(distances)


def test_without_kept_samples_those_of_the_grid_are_looked_at(store: Path, tmp_path: Path) -> None:
    """They are the same."""
    samples = _samples(store)
    Image.open(samples / "grid.png").save(tmp_path / "grid.png")
    assert torch.equal(first_images(tmp_path.joinpath, 32, 32, 32), first_images(samples.joinpath, 32, 32, 32))
