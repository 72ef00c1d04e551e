"""The tidy table: every value traces back to the record that holds it, once, with its own axes and costs."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic_store import JUDGE, Recipe, build, kernel_distance, rate

from analysis.codecs import codecs
from analysis.collect import collect, read_study
from analysis.columns import COLUMNS
from analysis.older_stores import STAGES
from ldm.errors import UserError
from ldm.records import read_record

SMALL = Recipe(factors=(1, 4, 8), steps=(5, 10), on_request=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    build(path, SMALL)
    return path


def test_rows_are_exactly_those_of_the_records(store):
    frame = collect(store)
    written = [
        (stage, folder.name, row.metric, row.value, row.ci_low, row.ci_high, row.n, row.protocol)
        for stage in STAGES
        for folder in sorted((store / stage).glob("*"))
        for row in read_record(folder).rows
    ]
    names = ["stage", "identity", "metric", "value", "ci_low", "ci_high", "n", "protocol"]
    read = list(frame[names].itertuples(index=False, name=None))
    assert sorted(read) == sorted(written)
    assert list(frame.columns) == list(COLUMNS)


def test_row_keys_are_unique(store):
    frame = collect(store)
    key = ["stage", "cell", "first_stage", "model", "seed", "images_seen", "metric", "protocol"]
    assert not frame.duplicated(key).any()


def test_cells_values_follow_the_formulas_of_their_own_axes(store):
    frame = collect(store)
    rows = frame[(frame["stage"] == "evaluation") & (frame["metric"] == f"kd_{JUDGE}")]
    assert len(rows) == 10
    for row in rows.to_dict("records"):
        assert row["value"] == kernel_distance(row["regulariser"], row["f"], row["steps"])
        assert row["cell"].startswith(f"{row['regulariser']}-f{row['f']}-steps{row['steps']}-")
        assert row["nfe"] == row["steps"]


def test_rows_of_a_first_stage_alone_name_no_cell_and_no_sampler(store):
    frame = collect(store)
    rows = frame[(frame["stage"] == "reconstruction") & (frame["metric"] == "rate_kl_fitted")]
    assert sorted(rows["f"]) == [4, 8]
    assert set(rows["cell"]) == set(rows["sampler"]) == set(rows["model"]) == {""}
    assert rows["steps"].isna().all()
    assert rows["diffusion_flops"].isna().all()
    assert dict(zip(rows["f"], rows["value"], strict=True)) == {f: rate("kl", f) for f in (4, 8)}


def test_costs_are_those_of_the_stages_named_in_the_row(store):
    frame = collect(store)
    sweep = json.loads(next((store / "sweeps").glob("*.json")).read_text())
    stages = {cell["cell"]: cell["stages"] for cell in sweep["cells"]}
    for row in frame[frame["stage"] == "evaluation"].to_dict("records"):
        own = {name: read_record(store / name / identity) for name, identity in stages[row["cell"]].items()}
        assert row["first_stage"] == own["first_stage"].identity
        assert row["model"] == own["diffusion"].identity
        assert row["first_stage_flops"] == own["first_stage"].cost.flops
        assert row["latents_seconds"] == own["latents"].cost.seconds
        assert row["diffusion_seconds"] == own["diffusion"].cost.seconds
        assert row["sample_seconds"] == own["samples"].cost.seconds
        assert row["sample_images_per_second"] == pytest.approx(
            own["samples"].cost.images / own["samples"].cost.seconds
        )
        assert row["sample_flops_per_image"] == pytest.approx(own["samples"].cost.flops / 512)
        assert row["peak_bytes"] == max(record.cost.peak_bytes for record in own.values())
        assert row["parameters_denoiser"] == 3_000_000


def test_two_sweeps_over_one_store_share_rows(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), name="first", created="2026-01-01"))
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5, 10), name="second", created="2026-01-02"))
    latest, both = read_study(tmp_path), read_study(tmp_path, "all")
    assert latest.sweep == "second"
    assert (both.sweep, both.cells) == ("all", 4)
    pd.testing.assert_frame_equal(
        latest.frame.drop(columns="sweep"), both.frame.drop(columns="sweep"), check_like=True, check_dtype=True
    )
    assert set(collect(tmp_path, "first")["steps"].dropna()) == {5}


def test_latest_sweep_is_by_time_not_by_name(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,), name="z-old", created="2026-01-01"))
    build(tmp_path, Recipe(factors=(8,), steps=(5,), name="a-new", created="2026-01-02"))
    assert read_study(tmp_path).sweep == "a-new"


def test_missing_and_failed_results_are_listed_with_their_cause(tmp_path):
    recipe = Recipe(
        regularisers=("kl",),
        factors=(4, 8),
        steps=(5, 10),
        missing=[("samples", "kl", 4, 10)],
        failed=[("diffusion", "kl", 8, 5), ("diffusion", "kl", 8, 10)],
    )
    build(tmp_path, recipe)
    found = {(gap.label, gap.goal): (gap.stage, gap.failed, gap.reason) for gap in read_study(tmp_path).missing}
    failure = ("diffusion", True, "diffusion failed: made-up failure of diffusion")
    assert found == {
        ("KL f=4, 10 steps", "evaluation"): ("samples", False, "samples is not finished"),
        ("KL f=8", "progress"): failure,
        ("KL f=8, 5 steps", "evaluation"): failure,
        ("KL f=8, 10 steps", "evaluation"): failure,
    }


def test_a_finished_record_outweighs_an_older_failure(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,), failed=[("samples", "kl", 4, 5)]))
    assert any(gap.failed for gap in read_study(tmp_path).missing)
    build(tmp_path, Recipe(factors=(4,), steps=(5,)))
    assert read_study(tmp_path).missing == ()


def test_codecs_are_read_once(store):
    points = codecs(read_study(store))
    assert len(points) == len(set(points)) == 2 * 7 + 2
    assert {p.codec for p in points if p.psnr is None} == {"png", "webp_lossless"}


@pytest.mark.parametrize(
    ("damage", "sweep", "message"),
    [
        (lambda s: shutil.rmtree(s), None, "There is no store"),
        (lambda s: shutil.rmtree(s / "sweeps"), None, "holds no sweeps"),
        (lambda s: None, "2026-01-01_synthetik", r"did you mean '2026-01-01_synthetic'\?"),
        (lambda s: None, "x", "it holds 2026-01-01_synthetic"),
        (lambda s: (s / "sweeps" / "2026-01-01_synthetic.json").write_text("{"), None, "is not a sweep"),
        (lambda s: (s / "sweeps" / "2026-01-01_synthetic.json").write_text('{"cells": []}'), None, "is not a sweep"),
        (lambda s: next((s / "evaluation").glob("*/record.json")).write_text("[]"), None, "is not a record"),
        (
            lambda s: [shutil.rmtree(s / stage, ignore_errors=True) for stage in STAGES],
            None,
            "holds no finished result",
        ),
    ],
)
def test_unusable_stores_are_one_sentence(tmp_path: Path, damage, sweep, message):
    build(tmp_path / "store", Recipe(factors=(4,), steps=(5,)))
    damage(tmp_path / "store")
    with pytest.raises(UserError, match=message) as caught:
        read_study(tmp_path / "store", sweep)
    assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_program_is_refused(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,)))
    path = next((tmp_path / "evaluation").glob("*/record.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(UserError, match="newer version"):
        collect(tmp_path)
