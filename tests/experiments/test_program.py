"""run.py as its user runs it, at scale=tiny."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from program import SHORT, SWEEP, copy_of, records, rows, run

from ldm.data.masks import draw_mask
from ldm.data.sources import open_splits
from ldm.randomness import generator, numpy_generator

sys.path.append(str(Path(__file__).parents[1]))
from tiny_clip import save_tiny_clip

pytestmark = pytest.mark.program


@pytest.fixture(scope="module")
def swept(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The swept store, to which these tests add."""
    return copy_of(swept_store, tmp_path_factory.mktemp("sweep"))


def test_each_identity_is_computed_once(swept: Path) -> None:
    """f = 1 is one cell under both regularisers; one reference serves all."""
    count = Counter(stage for stage, _ in records(swept))
    assert count == {
        "reference": 1,
        "first_stage": 3,
        "reconstruction": 3,
        "rate_curve": 1,
        "latents": 3,
        "gaussian": 3,
        "diffusion": 3,
        "progress": 3,
        "probe": 1,
        "samples": 3,
        "evaluation": 3,
    }


@pytest.mark.long
def test_the_same_sweep_again_computes_nothing(swept: Path) -> None:
    """The second run finds everything in the store."""
    before = {path: path.stat().st_mtime_ns for path in swept.glob("*/*/record.json")}
    done = run(swept, *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 computed now" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in swept.glob("*/*/record.json")} == before


@pytest.mark.long
def test_another_step_count_pays_for_samples_only(swept: Path) -> None:
    """And nothing that was there is touched."""
    before = records(swept)
    done = run(swept, "-m", "ae=kl,vq", "ae.f=4", "sampler.steps=3", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Counter(stage for stage, _ in records(swept) - before) == {"samples": 2, "evaluation": 2}


@pytest.mark.slow
def test_another_judge_beside_pays_for_its_references_and_samples_and_changes_no_other_number(
    swept: Path, tmp_path: Path
) -> None:
    save_tiny_clip(tmp_path / "clip")
    before, old = records(swept), rows(swept)
    done = run(swept, "ae.f=1", *SHORT, f"metrics.also.clip={tmp_path / 'clip'}")
    assert done.returncode == 0, done.stdout + done.stderr
    added = dict(records(swept) - before)
    assert set(added) == {"other_references", "samples", "evaluation"}
    record = json.loads((swept / "evaluation" / added["evaluation"] / "record.json").read_text())
    found = {row["metric"]: row for row in record["rows"]}
    own = [name for name in found if name.endswith("efficientnet_lite2_colour") or name.startswith("class")]
    assert "kd_efficientnet_lite2_colour" in own
    for name in own:
        values = {value for (stage, _, metric, _), value in old.items() if (stage, metric) == ("evaluation", name)}
        assert found[name]["value"] in values, name
    assert (
        record["protocols"][found["kd_efficientnet_lite2_colour"]["protocol"]]["extractor"]
        == "efficientnet_lite2_colour"
    )
    assert record["protocols"][found["cmmd_clip"]["protocol"]]["extractor"] == "clip"
    assert any("real_cmmd_clip" in key for key in set(rows(swept)) - set(old))


@pytest.mark.long
def test_larger_samples_pay_for_samples_only_and_are_measured_in_windows(swept: Path) -> None:
    """A model trained at 32 px samples 64x40, decoded in tiles whose difference stands in the record."""
    before = records(swept)
    size = ("samples.height=40", "samples.width=64", "samples.tile=8", "samples.keep=images", "samples.batch=5")
    done = run(swept, "ae=kl", "ae.f=4", *SHORT, *size)
    assert done.returncode == 0, done.stdout + done.stderr
    [sampled, evaluated] = sorted(records(swept) - before, reverse=True)
    assert (sampled[0], evaluated[0]) == ("samples", "evaluation")
    folder = swept / sampled[0] / sampled[1]
    images = np.load(folder / "images.npy")
    assert images.shape == (32, 3, 40, 64)
    assert len(np.load(folder / "features.npz")["features"]) == 32
    facts = json.loads((folder / "record.json").read_text())["facts"]
    assert facts["size"] == [40, 64]
    assert facts["saturated"] == pytest.approx(((images == 0) | (images == 255)).mean(), rel=1e-12)
    assert facts["latent_std"] > 0
    assert (facts["tiling"]["tiles"], facts["tiling"]["overlap"]) == ([2, 3], 2)
    difference = facts["tiling"]["difference"]
    assert (difference["samples"], difference["latent"]) == (4, [10, 14])
    assert 0 < difference["rmse"] < 20
    assert difference["relative_between_seams"] > 0
    record = json.loads((swept / evaluated[0] / evaluated[1] / "record.json").read_text())
    measured = {row["metric"] for row in record["rows"]}
    assert "window_kd_efficientnet_lite2_colour" in measured
    assert all(metric.startswith("window_") for metric in measured)
    assert "kd_efficientnet_lite2_colour" in {item["metric"] for item in record["left_out"]}
    [protocol] = record["protocols"].values()
    assert (protocol["kind"], protocol["resolution"]) == ("windows", 32)


@pytest.mark.slow
def test_maps_of_larger_samples_are_made_at_their_size(swept: Path) -> None:
    """Label map, low-resolution image and mask in one run; the known pixels are those of scenes side by side."""
    asked = ("conditioning=[semantic,superres,inpaint]", "samples.paste_known=true", "samples.keep=images")
    before = records(swept)
    done = run(swept, "ae=kl", "ae.f=4", "until=samples", SHORT[1], "samples.height=40", "samples.width=64", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = [swept / stage / identity for stage, identity in records(swept) - before if stage == "samples"]
    images = np.load(folder / "images.npy")
    assert images.shape == (32, 3, 40, 64)
    scenes = open_splits("emoji", 32, size=(40, 64), n_train=64, n_heldout=40)["heldout"]
    order = torch.randperm(40, generator=generator(0, "condition")).tolist()
    changed = []
    for i in range(5):
        known = draw_mask(numpy_generator(0, "fields", i), 40, 64) == 0
        original = scenes.item(order[i]).image.transpose(2, 0, 1)
        np.testing.assert_array_equal(images[i][:, known], original[:, known])
        changed.append((images[i][:, ~known] != original[:, ~known]).mean())
    assert min(changed) > 0.5


def test_rates_and_distortions_stand_under_their_names(swept: Path) -> None:
    """KL, VQ and identity each have their own rates; the identity is exact, so its PSNR is left out with a reason."""
    metrics: dict[str, set[str]] = {}
    left_out: dict[str, set[str]] = {}
    for path in swept.glob("reconstruction/*/record.json"):
        record = json.loads(path.read_text())
        kind = record["facts"]["regulariser"]
        metrics[kind] = {row["metric"] for row in record["rows"]}
        left_out[kind] = {item["metric"] for item in record["left_out"]}
    assert {"rate_kl_prior", "rate_kl_fitted", "psnr", "psnr_sample"} <= metrics["kl"]
    assert {"rate_index_log2", "rate_index_crossentropy", "psnr"} <= metrics["vq"]
    assert {"rate_raw", "rate_lossless", "rmse255"} <= metrics["identity"]
    assert "psnr" in left_out["identity"]


def test_every_row_has_its_n_and_its_protocol(swept: Path) -> None:
    """No number without how it was measured."""
    for path in swept.glob("*/*/record.json"):
        record = json.loads(path.read_text())
        for row in record["rows"]:
            assert row["n"] > 0
            assert row["protocol"] in record["protocols"]
    [progress] = {
        protocol["sampler"]
        for path in swept.glob("progress/*/record.json")
        for protocol in json.loads(path.read_text())["protocols"].values()
    }
    assert progress == "ddim, 10 steps, eta 0.0, spacing neutral, final clean, clip none"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(swept: Path, tmp_path: Path) -> None:
    """Another store, another process: bit for bit."""
    done = run(tmp_path / "store", "ae=vq", "ae.f=4", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    again, first = rows(tmp_path / "store"), rows(swept)
    assert len(again) > 20
    assert {key: first[key] for key in again} == again


PLAIN = ("ae.loss.perceptual=none", *SHORT)
"""Settings of a first stage that is trained in no time."""


@pytest.mark.long
def test_a_failing_cell_stops_only_itself(swept: Path, tmp_path: Path) -> None:
    """The next one finishes, the traceback is kept and shown with the command that repeats it, the exit code is 1."""
    store = copy_of(swept, tmp_path)
    before = records(store)
    done = run(store, "-m", "ae.f=4", "ae.training.learning_rate=1e30,2e-3", "until=first_stage", *PLAIN)
    assert done.returncode == 1
    assert "DivergedError" in done.stdout
    assert "repeat it with: python run.py" in done.stdout
    assert {stage for stage, _ in records(store) - before} == {"first_stage", "reconstruction", "rate_curve"}
