"""No change of the code may rename what stores hold: the identity of every stage of every experiment file stays.

A change that is meant to give another identity says in CHANGELOG which and why, and writes the new ones with
`UPDATE_IDENTITIES=1 python -m pytest tests/experiments/test_identities.py`.
"""

import json
import os
from pathlib import Path

import pytest
from all_plans import CELLS, EXPERIMENTS, all_points, few_of, identities_of

from experiments.stages import STAGES

KNOWN = Path(__file__).with_name("identities")

NAMES = ("cells", *EXPERIMENTS)
ALWAYS = {
    *("cells", "regulariser", "samplers", "noise_shift", "predictors_kl", "predictors_vq", "progressive_coding"),
    *("beyond_training_size", "learning_rate_check", "task_text", "task_inpaint"),
    "tokens",
}
"""One of each kind; the others set the same keys."""


def known(name: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((KNOWN / f"{name}.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_stages_keep_their_identities(name: str) -> None:
    if os.environ.get("UPDATE_IDENTITIES"):
        KNOWN.mkdir(exist_ok=True)
        found = identities_of(name, all_points(name))
        (KNOWN / f"{name}.json").write_text(json.dumps(found, indent=0) + "\n")
    few = few_of(name)
    assert identities_of(name, few) == {point: known(name)[point] for point in few}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stages_of_every_point_keep_their_identities(name: str) -> None:
    assert identities_of(name, all_points(name)) == known(name)


def test_every_experiment_is_planned_at_some_scale() -> None:
    for name in {*EXPERIMENTS} - {"autoencoder_zoo"}:  # whose files its user gives
        assert any("cell" in point for point in known(name).values()), name


def test_the_cells_have_every_stage_between_them() -> None:
    points = known("cells")
    assert len(points) == 4 * len(CELLS)
    stages = {stage for point in points.values() for stage in point}
    assert stages - {"cell", "refused"} == {stage.name for stage in STAGES}
