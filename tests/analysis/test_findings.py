"""Titles say what comparisons say: the best where it is told apart, else a tie; rings are around the same cells."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from synthetic_store import Recipe, build, kernel_distance

from analysis import style
from analysis.budgets import Spent
from analysis.collect import read_study
from analysis.compare import Measured, Training
from analysis.crossings import Curve, Race
from analysis.figures import FIGURES, findings
from analysis.figures.panels import RINGED
from analysis.figures.standing import Contender, Standing, of_samples
from analysis.headline import Headline, headline


def _study(path, **recipe):
    build(path, Recipe(**recipe))
    return read_study(path)


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    """The cell at f = 4 and 20 steps is far ahead, and known so from one training each."""
    path = tmp_path_factory.mktemp("clear")
    return _study(path, regularisers=("kl",), factors=(1, 4, 16), steps=(5, 20))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """Trainings scatter so far that nothing is known of any cell."""
    path = tmp_path_factory.mktemp("tied")
    return _study(path, regularisers=("kl",), factors=(4, 8, 16), steps=(10,), seeds=(0, 1, 2), scatter=0.03)


def _rings(axes):
    return {
        (float(x), round(float(y), 9))
        for line in axes.get_lines()
        if line.get_markersize() == style.RING["markersize"]
        for x, y in zip(*line.get_data(), strict=True)
    }


@pytest.mark.long
def test_the_best_cell_is_said_and_ringed_where_it_is_told_apart(clear):
    figure = FIGURES["quality_vs_f"].draw(clear)
    assert figure.words.title == "Samples are best at f = 4 (provisional)"
    assert figure.words.notes[0] == "The order is provisional: training variance unknown."
    best = round(kernel_distance("kl", 4, 20), 9)
    assert _rings(figure.axes[0]) == {(4.0, best)}
    assert "best" in [text.get_text() for text in figure.legends[0].get_texts()]
    # The chart of the page has the ring too.
    [ring] = [one for plane in figure.planes for one in plane.series if one.name == RINGED]
    assert (ring.marker, ring.rows["value"].round(9).tolist()) == ("ring", [best])
    speed = FIGURES["quality_vs_throughput"].draw(clear)
    assert speed.words.title == "KL f = 4, 20 steps is best; what is faster is worse (provisional)"
    assert {y for _, y in _rings(speed.axes[0])} == {best}
    front = FIGURES["front"].draw(clear)
    assert front.words.title == "KL f = 4, 20 steps is the best, at these costs (provisional)"
    # Steps, as in print: less compute is better, and more images a second.
    assert [one.shape for plane in front.planes for one in plane.series if one.line] == ["hv", "vh"]


@pytest.mark.long
def test_milestones_are_compared_among_themselves(clear):
    figure = FIGURES["quality_vs_training"].draw(clear)
    assert figure.words.title == "Samples are best at f = 4 (provisional)"
    assert _rings(figure.axes[0]) == {(48_000.0, round(kernel_distance("kl", 4, 10), 9))}
    at_budgets = FIGURES["quality_at_budgets"].draw(clear)
    assert at_budgets.words.title == "Samples are best at f = 4, at all budgets (provisional)"


@pytest.mark.long
def test_a_tie_is_no_rank(tied):
    figure = FIGURES["quality_vs_f"].draw(tied)
    assert figure.words.title == findings.NO_CELL
    points = of_samples(tied, headline(tied.frame)).compared
    assert len(_rings(figure.axes[0])) == len(points) >= 2
    assert "not distinguishable from the best" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert FIGURES["quality_vs_throughput"].draw(tied).words.title.startswith(f"{findings.NO_CELL}; fastest: KL f = 16")
    assert FIGURES["front"].draw(tied).words.title == f"{findings.NO_CELL}: take the cheapest"


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        ({"factors": (4,)}, "Sample quality against compression"),
        ({"factors": (4, 16), "scale": "tiny"}, "Sample quality against compression (scale=tiny: no numbers to go by)"),
    ],
)
def test_titles_are_neutral_where_nothing_is_compared(tmp_path, recipe, title):
    figure = FIGURES["quality_vs_f"].draw(_study(tmp_path, regularisers=("kl",), steps=(5,), **recipe))
    assert figure.words.title == title
    assert not _rings(figure.axes[0])


def test_metrics_without_a_better_end_have_no_best(clear):
    metric = dataclasses.replace(headline(clear.frame), higher_is_better=None)
    assert of_samples(clear, metric) == Standing()


def _cell(family, f, steps=10, speed=1.0):
    row = {"f": f, "regulariser": family.lower(), "nfe": steps, "images_seen": np.nan}
    return Contender(f"{family} f = {f}, {steps} steps", row, Spent(1e15, 1.0, speed, 1.0), frozenset({f"{family}{f}"}))


KL4, KL8, VQ4, VQ8 = (_cell(family, f, speed=f) for family in ("KL", "VQ") for f in (4, 8))
ALL = (KL4, KL8, VQ4, VQ8)


@pytest.mark.parametrize(
    ("best", "title"),
    [
        ((KL4,), "Samples are best at f = 4 with KL"),
        ((KL4, VQ4), "Samples are best at f = 4"),
        ((KL4, KL8), "Samples are best with KL, at no f alone"),
        ((KL4, VQ8), "Samples are best at no f alone: all f are tied"),
        (ALL, findings.NO_CELL),
        ((), "neutral"),
    ],
)
def test_titles_name_what_the_best_have_in_common(best, title):
    assert findings.of_factors(Standing(ALL, best), "neutral") == title


def test_tied_factors_are_named_and_others_are_not():
    others = (*ALL, _cell("KL", 16))
    assert findings.of_factors(Standing(others, (KL4, KL8)), "") == "Samples are best at f = 4 or 8 with KL, tied"
    three = Standing((*others, _cell("KL", 32)), (KL4, KL8, _cell("KL", 16)))
    assert findings.of_factors(three, "") == "Samples are best at f = 4, 8 or 16 with KL, tied"


@pytest.mark.parametrize(
    ("best", "title"),
    [
        ((KL4,), "KL f = 4, 10 steps is best; what is faster is worse"),
        ((KL8,), "KL f = 8, 10 steps is best, and fastest"),
        ((KL4, KL8), "2 cells tie for best; fastest: KL f = 8, 10 steps"),
        ((KL8, VQ8), "2 cells tie for best, at equal cost"),
        ((KL4, KL8, VQ8), "3 cells tie for best; fastest: KL f = 8, 10 steps and VQ f = 8, 10 steps"),
    ],
)
def test_titles_of_costs_name_the_cheapest_of_the_best(best, title):
    assert findings.of_cost(Standing(ALL, best), "neutral", findings.SPEED) == title


def test_budgets_that_change_the_best_are_named():
    small, large = Standing(ALL, (KL8, VQ8)), Standing(ALL, (KL4,), "training variance unknown")
    said = findings.over_budgets({"3 images": small, "48 images": large}, "neutral")
    assert said == "Best after 3 images: f = 8; after 48 images: f = 4 (provisional)"
    assert findings.over_budgets({"3 images": Standing(), "48 images": large}, "neutral") == "neutral"


@pytest.mark.parametrize(
    ("best", "title"),
    [
        (((KL4,), (VQ4,)), "Best after A: f = 4 with KL; after B: f = 4 with VQ"),
        (((KL8,), (KL4,), (KL8,)), "Best after A: f = 8; after B: f = 4; after C: f = 8"),
        (((KL8,), (VQ8,), (KL8,)), "Best after A: f = 8 with KL; after B: f = 8 with VQ; after C: f = 8 with KL"),
        (((KL8,), (VQ8,), (KL4,)), "Best after A: f = 8; after C: f = 4"),
    ],
)
def test_titles_over_budgets_say_what_changes(best, title):
    standings = {name: Standing(ALL, own) for name, own in zip("ABC", best, strict=False)}
    assert findings.over_budgets(standings, "neutral") == title
    standings["A"] = dataclasses.replace(standings["A"], unknown="training variance unknown")
    assert findings.over_budgets(standings, "neutral") == f"{title} (provisional)"


def _race(*chances, trainings=2):
    """Curves that never cross, with these probabilities of being the best at every budget."""
    budgets = 1e14 * np.geomspace(1, 16, 5)
    curves = []
    for index in range(len(chances)):
        runs = {str(seed): Training(1.0 + index + 0.1 * seed, 0.01) for seed in range(trainings)}
        end = Measured(f"KL f={index}", runs, tuple(run.value for run in runs.values()), 500)
        point, laws = np.array([1.0 + index]), np.array([[1.0 + index, 0.0, 1.0]])
        fitted = (budgets[:1], point, point, point, 0.0, 1.0, 0.0, laws, 1, 1.0)
        curves.append(Curve(end.name, index, "kl", frozenset({end.name}), *fitted, end))
    values = tuple(np.full((1, 5), 1.0 + index) for index in range(len(chances)))
    return Race(Headline("kd", 500), tuple(curves), budgets, values, np.repeat(np.array(chances)[:, None], 5, axis=1))


def test_many_curves_that_share_the_probability_are_a_tie():
    assert findings.of_race(_race(*[0.05] * 20)) == f"{findings.NO_CELL} at 1e14 FLOPs"
    few = _race(0.5, 0.3, *[0.02] * 10)
    assert len(findings.contenders(few)) == 12  # ten that are alike are in or out together
    assert findings.contenders(_race(0.5, 0.46, *[0.004] * 10)) == [0, 1]
    assert findings.contenders(_race(0.02, 0.98)) == [1]


def test_a_race_of_single_trainings_is_provisional():
    assert findings.of_race(_race(0.97, 0.03)) == "KL f=0 is best at 1e14 FLOPs"
    assert findings.of_race(_race(0.97, 0.03, trainings=1)) == "KL f=0 is best at 1e14 FLOPs (provisional)"
    tie = findings.of_race(_race(0.5, 0.48, 0.02, trainings=1))
    assert tie == "KL f=0 and KL f=1 tie for best at 1e14 FLOPs (provisional)"


def test_first_stages_that_were_trained_once_make_a_race_provisional():
    found = _race(0.97, 0.03)
    curves = [dataclasses.replace(one, end=dataclasses.replace(one.end, first_stage=one.name)) for one in found.curves]
    assert findings.of_race(dataclasses.replace(found, curves=tuple(curves))).endswith("(provisional)")


@pytest.mark.long
def test_speeds_on_several_machines_say_no_more_of_quality(clear):
    """Each timing repeats a cell's rows in what is drawn; the standing knows each once."""
    rows = clear.frame[clear.frame["stage"] == "evaluation"].drop_duplicates("samples")
    timed = [
        {"samples": row["samples"], "machine": machine, "batch": 8, "precision": "fp32", "is_alone": True}
        | {"repeats": 3, "created": "now", "sample_images_per_second": row["sample_images_per_second"]}
        for row in rows.to_dict("records")
        for machine in "ABCDEF"
    ]
    frame = clear.frame.copy()
    own = (frame["stage"] == "evaluation") & (frame["metric"] == headline(frame).metric) & (frame["steps"] == 20)
    for f, value in {4: 0.015, 16: 0.018}.items():  # p = 0.006, of 15 pairs
        frame.loc[own & (frame["f"] == f), ["value", "ci_low", "ci_high"]] = value, value - 0.0015, value + 0.0015
    study = dataclasses.replace(clear, frame=frame, timings=pd.DataFrame(timed))
    title = FIGURES["quality_vs_throughput"].draw(study).words.title
    assert title == "2 cells tie for best; fastest: KL f = 16, 20 steps (provisional)"


@pytest.mark.long
def test_compute_says_nothing_of_cells_that_it_does_not_draw(clear):
    """Without milestones it draws 20 steps alone, and here the best takes 5."""
    frame = clear.frame[clear.frame["stage"] != "progress"].copy()
    study = dataclasses.replace(clear, frame=frame)
    assert "is best" in FIGURES["quality_vs_compute"].draw(study).words.title
    own = (frame["stage"] == "evaluation") & (frame["metric"] == headline(frame).metric) & (frame["f"] == 4)
    own &= frame["steps"] == 5
    frame.loc[own, ["value", "ci_low", "ci_high"]] = 0.001, 0.0009, 0.0011
    study = dataclasses.replace(clear, frame=frame)
    assert "5 steps is best" in FIGURES["quality_vs_throughput"].draw(study).words.title
    assert FIGURES["quality_vs_compute"].draw(study).words.title == "Sample quality against training compute"
