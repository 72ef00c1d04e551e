"""Task scores of a run: one model with every condition at once has every score; and what identities hang on probes."""

import json
from pathlib import Path

import numpy as np
import pytest
from program import SHORT, copy_of, latest_stages, run
from tiny_plans import changed, plan_of

from ldm.probes import PROBES

EVERY_CONDITION = "conditioning=[class,text,layout,semantic,superres,inpaint]"


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after a run of a model that is told everything."""
    store = copy_of(swept_store, tmp_path_factory.mktemp("task"))
    done = run(store, EVERY_CONDITION, *SHORT, "ae.f=4", "samples.batch=20", "metrics.seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    return store


def record(store: Path, stage: str) -> dict:
    return json.loads((store / stage / latest_stages(store)[stage] / "record.json").read_text())


def rows(store: Path, stage: str) -> dict[str, dict]:
    return {row["metric"]: row for row in record(store, stage)["rows"]}


@pytest.mark.long
def test_every_condition_has_its_score_with_n_interval_and_protocol(store: Path) -> None:
    found, protocols = rows(store, "evaluation"), record(store, "evaluation")["protocols"]
    metrics = [probe.metric for probe in PROBES.values()]
    metrics += ["superres_psnr", "superres_ssim", "superres_consistency_psnr", "inpaint_known_rmse255"]
    metrics += ["inpaint_feature_distance_efficientnet_lite2", "inpaint_fd_efficientnet_lite2_colour"]
    for metric in metrics:
        row = found[metric]
        assert 16 <= row["n"] <= 32
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert protocols[row["protocol"]]["n_samples"] == 32
    judges = {metric: protocols[found[metric]["protocol"]]["extractor"] for metric in metrics}
    assert judges == {
        **{probe.metric: f"probe_{kind}" for kind, probe in PROBES.items()},
        **dict.fromkeys(metrics[4:8], "none"),
        metrics[8]: "feature_distance_efficientnet_lite2",
        metrics[9]: "efficientnet_lite2_colour",
    }
    reasons = {item["metric"]: item["reason"] for item in record(store, "evaluation")["left_out"]}
    assert "metrics.clip=PATH" in reasons["clip_score"]
    assert "metrics.lpips=PATH" in reasons["superres_lpips_alex"]
    assert "metrics.lpips=PATH" in reasons["inpaint_lpips_alex"]


def test_ceilings_and_floors_stand_beside_the_scores(store: Path) -> None:
    samples, probes = rows(store, "evaluation"), rows(store, "probe")
    for probe in PROBES.values():
        assert f"shuffled_{probe.metric}" in samples
        assert probes[f"real_{probe.metric}"]["n"] <= 40
        assert f"real_shuffled_{probe.metric}" in probes
    assert {"bicubic_superres_psnr", "mean_fill_inpaint_feature_distance_efficientnet_lite2"} <= set(samples)


def test_probes_are_asked_with_a_seed_of_their_own(store: Path) -> None:
    """The seed of the evaluation is not in the identity of the probe stage, so it may not be in its protocols."""
    seeds = {
        stage: {protocol["evaluation_seed"] for protocol in record(store, stage)["protocols"].values()}
        for stage in ("probe", "evaluation")
    }
    assert seeds == {"probe": {0}, "evaluation": {3}}


def test_what_is_saved_of_each_sample_gives_the_rows(store: Path) -> None:
    """32 samples in two batches: 20 and 12."""
    with np.load(store / "samples" / latest_stages(store)["samples"] / "task.npz") as values:
        assert {len(found) for found in values.values()} == {32}
        assert rows(store, "evaluation")["class_accuracy"]["value"] == values["class_accuracy"][:, 0].mean()
        covered = values["inpaint.covered"]
        banded = rows(store, "evaluation").get("inpaint_feature_distance_efficientnet_lite2_mask0_20")
        assert banded is None or banded["n"] == ((covered > 0) & (covered <= 0.2)).sum()


@pytest.mark.long
def test_the_table_shows_scores_between_floor_and_ceiling(store: Path, tmp_path: Path) -> None:
    from analysis.collect import read_study
    from analysis.table import markdown

    page = markdown(read_study(store))
    section = page[page.index("## Task scores") :].split("\n## ")[0]
    line = next(line for line in section.splitlines() if "`semantic_miou`" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert "conditions of other samples" in cells[-1]
    assert cells[-2].startswith("0.")
    assert "enlarged bicubically" in section
    assert "real_class_accuracy" not in page[page.index("## Floors") :].split("\n## ")[0]


def test_only_samples_of_conditions_with_a_probe_hang_on_one():
    assert "probe" not in plan_of("conditioning=none").stages
    assert "probe" not in plan_of("conditioning=superres").stages
    with_probe = plan_of("conditioning=class")
    assert with_probe.stages["samples"].parents.keys() == {"diffusion", "probe"}
    assert [stage.name for stage in with_probe.needed(("evaluation",))].index("probe") > 0
    bigger = plan_of("conditioning=class", "scale.probe.class.width=16")
    assert changed(with_probe, bigger) == {"probe", "samples", "evaluation"}
    assert not changed(with_probe, plan_of("conditioning=class", "scale.probe.text.width=16"))
    assert "probe" not in changed(with_probe, plan_of("conditioning=class", "metrics.n_samples=20", "sampler.steps=7"))


def test_samples_larger_than_the_images_are_asked_nothing():
    assert "probe" not in plan_of("samples.width=64").stages


@pytest.mark.program
@pytest.mark.slow
def test_clip_and_lpips_judge_where_they_are_given(clip_folder: Path, tmp_path: Path, shared_data: Path) -> None:
    """The model of the CLIP score is in the identity by its content; with LPIPS' weights nothing is left out."""
    weights = shared_data / "weights" / "alexnet_features.safetensors"
    judges = (f"metrics.clip={clip_folder}", f"metrics.lpips={weights}")
    done = run(tmp_path / "store", "conditioning=[text,superres]", "trainer.milestones=[1.0]", *judges)
    assert done.returncode == 0, done.stdout + done.stderr
    found, protocols = rows(tmp_path / "store", "evaluation"), record(tmp_path / "store", "evaluation")["protocols"]
    assert {"clip_score", "shuffled_clip_score", "real_clip_score"} <= set(found)
    assert protocols[found["clip_score"]["protocol"]]["extractor"] == "clip"
    assert found["bicubic_superres_lpips_alex"]["value"] < found["superres_lpips_alex"]["value"]
    left_out = {item["metric"] for item in record(tmp_path / "store", "evaluation")["left_out"]}
    assert left_out.isdisjoint({"clip_score", "superres_lpips_alex"})


@pytest.mark.long
@pytest.mark.program
def test_judges_that_cannot_be_had_are_named_before_anything_trains(tmp_path: Path) -> None:
    done = run(tmp_path / "store", "conditioning=text", f"metrics.clip={tmp_path}")
    assert done.returncode == 2
    assert "holds no CLIP model" in done.stdout + done.stderr
    assert not list((tmp_path / "store").glob("*/*/record.json"))
