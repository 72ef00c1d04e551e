"""The pages of four experiments say what the published records of results/f8 hold."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import compare, limits
from analysis.collect import read_study

ROOT = Path(__file__).parents[2]
KERNEL = "kd_efficientnet_lite2_colour"
NAME = "KL f = 8, 4 channels, 20 steps, "
DEFAULT = "guidance scale 3, guidance interval 0.2 to 0.8"
BY_MILESTONE = "guidance scale {}, guidance rule tuned, guidance interval 0 to 1, guidance guide milestone at {}"
PAGES = {
    "equivariance": (DEFAULT, f"equivariance rotation+scaling, {DEFAULT}"),
    "alignment": (DEFAULT, f"alignment efficientnet_lite0, {DEFAULT}"),
    "representation": (DEFAULT, f"representation efficientnet_lite0, {DEFAULT}"),
    "autoguidance": (DEFAULT, BY_MILESTONE.format("2", "0.25"), BY_MILESTONE.format("1.5", "0.0625")),
}
ON_PAGES = [(page, cell) for page, cells in PAGES.items() for cell in cells]


@pytest.fixture(scope="module")
def study():
    return read_study(ROOT / "results" / "f8", "all")


@pytest.fixture(scope="module")
def compared(study):
    return limits.compared(study, NAME + DEFAULT)


def records(stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (ROOT / "results" / "f8" / stage).glob("*/record.json")]


def text_of(page: str) -> str:
    return (ROOT / "docs" / "experiments" / f"{page}.md").read_text().replace("**", "")


def with_interval(row: pd.Series, value: str) -> str:
    return f"{row[value]:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def of_cell(frame: pd.DataFrame, cell: str) -> pd.DataFrame:
    return frame[(frame["metric"] == KERNEL) & (frame["cell"] == NAME + cell)]


@pytest.mark.long
@pytest.mark.parametrize(("page", "cell"), ON_PAGES)
def test_means_and_their_intervals_are_those_of_the_records(compared, page, cell):
    [(_, row)] = of_cell(compare.means_frame(compared), cell).iterrows()
    assert (row["training_seeds"], row["n"], row["protocol"]) == (3, 500, "4bade4973d")
    assert with_interval(row, "value") in text_of(page)


@pytest.mark.long
@pytest.mark.parametrize(("page", "cell"), [(page, cell) for page, cell in ON_PAGES if cell != DEFAULT])
def test_differences_are_those_of_the_records(compared, page, cell):
    found = of_cell(compare.comparisons_frame(compared), cell)
    to_default = found[found["other"] == NAME + DEFAULT]
    [(_, row)] = (found if page == "alignment" else to_default).iterrows()  # it is compared with its Gaussian alone
    assert with_interval(row, "difference") in text_of(page)


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "axes"),
    [
        ("equivariance", {"equivariance": "rotation+scaling"}),
        *((page, {}) for page in PAGES),
        ("alignment", {"alignment": "efficientnet_lite0"}),
        ("representation", {"representation": "efficientnet_lite0"}),
        ("autoguidance", {"guidance_scale": "auto", "guidance_guide": "milestone at 0.25"}),
        ("autoguidance", {"guidance_scale": "auto", "guidance_guide": "milestone at 0.0625"}),
        ("autoguidance", {"guidance_scale": "auto"}),
    ],
)
def test_each_seed_has_the_distance_of_its_records(page, axes):
    found = {}
    plain = {"equivariance": None, "alignment": None, "representation": None, "guidance_guide": None}
    for record in records("evaluation"):
        if all(record["axes"].get(name) == value for name, value in {"guidance_scale": 3.0, **plain, **axes}.items()):
            [row] = [row for row in record["rows"] if row["metric"] == KERNEL]
            found[record["axes"]["seed"]] = row["value"]
    assert sorted(found) == [0, 1, 2]
    assert f"| {', '.join(f'{found[seed]:.2f}' for seed in sorted(found))} |" in text_of(page)
