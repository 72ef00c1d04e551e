"""Guards the code versions in identities: the same config must give the same numbers, or its stage's version must rise.

After a change that is meant to change numbers: raise the stage in `experiments.plan.CODE_VERSIONS`, say old and new
numbers in the CHANGELOG, and write the new ones with
`UPDATE_GOLDEN=1 python -m pytest tests/experiments/test_golden.py`.
"""

import json
import os
from pathlib import Path

import pytest
from program import run

from experiments.plan import CODE_VERSIONS

GOLDEN = Path(__file__).with_name("golden.json")
CELL = ("ae=vq", "ae.f=4", "precision=fp32", "trainer.milestones=[1.0]")
METRICS = {
    "reference": ("real_kd_efficientnet_lite2", "real_fd_efficientnet_lite2"),
    "reconstruction": ("rmse255", "ssim", "rate_index_crossentropy", "decoded_kd_efficientnet_lite2"),
    "progress": ("kd_efficientnet_lite2",),
    "evaluation": ("kd_efficientnet_lite2", "fd_efficientnet_lite2", "recall_efficientnet_lite2"),
}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """What a run gives now."""
    store = tmp_path_factory.mktemp("golden") / "store"
    done = run(store, *CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, float]] = {}
    for stage, metrics in METRICS.items():
        [path] = store.glob(f"{stage}/*/record.json")
        rows = {row["metric"]: row["value"] for row in json.loads(path.read_text())["rows"]}
        found[stage] = {metric: rows[metric] for metric in metrics}
    [latents] = store.glob("latents/*/record.json")
    found["latents"] = {"std": json.loads(latents.read_text())["facts"]["std"][0]}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps({"versions": dict(CODE_VERSIONS), "values": found}, indent=1) + "\n")
    return found


def test_the_golden_numbers_belong_to_the_code_versions(values: dict[str, dict[str, float]]) -> None:
    """Raising a version asks for new golden numbers."""
    assert json.loads(GOLDEN.read_text())["versions"] == dict(CODE_VERSIONS)


@pytest.mark.parametrize("stage", [*METRICS, "latents"])
def test_a_stage_gives_its_golden_numbers(values: dict[str, dict[str, float]], stage: str) -> None:
    """Wide enough for other processors, far too narrow for another algorithm."""
    golden = json.loads(GOLDEN.read_text())["values"][stage]
    assert values[stage] == pytest.approx(golden, rel=5e-3), f"raise CODE_VERSIONS['{stage}'], or one of its ancestors"
