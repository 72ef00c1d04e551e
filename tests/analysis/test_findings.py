"""Titles say what comparisons say: the best where it is told apart, else a tie; rings are around the same cells."""

import dataclasses

import numpy as np
import pytest
from synthetic_store import Recipe, build, kernel_distance

from analysis import style
from analysis.budgets import Spent
from analysis.collect import read_study
from analysis.figures import FIGURES, findings
from analysis.figures.panels import RINGED
from analysis.figures.standing import Contender, Standing, of_samples
from analysis.headline import headline


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
    assert FIGURES["front"].draw(clear).words.title == "KL f = 4, 20 steps is the best, at these costs (provisional)"


def test_milestones_are_compared_among_themselves(clear):
    figure = FIGURES["quality_vs_training"].draw(clear)
    assert figure.words.title == "Samples are best at f = 4 (provisional)"
    assert _rings(figure.axes[0]) == {(48_000.0, round(kernel_distance("kl", 4, 10), 9))}
    at_budgets = FIGURES["quality_at_budgets"].draw(clear)
    assert at_budgets.words.title == "Samples are best at f = 4, at all budgets (provisional)"


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
        ((KL4, KL8), "Samples are best at no f alone: all are tied"),
        (ALL, findings.NO_CELL),
        ((), "neutral"),
    ],
)
def test_titles_name_what_the_best_have_in_common(best, title):
    assert findings.of_factors(Standing(ALL, best), "neutral") == title


def test_tied_factors_are_named_and_others_are_not():
    others = (*ALL, _cell("KL", 16))
    assert findings.of_factors(Standing(others, (KL4, KL8)), "") == "Samples are best at f = 4 or 8 with KL, tied"


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
