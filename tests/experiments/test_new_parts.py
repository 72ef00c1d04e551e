"""A part that nobody knows is written in few places, and then planned, run, tabled and drawn like all others."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from program import environment
from toy_parts import MOST, PLACES, File
from warm_python import WarmPython

pytestmark = pytest.mark.program

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("conf", "ldm", "experiments", "hydra_plugins", "analysis")
ASKED = ("ae=small", "ae.f=4", "conditioning=mean_colour", "scale=tiny", "device=cpu", "trainer.milestones=[]")
MEAN_DISTANCE = "mean_distance_efficientnet_lite2_colour"
METRICS = (MEAN_DISTANCE, "mean_colour_error", "brightness")
TITLES = {
    MEAN_DISTANCE: "distance of means, EfficientNet-Lite2 and colours",
    "mean_colour_error": "error of the mean colour, grey levels",
    "brightness": "mean brightness, grey levels",
}
DRAW = """
import dataclasses
import sys
from pathlib import Path
from analysis.collect import read_study
from analysis.compare import comparisons_frame, tables
from analysis.figures import FIGURES
from analysis.plot_tradeoffs import draw
store, *metrics = sys.argv[1:]
draw(Path(store), Path(store, "out"), None, False)
study = read_study(Path(store))
# As of a scale that has verdicts, which tiny has not.
compared = tables(study.frame.assign(scale="cpu"), study.axes)
comparisons_frame(compared).to_csv(f"{store}/out/compared.csv", index=False)
for metric in metrics:
    FIGURES["quality_vs_f"].draw(dataclasses.replace(study, metric=metric)).savefig(f"{store}/out/{metric}.svg")
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> WarmPython:
    """A copy of the program in which the toys are written; its packages stand before those that are installed."""
    root = tmp_path_factory.mktemp("house")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for places in PLACES.values():
        for place in places:
            place.write(root)
    (root / "draw.py").write_text(DRAW, encoding="utf-8")
    return WarmPython(root, {**environment(), "PYTHONPATH": str(root)})


def printed(house: WarmPython, *arguments: str) -> str:
    """What a command of the copy prints."""
    done = house.run(arguments, house.root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", PLACES)
def test_a_part_is_written_in_few_places(kind: str) -> None:
    assert 0 < len(PLACES[kind]) <= MOST[kind]


@pytest.mark.parametrize("kind", PLACES)
def test_the_guide_names_every_place(kind: str) -> None:
    """Files that are there by their paths, new ones by their folders."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    [section] = re.findall(rf"^\*\*A {kind}\.\*\*.*?(?=^\*\*|\Z)", page, re.DOTALL | re.MULTILINE)
    for place in PLACES[kind]:
        path = Path(place.path)
        named = f"{path.parent}/" if isinstance(place, File) or path.parts[:2] == ("conf", "scale") else place.path
        assert f"`{named}" in section, place.path


@pytest.mark.long
def test_a_plan_holds_the_toys(house: WarmPython) -> None:
    described = printed(house, "-m", "experiments.describe", *ASKED, "denoiser=stack", "sampler=damped", "--json")
    plan = json.loads(described)
    toys = {"regulariser": "small", "conditioning": "mean_colour", "denoiser": "stack", "sampler": "damped"}
    assert {axis: plan["axes"][axis] for axis in (*toys, "damping")} == {**toys, "damping": 0.25}
    assert plan["parameters"]["denoiser"] > 0
    assert plan["parameters"]["bottleneck"] == 0
    assert "brightness" in described


@pytest.mark.long
def test_a_cell_of_all_toys_runs(house: WarmPython) -> None:
    """Its records hold the axes, the task's score and the pictures; what analysis makes of them is slow to see."""
    printed(house, "run.py", *ASKED, "denoiser=stack", "sampler=damped", "tracker.mode=disabled", "store=one")
    store, found = house.root / "one", {}
    for stage in ("evaluation", "brightness"):
        [path] = store.glob(f"{stage}/*/record.json")
        found |= {row["metric"]: row["value"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    assert set(METRICS) < set(found)
    assert found["brightness"] > 0
    [samples] = store.glob("samples/*")
    assert (samples / "conditions.png").is_file()
    axes = json.loads((samples / "record.json").read_text(encoding="utf-8"))["axes"]
    assert axes.items() >= {"regulariser": "small", "denoiser": "stack", "sampler": "damped", "damping": 0.25}.items()
    listed = printed(house, "-m", "experiments.ledger", "--store", "one")
    assert "brightness" in listed
    assert "1 of 1 cells done" in listed


@pytest.fixture(scope="module")
def out(house: WarmPython) -> Path:
    """What analysis writes of a sweep with all the toys, and a figure of each toy metric."""
    swept = ("denoiser=unet,stack", "sampler=ddim,damped")
    printed(house, "run.py", "-m", *ASKED, *swept, "tracker.mode=disabled", "store=store")
    printed(house, "draw.py", "store", *METRICS)
    return house.root / "store" / "out"


@pytest.fixture(scope="module")
def results(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "results.csv")


@pytest.mark.slow
def test_axes_of_the_toys_are_columns(results: pd.DataFrame) -> None:
    cells = results[results["stage"] == "evaluation"]
    assert len(cells["cell"].unique()) == 4
    assert set(cells["regulariser"]) == {"small"}
    assert set(cells["conditioning"]) == {"mean_colour"}
    assert set(cells["denoiser"]) == {"unet", "stack"}
    assert set(cells["damping"][cells["sampler"] == "damped"]) == {0.25}
    assert cells["damping"][cells["sampler"] == "ddim"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_values_of_the_toys_are_rows_with_verdicts(metric: str, out: Path, results: pd.DataFrame) -> None:
    rows = results[(results["metric"] == metric) & results["cell"].notna() & (results["stage"] != "progress")]
    assert len(rows) == 4
    assert set(rows["stage"]) == {"brightness" if metric == "brightness" else "evaluation"}
    assert set(map(str, rows["higher_is_better"])) == {str(metric == "brightness")}
    assert rows["value"].between(rows["ci_low"], rows["ci_high"]).all()
    assert pd.read_csv(out / "comparisons.csv").empty
    compared = pd.read_csv(out / "compared.csv")
    verdicts = compared["verdict"][compared["metric"] == metric]
    assert len(verdicts) == len(rows) - 1
    assert verdicts.str.match("better|worse|not distinguishable").all()


@pytest.mark.slow
def test_a_damped_sampler_differs_from_the_one_it_damps(results: pd.DataFrame) -> None:
    rows = results[(results["metric"] == MEAN_DISTANCE) & (results["stage"] == "evaluation")]
    assert rows["value"].nunique() == 4


@pytest.mark.slow
def test_the_table_has_a_place_for_each(out: Path) -> None:
    page = (out / "table.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")}
    cells = sections["Cells"]
    assert "| denoiser | sampler | damping |" in cells.splitlines()[2]
    assert f"{TITLES[MEAN_DISTANCE]} (n = 32)" in cells
    assert "The rate is `rate_small_gaussian` (small latents)." in cells
    assert "| small latents |" in sections["First stages, on held-out images"]
    assert "Gaussian bits of small latents, bits/px (n = 32)" in sections["First stages, on held-out images"]
    scores = next(part for title, part in sections.items() if title.startswith("Task scores"))
    assert scores.count("`mean_colour_error`") == 4
    assert scores.count("(conditions of other samples)") == 4
    assert f"{TITLES['brightness']} (n = 32)" in sections["Brightness"]
    assert sections["Which cells are better"].count("No verdicts: `scale=tiny`") == 1
    assert f"{TITLES[MEAN_DISTANCE]}" in sections["Floors: the same distances for real images"]


def words(figure: Path) -> str:
    """The texts of a figure."""
    return " ".join(re.findall(r"<!-- (.*?) -->", figure.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_figures_show_first_stage_sampler_and_denoiser_by_their_titles(out: Path) -> None:
    rates = words(out / "rate_distortion.svg")
    assert "(small latents Gaussian bits of small latents, codecs without headers)" in rates
    assert "rate_small_gaussian (Gaussian bits of small latents)" in rates
    lines = words(out / "quality_vs_nfe.svg")
    assert "damped DDIM" in lines
    assert "damping 0.25" not in lines  # which is no panel of its own
    assert {"denoiser stack", "denoiser unet"} <= set(re.findall(r"denoiser \w+", lines))
    assert "damping 0.25" in words(out / "quality_vs_f.svg")


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_can_be_drawn(metric: str, out: Path) -> None:
    drawn = words(out / f"{metric}.svg")
    better = "higher" if metric == "brightness" else "lower"
    assert f"{TITLES[metric]} ({better} is better)" in drawn
    assert "no finished" not in drawn


@pytest.mark.slow
def test_store_and_ledger_hold_the_toys(house: WarmPython, out: Path) -> None:
    store = out.parent
    assert len(list(store.glob("brightness/*/record.json"))) == 4
    assert all((path / "conditions.png").is_file() for path in store.glob("samples/*"))
    assert "4 of 4 cells done" in printed(house, "-m", "experiments.ledger", "--store", store.name)
