"""Several stores read as one: the table of the store that they would be merged into, and what differs is said."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from synthetic_store import JUDGE, Recipe, build

from analysis.collect import collect, read_study
from analysis.pictures import pictures
from analysis.plot_tradeoffs import main
from analysis.report import main as report
from ldm.errors import UserError
from ldm.records import read_record, write_json

MONDAY = Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), name="monday", created="2026-01-01")
TUESDAY = Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10), name="tuesday", created="2026-01-02")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two stores that share f = 4, and one that holds both."""
    for place, recipes in (("a", [MONDAY]), ("b", [TUESDAY]), ("both", [TUESDAY, MONDAY])):
        for recipe in recipes:
            build(tmp_path / place, recipe)
    return tmp_path / "a", tmp_path / "b", tmp_path / "both"


@pytest.mark.long
@pytest.mark.parametrize("sweep", [None, "all", "monday"])
def test_the_table_is_that_of_the_store_that_holds_all(stores, sweep):
    a, b, both = stores
    expected = collect(both, sweep).to_csv()
    assert collect([a, b], sweep).to_csv() == expected
    assert collect([b, a, b], sweep).to_csv() == expected
    assert collect(a).to_csv() != collect([a, b]).to_csv()


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
@pytest.mark.usefixtures("one_figure")
def test_outputs_lie_in_the_first_store_and_name_them_all(stores, capsys):
    a, b, both = stores
    call = ["--store", str(a), "--store", str(b), "--sweep", "all"]
    assert main(call) == 0
    assert main(["--store", str(both), "--sweep", "all"]) == 0
    assert report(call) == 0
    folder = a / "analysis" / "all"
    assert not (b / "analysis").exists()
    assert (folder / "results.csv").read_bytes() == (both / "analysis" / "all" / "results.csv").read_bytes()
    for name in ("table.md", "report.html"):
        text = (folder / name).read_text()
        assert str(a) in text
        assert str(b) in text
    assert "Read from the stores" not in (both / "analysis" / "all" / "table.md").read_text()
    assert "other results in another store" not in capsys.readouterr().out


def changed(store: Path, stage: str) -> str:
    """Gives one artifact of a stage another first value; its identity."""
    path = next(iter(sorted((store / stage).glob("*/record.json"))))
    record = read_record(path.parent)
    assert record is not None
    first = dataclasses.replace(record.rows[0], value=2 * record.rows[0].value, ci_high=None, ci_low=None)
    write_json(path, dataclasses.replace(record, rows=(first, *record.rows[1:])).to_json())
    return path.parent.name


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_of_results_that_differ_those_of_the_first_store_are_shown_and_that_is_said(stores, capsys):
    a, b, both = stores
    identity = changed(b, "reference")
    assert collect([a, b], "all").to_csv() == collect(both, "all").to_csv()
    assert collect([b, a], "all").to_csv() != collect(both, "all").to_csv()
    assert main(["--store", str(a), "--store", str(b)]) == 0
    assert "1 artifacts have other results in another store" in capsys.readouterr().out
    [line] = [line for line in (a / "analysis" / "tuesday" / "table.md").read_text().splitlines() if "differs" in line]
    assert f"reference {identity} differs between {a}" in line
    assert f"that of {a} is shown" in line


def test_costs_that_differ_are_those_of_the_first_store_without_a_word(stores):
    a, b, _ = stores
    for path in (b / "diffusion").glob("*/record.json"):
        record = json.loads(path.read_text())
        record["cost"]["seconds"] += 1000
        write_json(path, record)
    assert read_study([a, b], "monday").differing == ()
    assert collect([a, b], "monday").to_csv() == collect(a).to_csv()


def test_sweeps_of_one_name_stand_apart_and_those_of_one_content_are_one(tmp_path):
    build(tmp_path / "a", MONDAY)
    build(tmp_path / "b", dataclasses.replace(TUESDAY, name="monday"))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    study = read_study([tmp_path / name for name in "abc"], "all")
    assert sorted({str(name)[:7] for name in study.frame["sweep"]}) == ["monday", "monday-"]
    assert set(study.frame["f"].dropna()) == {1, 4, 8}
    [later] = {str(name) for name in study.frame["sweep"]} - {"monday"}
    assert read_study([tmp_path / "a", tmp_path / "b"]).frame["sweep"].eq(later).all()
    assert read_study([tmp_path / "a", tmp_path / "b"], later).cells == 4


def test_protocols_of_all_stores_are_checked(stores, tmp_path, capsys):
    odd = dataclasses.replace(TUESDAY, factors=(8,), odd_protocol=[("kl", 8)])
    build(tmp_path / "odd", odd)
    assert main(["--store", str(stores[0]), "--store", str(tmp_path / "odd"), "--sweep", "all"]) == 2
    assert f"'real_fd_{JUDGE}' follow different protocols" in capsys.readouterr().err


def test_pictures_are_found_in_whichever_store_they_lie(stores):
    a, b, _ = stores
    for store in (a, b):
        for folder in (store / "samples").iterdir():
            (folder / "grid.png").write_bytes(store.name.encode())
    found = dict(pictures(read_study([a, b], "all")))
    assert {path.read_bytes() for path in found.values()} == {b"a", b"b"}
    assert len(found) == 1 + 4


def test_what_failed_in_one_store_and_is_done_in_another_is_done(stores):
    a, b, _ = stores
    for folder in (b / "evaluation").iterdir():
        shutil.rmtree(folder)
        write_json(folder / "failure.json", {"error": "no luck"})
    reasons = {gap.reason for gap in read_study([a, b], "all").missing}
    assert reasons == {"evaluation failed: no luck"}
    for folder in (stores[2] / "evaluation").iterdir():
        shutil.copytree(folder, a / "evaluation" / folder.name, dirs_exist_ok=True)
    assert read_study([b, a], "all").missing == ()


def test_a_store_that_is_not_there_is_named(stores, tmp_path):
    with pytest.raises(UserError, match=r"There is no store at '.*typo'"):
        read_study([stores[0], tmp_path / "typo"])
    with pytest.raises(UserError, match=r"stores '.*a', '.*b' hold no sweep 'x'; they hold monday, tuesday"):
        read_study(stores[:2], "x")
