"""No change of the code may rename what stores hold: the identity of every stage of every experiment file stays.

A change that is meant to give another identity says in CHANGELOG which and why, and writes the new ones with
`UPDATE_IDENTITIES=1 python -m pytest tests/experiments/test_identities.py`.
"""

import json
import os
from pathlib import Path

import pytest
from all_plans import CELLS, EXPERIMENTS, identities_of

KNOWN = Path(__file__).with_name("identities")


@pytest.mark.parametrize("name", ["cells", *EXPERIMENTS])
def test_every_stage_keeps_its_identity(name: str) -> None:
    path, found = KNOWN / f"{name}.json", identities_of(name)
    if os.environ.get("UPDATE_IDENTITIES"):
        KNOWN.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=0) + "\n")
    assert found == json.loads(path.read_text())


def test_every_experiment_is_planned_at_some_scale() -> None:
    for name in EXPERIMENTS:
        points = json.loads((KNOWN / f"{name}.json").read_text()).values()
        assert any("cell" in point for point in points), name


def test_the_cells_have_every_stage_between_them() -> None:
    points = json.loads((KNOWN / "cells.json").read_text())
    assert len(points) == 4 * len(CELLS)
    stages = {stage for point in points.values() for stage in point}
    assert len(stages - {"cell", "refused"}) == 16
