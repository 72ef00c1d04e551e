"""Every metric that a stage writes says what it is, so that analysis needs no list of names."""

import json
from pathlib import Path

import pytest
from program import SHORT, copy_of, run

from analysis.collect import read_study
from analysis.table import markdown
from ldm.records import DETAIL, GROUPS

MEASURES = ("coding", "predictors", "likelihood", "memorisation", "sampler_check", "level_error")
ASKED = [f"metrics.{name}=true" for name in MEASURES]


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell with all that can be measured of it."""
    found = copy_of(swept_store, tmp_path_factory.mktemp("metrics"))
    done = run(found, "ae=kl", "ae.f=4", *SHORT, *ASKED)
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.mark.long
def test_every_row_of_every_stage_says_what_its_metric_is(store: Path) -> None:
    records = [json.loads(path.read_text()) for path in store.glob("*/*/record.json")]
    rows = [row for record in records for row in record["rows"]]
    written = {"reference", "reconstruction", "gaussian", "coding", "predictors", "progress", "likelihood", "probe"}
    written |= {"level_error", "sampler_check", "evaluation", "training_set", "memorisation"}
    assert {record["stage"] for record in records if record["rows"]} == written
    for row in rows:
        assert row["title"], row["metric"]
        assert row["group"] in GROUPS, row["metric"]
        assert row["kind"], row["metric"]
        assert bool(row["base"]) == bool(row["variant"]), row["metric"]
        assert row["higher_is_better"] in (True, False, None), row["metric"]
    of_samples = {row["metric"]: row for row in rows}
    for metric, row in of_samples.items():
        if row["variant"] and row["base"] in of_samples:
            assert row["higher_is_better"] == of_samples[row["base"]]["higher_is_better"], metric
            assert row["unit"] == of_samples[row["base"]]["unit"], metric


@pytest.mark.long
def test_the_table_has_a_column_for_each(store: Path) -> None:
    """Of first stages and samples; predictors have a page of their own, and floors lines."""
    study = read_study(store)
    page = markdown(study)
    rows = study.frame[study.frame["stage"].isin(["reconstruction", "coding", "likelihood", "evaluation"])]
    rows = rows[(rows["group"] != DETAIL) & ((rows["variant"] == "") | (rows["stage"] == "coding"))]
    assert len(set(rows["metric"])) > 15
    for metric, title in set(zip(rows["metric"], rows["title"], strict=True)):
        assert f"| {title}" in page or f"`{metric}`" in page.split("## Protocols")[0], metric


def test_predictors_say_which_images_they_were_measured_on(store: Path) -> None:
    """Statistics: training images; what the small denoiser leaves unexplained: held-out ones."""
    [path] = store.glob("predictors/*/record.json")
    record = json.loads(path.read_text())
    protocols = {row["metric"]: record["protocols"][row["protocol"]] for row in record["rows"]}
    statistics = ("latent_roughness", "latent_effective_channels", "decoder_sensitivity_rmse255")
    hashes = {}
    for metric, split, images in [
        *((name, "train", "training") for name in statistics),
        ("small_denoiser_error", "heldout", "held-out"),
    ]:
        protocol = protocols[metric]
        assert (protocol["reference"], protocol["class_balance"]) == (split, f"as in the {images} images"), metric
        hashes[split] = protocol["reference_hash"]
    assert hashes == {split: record["config"][split] for split in ("train", "heldout")}
