"""Guards the code versions in identities: the same config must give the same numbers, or its stage's version must rise.

After a change that is meant to change numbers: raise the stage's `version` in its file of experiments/stages, say old
and new numbers in the CHANGELOG, and write the new ones with
`UPDATE_GOLDEN=1 python -m pytest tests/experiments/test_golden.py`.
"""

import json
import os
from pathlib import Path

import pytest
from program import run, with_images_of

from experiments.stages import STAGES

pytestmark = pytest.mark.program

VERSIONS = {stage.name: stage.version for stage in STAGES}
GOLDEN = Path(__file__).with_name("golden.json")
# Training amplifies a processor's rounding: codes flip at ties, and Adam's first steps follow the sign of gradients
# near zero. At a small learning rate other instruction sets move a KL model's numbers by less than 0.2 %. The codes of
# a VQ model still flip, so of it only what averages over many pixels is held.
SMALL_STEPS = (
    "precision=fp32",
    "trainer.milestones=[1.0]",
    "ae.training.learning_rate=1e-4",
    "trainer.learning_rate=1e-4",
    "scale.probe.class.learning_rate=1e-4",
)
CELLS = {"kl": ("metrics.likelihood=true", "metrics.coding=true"), "vq": ("until=first_stage", "metrics.coding=true")}
METRICS = {
    "kl": {
        "reference": ("real_kd_efficientnet_lite2_colour", "real_fd_efficientnet_lite2_colour"),
        "reconstruction": ("rmse255", "ssim", "rate_kl_prior", "decoded_kd_efficientnet_lite2_colour"),
        "coding": ("coded_latent", "rmse255_coded"),
        "gaussian": ("gaussian_kd_efficientnet_lite2_colour", "gaussian_class_kd_efficientnet_lite2_colour"),
        "progress": ("kd_efficientnet_lite2_colour",),
        "likelihood": ("latent_density_nats_per_dim", "progressive_rmse255"),
        "evaluation": ("kd_efficientnet_lite2_colour", "fd_efficientnet_lite2_colour"),
    },
    "vq": {
        "reconstruction": ("rmse255", "feature_distance_efficientnet_lite2", "rate_index_crossentropy"),
        "coding": ("coded_index",),
    },
}
CASES = [(cell, stage) for cell, stages in METRICS.items() for stage in stages] + [("kl", "latents"), ("kl", "probe")]


def measured(store: Path, cell: str) -> dict[str, dict[str, float]]:
    """What a run of the cell gives now, by stage."""
    done = run(store, f"ae={cell}", "ae.f=4", *SMALL_STEPS, *CELLS[cell])
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, float]] = {}
    for stage, metrics in METRICS[cell].items():
        [path] = store.glob(f"{stage}/*/record.json")
        rows = {row["metric"]: row["value"] for row in json.loads(path.read_text())["rows"]}
        found[stage] = {metric: rows[metric] for metric in metrics}
    for path in store.glob("probe/*/record.json"):
        facts = json.loads(path.read_text())["facts"]["probes"]["class"]
        found["probe"] = {"heldout_loss": facts["heldout_loss"]}
    for path in store.glob("latents/*/record.json"):
        found["latents"] = {"std": json.loads(path.read_text())["facts"]["std"][0]}
    return found


@pytest.fixture(scope="module")
def values(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, float]]]:
    """By cell and stage; the reference is that of this session's sweep, which has the same identity."""
    found = {cell: measured(with_images_of(swept_store, tmp_path_factory.mktemp(cell)), cell) for cell in CELLS}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps({"versions": VERSIONS, "values": found}, indent=1) + "\n")
    return found


@pytest.mark.long
def test_the_golden_numbers_belong_to_the_code_versions(values: dict[str, dict[str, dict[str, float]]]) -> None:
    """Raising a version asks for new golden numbers."""
    assert json.loads(GOLDEN.read_text())["versions"] == VERSIONS


@pytest.mark.parametrize(("cell", "stage"), CASES)
def test_a_stage_gives_its_golden_numbers(
    values: dict[str, dict[str, dict[str, float]]], cell: str, stage: str
) -> None:
    """Wide enough for other processors, far too narrow for another algorithm."""
    golden = json.loads(GOLDEN.read_text())["values"][cell][stage]
    assert values[cell][stage] == pytest.approx(golden, rel=7e-3), f"raise the version of {stage}, or an ancestor's"
