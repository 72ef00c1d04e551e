"""Another extractor reads images that were kept, makes the others once more, and trains nothing."""

import dataclasses
import json
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from program import records, rows, run
from tiny_plans import plan_of, stage_named

from experiments import saved_samples
from experiments.saved_samples import sample_notes
from experiments.store import Store
from ldm.errors import UserError
from ldm.records import StageRecord

sys.path.append(str(Path(__file__).parents[1]))
from tiny_clip import save_tiny_clip

SAMPLES = stage_named("samples")
CELL = ("ae=identity", "ae.f=1", "trainer.milestones=[1.0]", "conditioning=class")


def finish(store: Store, *overrides: str) -> StageRecord:
    """Writes the record of a samples stage, with images where they are to be kept."""
    stage = plan_of(*overrides).stages["samples"]
    record = StageRecord("samples", stage.identity, stage.settings, stage.parents)
    if stage.settings["keep"] == "images":
        folder = store.folder("samples", stage.identity)
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", np.zeros((stage.settings["n_samples"], 3, 32, 32), np.uint8))
    store.finish(record)
    return record


def kept_for(store: Store, *overrides: str) -> str | None:
    """The identity of the artifact that these settings would read."""
    found = saved_samples.saved_images(SAMPLES, plan_of(*overrides).stages["samples"], store.root)
    return found.record.identity if found else None


def test_images_are_read_by_whoever_asks_for_the_same_pixels(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = finish(store, "samples.keep=images", "metrics.n_samples=20").identity
    assert kept_for(store, "metrics.n_samples=20") == made
    assert kept_for(store, "metrics.n_samples=16", "samples.keep=images") == made
    assert kept_for(store, "metrics.n_samples=20", "metrics.also.inception=true") == made
    for other in ("metrics.n_samples=24", "sampler.steps=3", "sampler.seed=1", "seed=1", "guidance.scale=2"):
        assert kept_for(store, "metrics.n_samples=20", other) is None, other


def test_images_of_another_version_of_the_code_are_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, "samples.keep=images")
    planned = plan_of().stages["samples"]
    assert saved_samples.saved_images(SAMPLES, planned, tmp_path) is not None
    assert (
        saved_samples.saved_images(dataclasses.replace(SAMPLES, version=SAMPLES.version + 1), planned, tmp_path) is None
    )


def test_it_is_said_beforehand_what_is_read_made_again_and_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert sample_notes(SAMPLES, [plan_of()], tmp_path) == []
    finish(store, "metrics.n_samples=20")
    [again] = sample_notes(SAMPLES, [plan_of("metrics.n_samples=24")], tmp_path)
    assert again.startswith("1 sample set is made once more")
    assert "samples.keep=images" in again
    assert "nothing is trained again" in again
    finish(store, "metrics.n_samples=30", "samples.keep=images")
    [read] = sample_notes(SAMPLES, [plan_of("metrics.n_samples=24")], tmp_path)
    assert read == "1 sample set is made from images that earlier runs saved; nothing is generated again"
    cells = [plan_of("samples.keep=images", "metrics.n_samples=40", f"sampler.steps={steps}") for steps in (2, 3)]
    *_, disk = sample_notes(SAMPLES, cells, tmp_path)
    # 2 sets of 40 images of 32 x 32 x 3 bytes, and once more the batches of one
    assert disk.startswith("samples.keep=images saves 240 KiB of images, up to 360 KiB while they are made; ")


def test_images_that_would_not_fit_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(saved_samples.shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 10**5, 10**5))
    with pytest.raises(UserError, match=r"samples.keep=images would take 240 KiB .* where 97.7 KiB are free"):
        sample_notes(SAMPLES, [plan_of("samples.keep=images", "metrics.n_samples=40")], tmp_path)


@pytest.mark.slow
def test_another_extractor_later_generates_nothing_and_gives_what_it_would_have_given(tmp_path: Path) -> None:
    save_tiny_clip(tmp_path / "clip")
    store, apart = tmp_path / "store", tmp_path / "apart"
    clip = ("metrics.extractor=clip", f"metrics.weights={tmp_path / 'clip'}")
    assert run(store, *CELL, "samples.keep=images").returncode == 0
    before = records(store)
    done = run(store, *CELL, *clip)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 sample set is made from images that earlier runs saved" in done.stdout
    added = dict(records(store) - before)
    assert set(added) == {"reference", "reconstruction", "gaussian", "progress", "samples", "evaluation"}
    record = json.loads((store / "samples" / added["samples"] / "record.json").read_text())
    assert ("samples", record["facts"]["images_of"]) in before
    assert record["facts"]["made_on"]["device"] == "cpu"
    assert run(apart, *CELL, *clip).returncode == 0
    found, expected = rows(store), rows(apart)
    own = {key: value for key, value in expected.items() if key[0] == "evaluation"}
    assert own
    assert {key: found[key] for key in own} == pytest.approx(own, rel=1e-6)
    assert any("cmmd_clip" in key for key in own)
    beside = tmp_path / "beside"
    assert run(beside, *CELL, f"metrics.also.clip={tmp_path / 'clip'}").returncode == 0
    both = {key[2:]: value for key, value in rows(beside).items() if key[0] == "evaluation"}
    alone = {key[2:]: value for key, value in own.items()}
    assert {key: both[key] for key in alone} == pytest.approx(alone, rel=1e-9)
