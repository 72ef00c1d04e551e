"""Image sets measured without a study: the store's own numbers to the last digit, and one sentence for bad input."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from compvis_models import KL, made_of, write
from numpy.typing import NDArray
from PIL import Image
from program import run

from experiments.commands.measure import distinguished, main, nearer
from experiments.image_sets import ImageSet, open_set
from experiments.scoring import FEATURE_BATCH, chosen
from ldm.data.cache import open_cache
from ldm.errors import UserError
from ldm.metrics.distribution import FRECHET, KERNEL
from ldm.metrics.values import MetricValue
from ldm.records import ResultRow, StageRecord, read_record, write_json


def pictures(n: int, side: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def save(folder: Path, images: NDArray[np.uint8], name: str = "sample_{}.png") -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index))
    return folder


def measured(tmp_path: Path, *arguments: object) -> list[dict[str, ResultRow]]:
    """The rows that the command writes, by metric, for each set of samples."""
    file = tmp_path / "measured.json"
    assert main([*map(str, arguments), "--json", str(file)]) == 0
    found = []
    for one in json.loads(file.read_text()):
        record = StageRecord.from_json({"stage": "", "identity": "", "config": {}, "parents": {}, "rows": one["rows"]})
        found.append({row.metric: row for row in record.rows})
    return found


def records(store: Path, stage: str) -> list[tuple[Path, StageRecord]]:
    folders = [path.parent for path in sorted(store.glob(f"{stage}/*/record.json"))]
    found = [(folder, read_record(folder)) for folder in folders]
    return [(folder, record) for folder, record in found if record is not None]


def numbers(row: ResultRow) -> tuple[object, ...]:
    return row.value, row.n, row.ci_low, row.ci_high, row.estimand


def test_samples_of_a_store_give_its_own_numbers(swept_store: Path, tmp_path: Path) -> None:
    [(_, evaluation), *_] = records(swept_store, "evaluation")
    [own] = measured(tmp_path, swept_store / "samples" / evaluation.parents["samples"], swept_store)
    stored = {row.metric: row for row in evaluation.rows if row.metric in own}
    assert len(stored) >= 2
    for metric, row in stored.items():
        assert numbers(own[metric]) == numbers(row), metric


def test_a_folder_that_samples_lie_in_is_not_made_a_store(tmp_path: Path) -> None:
    samples = tmp_path / "compare" / "mine"
    samples.mkdir(parents=True)
    np.save(samples / "images.npy", pictures(4))
    write_json(samples / "record.json", StageRecord("samples", "mine", {}, {}).to_json())
    assert isinstance(open_set(samples), ImageSet)
    assert [path.name for path in tmp_path.iterdir()] == ["compare"]


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / "samples" / "mine"
    place.mkdir(parents=True)
    (place / "record.json").write_text("{")
    with pytest.raises(UserError, match=r"record\.json cannot be read .*; remove that folder to compute it anew"):
        open_set(place)


@pytest.mark.long
@pytest.mark.parametrize("form", ["folder", "zip", "npz"])
def test_real_images_as_files_give_the_floors_of_a_store(form: str, swept_store: Path, tmp_path: Path) -> None:
    """Pixels, order and network alike, so that floors come out alike but for what LAPACK rounds in another process."""
    [(_, reference), *_] = records(swept_store, "reference")
    train, heldout = (open_cache(next(swept_store.glob(f"data/{split}-*"))) for split in ("train", "heldout"))
    settings = reference.config
    saturated = (heldout.images == 0) | (heldout.images == 255)
    assert reference.facts["saturated"] == pytest.approx(saturated.mean(), rel=1e-12)
    images = train.images[chosen(len(train), settings["n_samples"], settings["seed"], "floor")]
    place = save(tmp_path / "samples", images)
    if form == "zip":
        place = tmp_path / "samples.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for path in sorted((tmp_path / "samples").iterdir()):
                archive.write(path, path.name)
    if form == "npz":
        place = tmp_path / "samples.npz"
        np.savez(place, images)
    against = {"folder": save(tmp_path / "real", heldout.images), "zip": swept_store, "npz": swept_store}[form]
    [own] = measured(tmp_path, place, against, "--batch", FEATURE_BATCH)
    floors = {row.base: row for row in reference.rows}
    assert own
    for metric, row in own.items():
        # Floors choose the blocks of their intervals by content, as they are no numbered samples.
        assert row.value == pytest.approx(floors[metric].value, rel=1e-12), metric
        assert row.n == floors[metric].n


@pytest.mark.long
def test_of_two_sets_the_nearer_one_is_told(tmp_path: Path) -> None:
    dark = save(tmp_path / "dark", pictures(40) // 8)
    alike, reference = save(tmp_path / "alike", pictures(40, seed=1)), save(tmp_path / "real", pictures(60, seed=2))
    far, near = measured(tmp_path, dark, reference, "--against", alike)
    [kernel] = [row for metric, row in near.items() if metric.startswith("kd_")]
    assert kernel.value < far[kernel.metric].value
    assert kernel.n == 40
    again = measured(tmp_path, dark, reference, "--against", dark)
    assert again[0] == again[1]


@pytest.mark.long
def test_of_two_sets_of_which_files_are_broken_as_many_images_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values that are biased by n get a verdict, so that n has to be that of the smaller set."""
    one, other = (save(tmp_path / name, pictures(60, seed=seed)) for seed, name in enumerate(("one", "other")))
    for index in (3, 8):
        (one / f"sample_{index}.png").write_bytes(b"none")
    reference = save(tmp_path / "real", pictures(60, seed=2))
    for sets in ((one, other), (other, one)):
        found = measured(tmp_path, sets[0], reference, "--against", sets[1])
        assert {row.n for rows in found for row in rows.values()} == {58}
        assert "other: 58 of 60 images are compared" in " ".join(capsys.readouterr().out.split())


def value(number: float, half: float, deviations: tuple[tuple[float, ...], ...] | None = None) -> MetricValue:
    return MetricValue(KERNEL, number, 100, number - half, number + half, deviations)


def test_verdicts() -> None:
    assert distinguished(value(1.0, 0.5)) == "differs from the reference"
    assert distinguished(value(0.1, 0.5)) == "not distinguishable from the reference"
    assert distinguished(MetricValue(FRECHET, 100.0, 100, 90.0, 110.0)) == ""  # biased: above 0 whatever the samples
    assert nearer(value(1.0, 0.1), value(2.0, 0.1))[1] == "better"
    assert nearer(value(2.0, 0.1), value(1.0, 0.1))[1] == "worse"
    assert nearer(value(1.0, 0.6), value(1.5, 0.6))[1] == "not distinguishable"
    assert nearer(MetricValue(KERNEL, 1.0, 100), value(2.0, 0.1))[0] is None


def test_what_two_sets_owe_to_the_same_reference_images_drops_out() -> None:
    common, blocks = (3.0, -2.0, 1.0, -2.0), (0.1, -0.1, 0.05, -0.05)
    a, b = (value(number, 9.0, (blocks, common)) for number in (1.0, 2.0))
    apart, verdict = nearer(a, b)
    assert apart is not None
    assert verdict == "better"
    assert apart.high - apart.low < 2.0


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    images = pictures(12)
    found = open_set(save(tmp_path / "images", images))
    assert isinstance(found, ImageSet)
    [batch] = found.batches(range(12), 16, 100)
    assert (batch.permute(0, 2, 3, 1).numpy() == images).all()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(list(map(str, arguments))) == 2
    out = capsys.readouterr().out
    assert out.count("error:") == 1
    assert "Traceback" not in out
    return out


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save(tmp_path / "good", pictures(20))
    mixed = save(tmp_path / "mixed", pictures(3))
    Image.fromarray(pictures(1, 24)[0]).save(mixed / "large.png")
    np.savez(tmp_path / "moments.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "floats.npz", np.zeros((4, 8, 8, 3), np.float32))
    (tmp_path / "page.npz").write_text("<html>")
    (tmp_path / "empty").mkdir()
    for path, said in {
        "missing": "there is no",
        "empty": "holds no images",
        "moments.npz": "moments (mu, sigma) alone",
        "floats.npz": "uint8",
        "page.npz": "cannot be read",
        "mixed": "images of several sizes",
    }.items():
        assert said in refused(capsys, tmp_path / path, good), path
    assert "--resolution" in refused(capsys, mixed, mixed)
    assert "images of 16 px" in refused(capsys, good, save(tmp_path / "larger", pictures(4, 32)))


def test_a_broken_file_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = save(tmp_path / "images", pictures(30))
    whole = (place / "sample_7.png").read_bytes()
    (place / "sample_7.png").write_bytes(whole[: len(whole) // 2])
    found = open_set(place)
    assert isinstance(found, ImageSet)
    assert sum(len(batch) for batch in found.batches(range(30), 16, 8)) == 29
    assert "sample_7.png" in capsys.readouterr().out
    for index in range(5):
        (place / f"sample_{index}.png").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot be used"):
        list(found.batches(range(30), 16, 8))


@pytest.mark.long
def test_reconstructions_by_given_weights_have_the_stores_own_numbers(begun_store: Path, tmp_path: Path) -> None:
    """The first stage and the held-out images of a run, as files."""
    model = write(tmp_path / "model", *made_of(KL))
    done = run(begun_store, "ae=pretrained", f"ae.path={model}", "until=first_stage", "precision=fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    [(_, record)] = records(begun_store, "reconstruction")
    heldout = open_cache(next(begun_store.glob("data/heldout-*")))
    place = save(tmp_path / "images", heldout.images, "{:05d}.png")
    n = record.config["n_samples"]
    [own] = measured(tmp_path, place, "--autoencoder", model, "--n", n)
    stored = {row.metric: row for row in record.rows}
    assert {"mse", "psnr", "ssim", "rfd_efficientnet_lite2_colour", "feature_distance_efficientnet_lite2"} <= own.keys()
    for metric, row in own.items():
        assert numbers(row) == numbers(stored[metric]), metric


def test_what_cannot_be_reconstructed_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = save(tmp_path / "images", pictures(4))
    assert "give REFERENCE" in refused(capsys, images)
    assert "there is nothing at" in refused(capsys, images, "--autoencoder", tmp_path / "none.safetensors")
