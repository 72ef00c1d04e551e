"""The command line: what it writes, what it refuses, what it does not import."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from synthetic_store import JUDGE, Recipe, build, kernel_distance

from analysis import drawn
from analysis.figures import FIGURES, Drawing
from analysis.plot_tradeoffs import main, write_atomic
from ldm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "results.csv",
    "table.md",
    "means.csv",
    "comparisons.csv",
    "cells.tex",
    "cells.md",
    "cells.csv",
    "captions.md",
}
OUTPUTS = TABLES | {
    f"{name}.{kind}"
    for name in (
        "rate_distortion",
        "quality_vs_f",
        "quality_vs_throughput",
        "quality_vs_training",
        "quality_vs_compute",
        "quality_at_budgets",
        "front",
        "crossings",
    )
    for kind in ("png", "svg", "pdf", "csv")
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(regularisers=("kl", "vq"), factors=(1, 4), steps=(5,), missing=[("samples", "vq", 4, 5)]))
    return path


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    """The folder that one call wrote, and what it said."""
    out = tmp_path_factory.mktemp("out") / "results"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["--store", str(store), "--out", str(out)]) == 0
    return out, said.getvalue()


@pytest.mark.long
def test_writes_everything_where_it_says(written):
    out, said = written
    assert {path.name for path in out.iterdir()} == OUTPUTS
    assert str(out) in said
    assert "3 cells" in said


def test_csv_holds_the_values_in_full(written):
    rows = pd.read_csv(written[0] / "results.csv")
    value = rows[(rows["stage"] == "evaluation") & (rows["f"] == 4) & (rows["metric"] == f"kd_{JUDGE}")]["value"].item()
    assert value == kernel_distance("kl", 4, 5)


def test_table_names_n_protocols_and_missing_cells(written):
    text = (written[0] / "table.md").read_text()
    cells = [line for line in text.split("## Cells")[1].split("##")[0].splitlines() if line.startswith("| ")]
    assert len(cells) == 2 + 2
    assert "kernel distance, EfficientNet-Lite2 (n = 512)" in cells[0]
    value = kernel_distance("kl", 4, 5)
    assert f"{value:.3g} [{value - 0.0015:.3g}, {value + 0.0015:.3g}]" in cells[3]
    assert "VQ f=4, 5 steps, evaluation: samples is not finished" in text
    assert "extractor: efficientnet_lite2" in text
    assert {line.count("|") for line in cells} == {cells[0].count("|")}


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_mixed_protocols_exit_2_and_write_nothing_unless_allowed(tmp_path, capsys):
    build(tmp_path / "store", Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,), odd_protocol=[("kl", 8)]))
    call = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main(call) == 2
    assert "reference_hash" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*call, "--allow-mixed-protocols"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "(protocol a)" in table
    assert "(protocol b)" in table


@pytest.mark.long
def test_script_from_the_root_imports_no_torch(tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    build(store, Recipe(regularisers=("kl",), factors=(4,), steps=(5,)))
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['plot_tradeoffs.py', '--store', {str(store)!r}, '--out', {str(out)!r}]\n"
        "try:\n    runpy.run_path('analysis/plot_tradeoffs.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'matplotlib.pyplot', 'hydra', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    # runpy replaces sys.path[0] only for folders, so the root is named for the script's own imports.
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (out / "table.md").exists()


@pytest.mark.long
def test_script_says_one_sentence_and_exits_2(tmp_path):
    script = [sys.executable, "analysis/plot_tradeoffs.py", "--store", str(tmp_path / "nothing")]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "There is no store" in ended.stderr


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a.txt", b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_nothing_is_written_before_all_is_made(store, tmp_path, monkeypatch):
    def fails(_):
        raise UserError("no figure")

    monkeypatch.setattr(drawn, "FIGURES", dict.fromkeys(FIGURES, Drawing(fails)))
    assert main(["--store", str(store), "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said_before_figures_are_drawn(store, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(drawn, "drawing", lambda *_: pytest.fail("figures were drawn"))
    assert main(["--store", str(store), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err


def test_an_unwritable_place_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        write_atomic(tmp_path / "file" / "a.txt", b"")


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_another_metric_is_drawn_where_it_is_asked_for_and_one_that_is_none_is_refused(store, tmp_path, capsys):
    call = ["--store", str(store), "--out", str(tmp_path)]
    assert main([*call, "--metric", f"fd_{JUDGE}"]) == 0
    assert "Fréchet distance, EfficientNet-Lite2 (lower is better)" in " ".join(
        re.findall("<!-- (.*?) -->", (tmp_path / "quality_vs_f.svg").read_text())
    )
    capsys.readouterr()
    assert main([*call, "--metric", f"ff_{JUDGE}"]) == 2
    assert f"did you mean 'fd_{JUDGE}'" in capsys.readouterr().err
