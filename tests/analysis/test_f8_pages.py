"""The pages of four experiments say what the published records of results/f8 hold."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = {"equivariance": None, "alignment": None, "representation": None, "guidance_scale": 3.0}


def by_seed(**axes):
    """Kernel distances of the cells with these axes, seed after seed, as pages write them."""
    found = {}
    for path in (ROOT / "results" / "f8" / "evaluation").glob("*/record.json"):
        record = json.loads(path.read_text())
        if all(record["axes"].get(name) == value for name, value in {**PLAIN, **axes}.items()):
            [row] = [row for row in record["rows"] if row["metric"] == "kd_efficientnet_lite2_colour"]
            found[record["axes"]["seed"]] = row["value"]
    return ", ".join(f"{found[seed]:.2f}" for seed in sorted(found))


@pytest.mark.parametrize(
    ("page", "axes"),
    [
        ("equivariance", {"equivariance": "rotation+scaling"}),
        ("equivariance", {}),
        ("alignment", {"alignment": "efficientnet_lite0"}),
        ("alignment", {}),
        ("representation", {"representation": "efficientnet_lite0"}),
        ("representation", {}),
        ("autoguidance", {}),
        ("autoguidance", {"guidance_scale": "auto", "guidance_guide": "milestone at 0.25"}),
        ("autoguidance", {"guidance_scale": "auto", "guidance_guide": "milestone at 0.0625"}),
        ("autoguidance", {"guidance_scale": "auto", "guidance_guide": None}),
    ],
)
def test_pages_say_what_the_records_hold(page, axes):
    distances = by_seed(**axes)
    assert distances.count(",") == 2
    assert f"| {distances} |" in (ROOT / "docs" / "experiments" / f"{page}.md").read_text()
