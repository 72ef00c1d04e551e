"""Whether cells had equal chances: what the table says of tuned guidance, found and several learning rates."""

from dataclasses import replace

import pandas as pd
import pytest
from synthetic_store import JUDGE, Recipe, build

from analysis.collect import Finished, read_study
from analysis.fairness import (
    RateCheck,
    Tuning,
    found_rates,
    learning_rate_check,
    rate_checks,
    tuned_guidance,
    tuned_rates,
    tunings,
    undecided,
    verdict,
)
from analysis.figures import FIGURES
from analysis.figures.notes import notes_of
from analysis.milestones import with_flops
from analysis.table import markdown
from ldm.records import Cell, ResultRow, StageRecord


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    build(store, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10), seeds=(0, 1)))
    return read_study(store)


def _at_rates(study, change):
    """The study with every model also trained at half and twice the rate; `change(f, factor)` multiplies distances."""
    frames = []
    for factor in (0.5, 1.0, 2.0):
        frame = study.frame.assign(learning_rate_factor=factor)
        frames.append(
            frame.assign(value=[v * change(f, factor) for v, f in zip(frame["value"], frame["f"], strict=True)])
        )
    return replace(study, frame=pd.concat(frames, ignore_index=True))


@pytest.mark.long
def test_a_sweep_at_one_rate_has_no_check(study):
    assert rate_checks(study) == []
    assert "Learning-rate check" not in markdown(study)


@pytest.mark.long
def test_each_candidate_is_averaged_over_seeds_at_each_rate(study):
    rated = _at_rates(study, lambda f, factor: 1 if factor == 1 else 1.5)
    checks = {check.label: check for check in rate_checks(rated)}
    assert set(checks) == {f"KL f={f}, {steps} steps" for f in (4, 8) for steps in (5, 10)}
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == f"kd_{JUDGE}")]
    expected = rows[(rows["f"] == 8) & (rows["steps"] == 10)]["value"].mean()
    assert checks["KL f=8, 10 steps"].values == pytest.approx({0.5: 1.5 * expected, 1.0: expected, 2.0: 1.5 * expected})
    assert checks["KL f=8, 10 steps"].best == 1.0
    text = markdown(rated).split("## Learning-rate check")[1].split("##")[0]
    assert "| candidate | ×0.5 | ×1 | ×2 | best at |" in text
    assert "is the same at ×1 and with each one's best rate" in text


def test_an_ordering_is_claimed_only_where_every_best_rate_was_seen_and_agrees():
    a, b = RateCheck("A", {0.5: 3.0, 1.0: 1.0, 2.0: 4.0}), RateCheck("B", {0.5: 5.0, 1.0: 2.0, 2.0: 6.0})
    assert verdict([b, a]).startswith("The ordering A < B is the same")
    # B at its own best rate overtakes A, but that rate is an end of what was tried.
    faster = RateCheck("B", {0.5: 5.0, 1.0: 2.0, 2.0: 0.5})
    assert verdict([a, faster]) == "No ordering is claimed: the best rate of B (×2) is an end of what was tried."
    inside = RateCheck("B", {0.5: 5.0, 1.0: 2.0, 2.0: 0.5, 4.0: 3.0})
    assert "at ×1 it is A < B, with each one's best rate B < A" in verdict([a, inside])
    assert "was not trained at ×1" in verdict([a, RateCheck("B", {0.5: 1.0, 2.0: 2.0})])


def test_the_check_takes_a_tuned_scale_for_no_choice(study):
    """Which scale was found may differ with the rate; the cells are still one candidate."""
    rated = _at_rates(study, lambda f, factor: factor)
    frame = rated.frame.assign(guidance_rule="tuned", guidance_scale=rated.frame["learning_rate_factor"] + 1)
    checks = rate_checks(replace(rated, frame=frame))
    assert {len(check.values) for check in checks} == {3}
    assert len(checks) == 4
    # Scales that were given are a choice, so that no candidate has two rates.
    assert rate_checks(replace(rated, frame=frame.assign(guidance_rule=""))) == []
    assert learning_rate_check(replace(rated, frame=frame.assign(guidance_rule=""))) == ""


def test_rates_of_several_protocols_are_never_averaged(study):
    rated = _at_rates(study, lambda f, factor: 1 if factor == 1 else 1.5)
    other = rated.frame.assign(protocol="other", n=2048, value=2 * rated.frame["value"])
    mixed = replace(rated, frame=pd.concat([rated.frame, other], ignore_index=True))
    one, both = rate_checks(rated), rate_checks(mixed)
    assert len(both) == 2 * len(one)
    assert [check.values for check in both if check.protocol != "other"] == [check.values for check in one]
    text = learning_rate_check(mixed)
    assert "KL f=4, 5 steps (protocol " in text
    assert text.count("The ordering") == 2  # one for each protocol


def test_cells_that_found_their_guidance_share_a_panel(study):
    frame = study.frame.assign(guidance_rule="tuned", guidance_scale=study.frame["steps"].astype(float))
    titles = [axes.get_title(loc="left") for axes in FIGURES["quality_vs_f"].draw(replace(study, frame=frame)).axes]
    assert titles == [""]


def _tuning(label, taken, tried, n=200, metric=f"kd_{JUDGE}", title="kernel distance"):
    """`tried` by scale: the value and what each block of two sets contributes to its deviation, None = not told."""
    rows = {
        scale: ResultRow(metric, value, n, "how", *(_bounds(value, blocks)), deviations=blocks)
        for scale, (value, blocks) in tried.items()
    }
    return Tuning(label, metric, n, "how", taken, taken == max(tried), rows, title)


def _bounds(value, blocks):
    if blocks is None:
        return None, None
    half = 1.96 * sum(x * x for part in blocks for x in part) ** 0.5
    return value - half, value + half


def test_what_was_tried_is_said_with_its_budget(study):
    tried = {1.0: (0.3, None), 2.0: (0.1, None), 4.0: (0.2, None)}
    one, other = _tuning("KL f=4, 5 steps", 2.0, tried), _tuning("KL f=8, 5 steps", 4.0, tried)
    text = tuned_guidance((one, other))
    assert "| KL f=4, 5 steps | 0.3 | 0.1 | 0.2 | 2 |" in text
    assert "4 (an end of what was tried; the best may lie beyond)" in text
    assert "n = 200 each, protocol `how`" in text
    assert "the same budget for each cell, 600 samples" in text
    unequal = tuned_guidance((one, replace(other, n=100)))
    assert unequal.count("NOT THE SAME BUDGET: 300, 600 samples") == 2  # a table for each n
    assert tuned_guidance(tunings(study)) == ""


def test_each_metric_has_a_table_of_its_own(study):
    tried = {1.0: (0.3, None), 2.0: (0.1, None)}
    one = _tuning("KL f=4", 2.0, tried)
    far = {1.0: (30.0, None), 2.0: (10.0, None)}
    other = _tuning("KL f=4, clip", 2.0, far, metric="kd_clip", title="CLIP distance")
    text = tuned_guidance((one, other))
    assert text.count("| cell | 1 | 2 | taken |") == 2
    assert "CLIP distance by guidance scale" in text


def test_scales_that_noise_alone_may_have_ordered_are_said(study):
    """What all scales owe to the same noise and images tells none of them apart, however wide their intervals are."""
    shared = [0.05, -0.05] * 20
    nudged = [x + (0.004 if index % 4 < 2 else -0.004) for index, x in enumerate(shared)]
    tuning = _tuning(
        "KL f=4",
        2.0,
        {1.0: (0.45, (nudged, shared)), 2.0: (0.30, (shared, shared)), 4.0: (0.31, (nudged, shared))},
    )
    low, high = tuning.tried[1.0].ci_low, tuning.tried[2.0].ci_high
    assert low < high  # the intervals overlap, and yet the two are told apart
    assert undecided(tuning) == [4.0]
    assert "2; not distinguishable: 4 |" in tuned_guidance((tuning,))


def _found(label, factor, losses, apart, seed=0):
    """The record of a model whose rate was found; `losses` by factor, None where the trial diverged."""
    tried = [
        {"factor": at, "loss": loss, "ci_low": loss and loss - 0.01, "ci_high": loss and loss + 0.01}
        | {"diverged": loss is None, "is_apart": at in apart}
        for at, loss in losses.items()
    ]
    facts = {"factor": factor, "learning_rate": factor * 1e-3, "n": 93, "images": 1500, "tried": tried}
    facts["is_at_the_end"] = factor in (min(losses), max(losses))
    record = StageRecord("learning_rate", f"{label} {seed}", config={}, parents={}, facts=facts)
    return Finished(label, Cell("cell", {}, (), {}), record)


@pytest.fixture
def found(study):
    """The study as if every model had found its rate: those of f = 4 another one with each seed."""
    is_higher = (study.frame["f"] == 8) | (study.frame["seed"] == 1)
    frame = study.frame.assign(
        learning_rate_rule="tuned",
        learning_rate_factor=float("nan"),
        learning_rate=is_higher.fillna(False).map({True: 3e-3, False: 1e-3}),
        learning_rate_flops=2e15,
        learning_rate_seconds=30.0,
    )
    records = (
        _found("KL f=4, seed=0", 1.0, {0.3: 0.52, 1.0: 0.501, 3.0: 0.5}, (0.3,)),
        _found("KL f=4, seed=1", 3.0, {0.3: 0.52, 1.0: 0.51, 3.0: 0.5}, (0.3, 1.0), seed=1),
        _found("KL f=8", 0.3, {0.3: 0.4, 1.0: 0.41, 3.0: None}, (1.0, 3.0)),
    )
    axes = replace(study.axes, all=(*study.axes.all, "learning_rate_rule"))
    return replace(study, frame=frame, axes=axes, finished=(*study.finished, *records))


@pytest.mark.long
def test_what_was_tried_for_a_learning_rate_is_said_with_what_was_taken(found, study):
    text = tuned_rates(found_rates(found))
    assert "| model | ×0.3 | ×1 | ×3 | n | images seen | taken |" in text
    assert "| 93 | 3 × 1,500 | 0.001 (×1); not distinguishable: ×3 |" in text
    assert "| 0.003 (×3); best at the end of the candidates |" in text
    assert "| diverged | 93 | 3 × 1,500 | 0.0003 (×0.3); best at the end of the candidates |" in text
    assert "## Learning rates that were found" in markdown(found)
    assert tuned_rates(found_rates(study)) == ""
    assert "Learning rates" not in markdown(study)


@pytest.mark.long
def test_trainings_of_one_cell_that_found_different_rates_are_averaged(found, study):
    """What they found is told, and is no choice; the cells have no rates that a check could compare."""
    cells = markdown(found).split("## Cells")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in cells.splitlines() if line.startswith(("| 4 ", "| 8 "))]
    assert [row[4] for row in rows] == ["0.001, 0.003"] * 2 + ["0.003"] * 2
    assert all("(2 trainings)" in row[5] for row in rows)
    assert "learning rate rule" not in cells
    assert rate_checks(found) == []


@pytest.mark.long
def test_trials_count_in_the_cost_of_training(found, study):
    before, after = (markdown(each).split("## Cells")[1].splitlines() for each in (study, found))
    place = before[2].split(" | ").index("training: PFLOP")
    own, all_in_all = (lines[4].split(" | ") for lines in (before, after))
    assert float(all_in_all[place + 1]) - float(own[place]) == pytest.approx(2, abs=0.01)
    assert all_in_all[place + 3] == "2"
    rows = [each.frame[each.frame["stage"] == "progress"] for each in (study, found)]
    totals = [with_flops(each, own)["total"].to_numpy() for each, own in zip((study, found), rows, strict=True)]
    assert totals[1] - totals[0] == pytest.approx(2e15)


def test_figures_name_the_rates_that_were_found_and_which_are_an_end(found, study):
    [note] = [note for note in notes_of(found, found.frame, "evaluation") if "earning rates" in note]
    assert "KL f=4, seed=0 0.001; KL f=4, seed=1 0.003 (best at the end of the candidates)" in note
    assert not [note for note in notes_of(study, study.frame, "evaluation") if "earning rates" in note]


@pytest.mark.long
def test_a_found_rate_is_a_choice_beside_one_that_was_given(found, study):
    both = replace(found, frame=pd.concat([study.frame, found.frame], ignore_index=True))
    assert "learning rate rule" in markdown(both).split("## Cells")[1].split("\n## ")[0]
