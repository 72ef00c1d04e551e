"""What the table says of samplers that limit what was measured: cells at N and 2 N steps, and checks on request."""

from dataclasses import replace

import pytest
from synthetic_store import JUDGE, Recipe, build

from analysis.collect import Finished, read_study
from analysis.limited import doubled, section
from analysis.table import markdown
from ldm.records import Cell, ResultRow, StageRecord


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Cells at 5, 10, 20 and 50 steps, of which two pairs are twice each other."""
    store = tmp_path_factory.mktemp("store")
    build(store, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10, 20, 50)))
    return read_study(store)


def test_pairs_of_cells_that_differ_in_steps_alone_are_compared(study):
    """Distances of the made-up store fall with the steps; from 5 on by more than from 10 on."""
    pairs = doubled(study)
    assert {(pair.label, pair.steps) for pair in pairs} == {(f"KL f={f}", n) for f in (4, 8) for n in (5, 10)}
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == f"kd_{JUDGE}")]
    value = {(row.f, row.steps): row.value for row in rows.itertuples()}
    for pair in pairs:
        f = int(pair.label.rpartition("=")[2])
        assert pair.comparison.difference == pytest.approx(value[f, 2 * pair.steps] - value[f, pair.steps])


def test_a_change_within_its_interval_limits_nothing(study):
    """The same cells with values that no longer depend on the steps."""
    assert any(pair.is_limited for pair in doubled(study))
    frame = study.frame.copy()
    is_kernel = frame["metric"] == f"kd_{JUDGE}"
    spread = frame["ci_high"] - frame["value"]
    for column, sign in (("value", 0), ("ci_low", -1), ("ci_high", 1)):
        frame.loc[is_kernel, column] = 0.1 + sign * spread
    assert not any(pair.is_limited for pair in doubled(replace(study, frame=frame)))
    assert "| no |" in section(replace(study, frame=frame), {})


def checked(limited, label="KL f=4 ddim 20 steps"):
    """A finished check."""
    row = ResultRow("sampler_check_kd_e", -0.07, 200, "p", -0.09, -0.05)
    facts = {"steps": 20, "twice": 40, "n": 200, "limited": limited, "title": "kernel distance, E"}
    rows = [] if limited is None else [row]
    return Finished(label, Cell("c", {}, {}, ()), StageRecord("sampler_check", "i", {}, {}, facts, rows))


@pytest.mark.parametrize(("limited", "word"), [(True, "yes"), (False, "no"), (None, "unknown")])
def test_a_check_has_its_line(study, limited, word):
    one = replace(study, frame=study.frame[study.frame["steps"].isna()], finished=(checked(limited),))
    text = section(one, {})
    assert f"| {word} |" in text
    assert ("-0.07" in text or "−0.07" in text) == (limited is not None)


@pytest.mark.long
def test_a_study_of_one_number_of_steps_without_checks_has_no_section(study):
    one = replace(study, frame=study.frame[study.frame["steps"] != 10], finished=())
    assert not doubled(one)
    assert "Whether the sampler limits" not in markdown(one)
    assert "## Whether the sampler limits" in markdown(study)
