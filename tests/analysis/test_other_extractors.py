"""Verdicts that another extractor must not contradict, on made-up stores."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from scipy.stats import norm
from synthetic_store import JUDGE, Recipe, build, kernel_distance

from analysis.advice import sentences, spoken
from analysis.answer import answers
from analysis.collect import read_study
from analysis.compare import Comparison, Measured, OtherExtractor, Table, Training, against_best, contradicted, tables
from analysis.figures import findings
from analysis.figures.standing import of_answer
from analysis.report import main as report
from analysis.table import markdown

METRIC = f"kd_{JUDGE}"
TWO_CELLS = {"factors": (4,), "steps": (10,)}
"""KL and VQ at f = 4: 0.0228 and 0.0262, each with an interval of 0.0015 to either side."""

UNLIMITED = {**TWO_CELLS, "nearer": 0.5}

AGREES = {("kl", 4): 3.0, ("vq", 4): 3.01}
SILENT = {("kl", 4): 3.001, ("vq", 4): 3.0}
CONTRARY = {("kl", 4): 3.01, ("vq", 4): 3.0}
SECOND, THIRD = "efficientnet_lite2_colour", "dinov2"

Values = Mapping[tuple[str, int], float]


def table(store: Path, metric: str = METRIC, against: str | None = None, **recipe: object) -> tuple[Table, str]:
    build(store, Recipe(**{**TWO_CELLS, **recipe}))
    study = read_study(store)
    [found] = [one for one in tables(study.frame, study.axes, against) if one.metric == metric]
    return found, markdown(study, against)


@pytest.mark.long
@pytest.mark.parametrize("values", [AGREES, SILENT, {("vq", 4): 1.0}], ids=["agrees", "silent", "saw one cell"])
def test_one_that_agrees_or_is_silent_changes_no_verdict(tmp_path: Path, values: Values) -> None:
    alone, _ = table(tmp_path / "alone")
    found, page = table(tmp_path / "beside", also={SECOND: values})
    assert found.comparisons == alone.comparisons
    assert [item.verdict for item in found.comparisons] == ["worse"]
    assert "extractors disagree" not in page
    assert (f"No verdict on two cells that another extractor ({SECOND}) tells" in page) == (len(values) > 1)


@pytest.mark.long
def test_two_that_contradict_each_other_leave_no_verdict_in_the_table_of_either(tmp_path: Path) -> None:
    said = "no verdict: extractors disagree ({} has it the other way round)"
    found, page = table(tmp_path, also={SECOND: CONTRARY})
    [item] = found.comparisons
    assert (item.verdict, item.contradicted_by, item.sentence) == ("extractors disagree", SECOND, said.format(SECOND))
    error = math.sqrt(2) * 0.0015 / norm.ppf(0.975)
    apart = kernel_distance("vq", 4, 10) - kernel_distance("kl", 4, 10)
    assert item.p == pytest.approx(2 * norm.sf(apart / error))
    assert f"| {said.format(SECOND)} |" in page
    study = read_study(tmp_path)
    by_metric = {one.metric: one for one in tables(study.frame, study.axes)}
    [mirrored] = by_metric[f"kd_{SECOND}"].comparisons
    assert (mirrored.cell, mirrored.sentence) == (item.other, said.format(JUDGE))
    # It is about distances: measures of neighbourhoods say something else, and keep their verdicts.
    assert by_metric[f"precision_{JUDGE}"].others == ()
    assert by_metric[f"fd_{JUDGE}"].others == (SECOND,)


@pytest.mark.long
def test_the_answer_and_its_rings_have_no_more_of_a_verdict_than_the_table(tmp_path: Path) -> None:
    build(tmp_path / "alone", Recipe(**UNLIMITED))
    study = read_study(tmp_path / "alone")
    [alone] = answers(study)
    build(tmp_path / "beside", Recipe(**UNLIMITED, also={SECOND: CONTRARY}))
    study = read_study(tmp_path / "beside")
    [found] = answers(study)
    assert alone.alike == ()
    [disputed] = found.alike
    assert (disputed.comparison.verdict, disputed.seeds, disputed.samples) == ("extractors disagree", None, None)
    assert found.best is not None
    assert alone.best is not None
    assert found.best.chance == alone.best.chance  # the headline's own probability stays
    said = f"no verdict: extractors disagree ({SECOND} has it the other way round)"
    [sentence, *_] = sentences(study, found)
    assert "or one of those that cannot be told apart from it: VQ f = 4" in sentence
    assert sentence.endswith(f"Against {disputed.option.name}: {said}.")
    assert f"{disputed.option.name}: {said}; look at the samples" in "\n".join(spoken(study, found, tmp_path))
    standing = of_answer(study, found)
    assert len(standing.best) == 2
    assert findings.of_cells(standing, "") == findings.NO_CELL


@pytest.mark.long
def test_frechet_distances_are_held_against_the_other_kernel_distance(tmp_path: Path) -> None:
    found, _ = table(
        tmp_path,
        f"fd_{JUDGE}",
        factors=(4, 32),
        regularisers=("kl",),
        also={SECOND: {("kl", 4): 3.01, ("kl", 32): 3.0}},
    )
    [item] = found.comparisons
    assert (item.verdict, item.contradicted_by) == ("extractors disagree", SECOND)


@pytest.mark.long
def test_all_that_contradict_are_named_once(tmp_path: Path) -> None:
    found, _ = table(tmp_path, also={SECOND: CONTRARY, THIRD: CONTRARY, "clip": AGREES}, seeds=(0, 1, 2))
    [item] = found.comparisons
    assert item.contradicted_by == f"{SECOND}, {THIRD}"
    assert found.others == (SECOND, THIRD, "clip")


@pytest.mark.long
def test_a_cell_named_beforehand_is_no_exception(tmp_path: Path) -> None:
    found, _ = table(tmp_path, against="VQ f = 4", also={SECOND: CONTRARY})
    assert [item.verdict for item in found.comparisons] == ["extractors disagree"]


@pytest.mark.long
def test_extractors_that_were_swept_are_asked_as_well(tmp_path: Path) -> None:
    """Each is the own one of cells that are the same but for it; the made-up numbers of both are one."""
    found, _ = table(tmp_path, extractors=(JUDGE, SECOND))
    assert found.others == (SECOND,)
    assert [item.verdict for item in found.comparisons] == ["worse"]


def cells(**values: float) -> dict[str, Measured]:
    """Each with a standard error of 0.1."""
    return {name: Measured(name, {"0": Training(value, 0.01)}, (value,), 500) for name, value in values.items()}


def heard(own: dict[str, Measured], *others: dict[str, Measured]) -> list[Comparison]:
    found = against_best(list(own.values()))
    return contradicted(found, [OtherExtractor(str(i), other) for i, other in enumerate(others)])


def test_another_extractor_is_corrected_for_as_many_pairs() -> None:
    """0.33 apart is p = 0.02 of one pair: told where there are two cells, and not where the best is one of four."""
    contrary = cells(a=1.33, b=1.0)
    assert [item.verdict for item in heard(cells(a=1.0, b=2.0), contrary)] == ["extractors disagree"]
    of_four = heard(cells(a=1.0, b=2.0, c=3.0, d=4.0), contrary)
    assert [item.verdict for item in of_four] == ["worse"] * 3
    surely = heard(cells(a=1.0, b=2.0, c=3.0, d=4.0), cells(a=2.0, b=1.0))
    assert [(item.cell, item.verdict) for item in surely] == [
        ("b", "extractors disagree"),
        ("c", "worse"),
        ("d", "worse"),
    ]


def test_what_is_not_told_apart_is_not_contradicted() -> None:
    assert [item.verdict for item in heard(cells(a=1.0, b=1.1), cells(a=2.0, b=1.0))] == ["not distinguishable"]


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_the_report_names_it(tmp_path: Path) -> None:
    build(tmp_path / "store", Recipe(**TWO_CELLS, also={SECOND: CONTRARY}))
    assert report(["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 0
    assert "extractors disagree" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    compared = (tmp_path / "out" / "comparisons.csv").read_text(encoding="utf-8")
    assert "contradicted_by" in compared.splitlines()[0]
    assert f"extractors disagree ({SECOND}" in compared
