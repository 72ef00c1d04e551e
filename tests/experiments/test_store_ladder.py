"""The ladder of a store: images made anew are those of the stages, and rows stand in all outputs."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from program import SHORT, copy_of, run

from experiments.artifacts import first_stage_of, reference_features
from experiments.commands.ladder import main
from experiments.commands.store_ladder import Stored, stored
from experiments.made_images import Artifact, sets_of
from experiments.pictures import read_grid
from experiments.scoring import extractor_of, features_of, floor_images
from experiments.stages.gaussian import drawn_again
from experiments.stages.progress import milestones_of
from experiments.stages.progress import sampled_again as milestone_again
from experiments.stages.reconstruction import decoded
from experiments.stages.samples import sampled_again
from ldm.metrics.distribution import generation_metrics
from ldm.records import GAUSSIAN, GAUSSIAN_BY_CLASS

EXTRACTOR = "efficientnet_lite2_colour"


@pytest.fixture(scope="module")
def found(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return stored(copy_of(swept_store, tmp_path_factory.mktemp("ladder")), None, "cpu")


def of(found: Stored, stage: str, regulariser: str) -> Artifact:
    return next(a for a in found.artifacts if (a.record.stage, a.axes["regulariser"]) == (stage, regulariser))


def value(artifact: Artifact, metric: str, images_seen: int | None = None) -> float:
    return next(r.value for r in artifact.record.rows if (r.metric, r.images_seen) == (metric, images_seen))


def distance_of(artifact: Artifact, images: torch.Tensor) -> float:
    """As rows are measured: with the subsets that the kernel distance draws by its seed."""
    settings = artifact.job.parent("reference").settings
    seen = features_of([images], extractor_of(artifact.job, settings["extractor"]))
    values, _ = generation_metrics(seen, reference_features(artifact.job), EXTRACTOR, settings["seed"])
    return next(one.value for one in values if one.metric == f"kd_{EXTRACTOR}")


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_decoded_images_are_those_of_the_floor(found: Stored, regulariser: str) -> None:
    artifact = of(found, "reconstruction", regulariser)
    job = artifact.job
    split, indices = floor_images(job.parent("reference").settings, {s: job.images(s) for s in ("train", "heldout")})
    model = first_stage_of(job)
    again = torch.cat(list(decoded(model, job.images(split), indices, job.settings["seed"], "cpu")))
    expected = value(artifact, f"decoded_kd_{EXTRACTOR}")
    assert distance_of(artifact, again) == pytest.approx(expected, rel=1e-4)
    other_seed = torch.cat(list(decoded(model, job.images(split), indices, 1, "cpu")))
    assert torch.equal(again, other_seed) == (regulariser == "vq")  # which draws nothing


def test_gaussians_are_drawn_as_they_were(found: Stored) -> None:
    artifact = of(found, "gaussian", "kl")
    again = drawn_again(artifact.job, 32)
    assert list(again) == [GAUSSIAN, GAUSSIAN_BY_CLASS]
    shown = read_grid(artifact.file("gaussian.png"), 32, 16, 32, 32).int()
    for row, images in zip(shown.split(16), again.values(), strict=True):
        assert (row - images[:16].int()).abs().max() <= 1
    for prefix, images in zip(("gaussian_", "gaussian_class_"), again.values(), strict=True):
        assert distance_of(artifact, images) == pytest.approx(value(artifact, f"{prefix}kd_{EXTRACTOR}"), rel=1e-3)
    fewer = drawn_again(artifact.job, 20)
    for words, images in fewer.items():
        assert (images.int() - again[words][:20].int()).abs().max() <= 1


def test_samples_are_made_as_they_were(found: Stored) -> None:
    artifact = of(found, "samples", "kl")
    again = torch.cat([batch.images for batch in sampled_again(artifact.job, 25)]).int()
    [shown] = (one.images() for one in sets_of(artifact, (), 25, make=False))
    assert again.shape == shown.shape == (25, 3, 32, 32)
    assert (again - shown.int()).abs().max() <= 1
    assert (again - shown.flip(0).int()).abs().max() > 10


@pytest.mark.long
def test_milestones_are_sampled_as_they_were(found: Stored) -> None:
    artifact = of(found, "progress", "vq")
    [seen] = milestones_of(artifact.job)
    again = torch.cat([batch.images for batch in milestone_again(artifact.job, seen, 10**6)])
    assert len(again) == artifact.record.config["n_samples"]
    expected = value(artifact, f"kd_{EXTRACTOR}", seen)
    assert distance_of(artifact, again) == pytest.approx(expected, rel=1e-3)


def test_kept_features_stand_for_images_where_the_same_extractor_saw_them(found: Stored) -> None:
    artifact = of(found, "samples", "kl")
    extractor = extractor_of(artifact.job, artifact.record.config["extractor"])
    [one] = sets_of(artifact, (), 25, make=False)
    assert one.was_seen_by(extractor)
    kept = one.seen(extractor, 25).features
    np.testing.assert_allclose(kept, features_of([one.images()], extractor).features, atol=1e-2)
    other = copy.copy(extractor)  # the extractor itself is shared by all that runs in this process
    other.size = 96
    assert not one.was_seen_by(other)
    assert np.abs(one.seen(other, 25).features - kept).max() > 0.1


@pytest.mark.long
def test_the_command_shows_and_writes_every_set(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store, file = copy_of(swept_store, tmp_path), tmp_path / "ladder.json"
    assert main(["--store", str(store), "--json", str(file)]) == 0
    said = capsys.readouterr().out
    [entry] = json.loads(file.read_text())
    assert (entry["extractor"], entry["n"], entry["side"], entry["store"]["store"]) == (EXTRACTOR, 20, 32, str(store))
    rows = entry["store"]["rows"]
    assert {(row["kind"], row["series"], row["f"]) for row in rows} == {
        *(("decoded", r, 4) for r in ("kl", "vq")),
        *(
            (kind, r, f)
            for kind in ("Gaussian", "Gaussian by class")
            for r, f in (("identity", 1), ("kl", 4), ("vq", 4))
        ),
        *(("samples", r, f) for r, f in (("identity", 1), ("kl", 4), ("vq", 4))),
    }
    assert all(row["low"] < row["kd"] < row["high"] and row["n"] == 20 for row in rows)
    assert all(0 <= row["saturated"] < 1 for row in rows)
    assert {check["check"] for check in entry["store"]["checks"]} >= {
        "a Gaussian above decoded images",
        "samples above decoded images",
    }
    for text in ("decoded, kl", "Gaussian by class, vq", "samples, identity", "--make makes them anew"):
        assert text in said
    assert main(["--store", str(store), "--make", "--json", str(file)]) == 0
    [entry] = json.loads(file.read_text())
    milestones = [row for row in entry["store"]["rows"] if row["kind"] == "milestone"]
    assert {row["f"] for row in milestones} == {1, 4}
    assert all(row["images_seen"] > 0 for row in milestones)
    assert "over training" in capsys.readouterr().out


@pytest.mark.slow
def test_targets_are_series_of_their_own_and_larger_samples_are_left_out(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = copy_of(swept_store, tmp_path)
    assert run(store, "-m", "diffusion.target=eps,v", *SHORT).returncode == 0
    assert run(store, "samples.height=64", *SHORT).returncode == 0
    both = stored(store, "all", "cpu")
    assert both.notes == ["left out: 1 set of samples larger than the training images"]
    file = tmp_path / "ladder.json"
    assert main(["--store", str(store), "--sweep", "all", "--json", str(file)]) == 0
    [entry] = json.loads(file.read_text())
    series = {row["series"] for row in entry["store"]["rows"] if row["kind"] == "samples"}
    assert {"kl, target eps", "kl, target v"} <= series


def test_bad_calls_are_said_in_a_sentence(swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = copy_of(swept_store, tmp_path)
    for arguments, said in (
        (["--sweep", "all"], "--sweep and --make are about a store: give it with --store DIR"),
        (["--make"], "--sweep and --make are about a store"),
        (["--store", str(store), str(tmp_path)], "leave out SET and --resolution"),
        (["--store", str(store), "--resolution", "16"], "leave out SET and --resolution"),
        (["--store", str(tmp_path / "absent")], "there is no store"),
        (["--store", str(store), "--sweep", "none"], "--sweep none is not in"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().out.replace("\n", " ")
    for stage in ("reconstruction", "gaussian", "samples", "progress"):
        shutil.rmtree(store / stage)
    assert main(["--store", str(store)]) == 2
    assert "makes images is finished" in capsys.readouterr().out.replace("\n", " ")
