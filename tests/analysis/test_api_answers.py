"""What experiments.api says of a store of made-up results: the cell of the answer, its figures, its sweeps."""

import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic_store import Recipe, build
from test_limits import made

from analysis.ask import ask as printed
from experiments.api import UserError, ask, figure, load


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells at f = 4, 8 and 16 that nothing limits."""
    root = tmp_path_factory.mktemp("free")
    made(root)
    return next(path.parent for path in root.rglob("sweeps"))


@pytest.mark.long
def test_the_recommended_cell_is_that_of_the_printed_answer(store: Path) -> None:
    results = load(store)
    answer = ask(results)
    assert answer.text == str(answer) == printed(store, None, None, [], "5%")
    assert answer.cell in results.cells
    assert f"Take KL f = {answer.cell.record.axes['f']}" in answer.text


@pytest.mark.long
def test_a_budget_that_no_cell_keeps_gives_no_cell(store: Path) -> None:
    assert ask(load(store), "1e12 images/s").cell is None
    with pytest.raises(UserError, match="5 apples"):
        ask(load(store), "5 apples")


@pytest.mark.long
def test_a_figure_is_one_of_matplotlib_and_leaves_its_look_alone(store: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn = figure(load(store), "quality_vs_f")
    assert isinstance(drawn, Figure)
    assert any(axes.lines for axes in drawn.axes)
    assert dict(matplotlib.rcParams) == before


def test_all_sweeps_of_a_store_are_read_together(tmp_path: Path) -> None:
    recipes = [Recipe(regularisers=("kl",), factors=(f,), steps=(10,), name=f"sweep_{f}") for f in (4, 8)]
    for recipe in recipes:
        build(tmp_path, recipe)
    assert [cell.record.axes["f"] for cell in load(tmp_path, "all").cells] == [4, 8]
    assert [cell.record.axes["f"] for cell in load(tmp_path, "sweep_4").cells] == [4]
    frame = load(tmp_path, "all").frame
    assert set(frame["f"].dropna()) == {4, 8}
    assert all(math.isfinite(value) for value in frame["value"])
