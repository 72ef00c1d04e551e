"""The report: one page with everything in it, and nothing outside it."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from synthetic_store import Recipe, build

from analysis.report import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that one call wrote, of a sweep with a gap."""
    folder = tmp_path_factory.mktemp("report")
    build(folder / "store", Recipe(factors=(1, 4), steps=(5,), missing=[("samples", "vq", 4, 5)]))
    assert main(["--store", str(folder / "store"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.mark.long
def test_every_section_of_the_table_and_the_check_list_stands_in_it(made):
    page = (made / "report.html").read_text()
    for name in ("table.md", "checklist.md"):
        for heading in re.findall(r"^#+ (.*)$", (made / name).read_text(), re.MULTILINE):
            assert re.search(rf"<h\d>{re.escape(heading)}</h\d>", page), heading
    assert "VQ f=4, 5 steps, evaluation: samples is not finished" in page
    rows = [line for line in (made / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert page.count("<tr>") >= len(rows)


def test_the_figures_are_held_in_the_page_itself(made):
    page = (made / "report.html").read_text()
    held = {base64.b64decode(found) for found in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)}
    assert held == {path.read_bytes() for path in made.glob("*.svg")}
    assert {path.stem for path in made.glob("*.svg")} == set(re.findall(r'download="(\w+)\.svg"', page))
    assert len(held) >= 5
    # Nothing is fetched or read from elsewhere; what the bundled library could link to is not asked for.
    assert not re.findall(r'(?:src|href)="(?!data:|#)', re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))


def test_mixed_protocols_are_refused_as_in_the_figures(tmp_path, capsys):
    build(tmp_path / "store", Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,), odd_protocol=[("kl", 8)]))
    assert main(["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 2
    assert "reference_hash" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_the_metric_and_the_source_that_are_asked_for_are_heeded(tmp_path, capsys, monkeypatch):
    store = tmp_path / "store"
    build(store, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,)))
    assert main(["--store", str(store), "--metric", "no such metric"]) == 2
    assert "--metric" in capsys.readouterr().err
    asked: list[str] = []
    monkeypatch.setattr("analysis.plot_tradeoffs.pulled", lambda project, into: asked.append(project) or store)
    assert main(["--store", str(tmp_path / "here"), "--source", "wandb", "--project", "team/one"]) == 0
    assert asked == ["team/one"]
    assert (tmp_path / "here" / "analysis" / "wandb" / "team" / "one" / "report.html").exists()


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_cells_are_compared_with_the_one_that_is_named(tmp_path, capsys):
    build(tmp_path / "store", Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,)))
    at = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main([*at, "--against", "no such cell"]) == 2
    assert "--against" in capsys.readouterr().err
    for cell in ("KL f = 4", "KL f = 8"):
        assert main([*at, "--against", cell]) == 0
        others = set(pd.read_csv(tmp_path / "out" / "comparisons.csv")["other"])
        assert [other.startswith(cell) for other in others] == [True]


@pytest.mark.long
def test_the_script_runs_from_the_root():
    script = [sys.executable, "analysis/report.py", "--store", "nothing"]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "There is no store" in ended.stderr
