"""Curves over training compute: known laws are found, they cross where they cross, what nobody measured is marked."""

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.optimize import brentq, curve_fit
from synthetic_store import Recipe, build
from test_limits import KERNEL

from analysis.advice import _outlook, _unspent
from analysis.answer import answers
from analysis.budgets import read
from analysis.collect import Study, read_study
from analysis.crossings import POWERS, REACH, chances_at, crossings, fit, race
from analysis.figures import FIGURES, figures_of
from analysis.figures.findings import of_race
from analysis.milestones import with_flops
from analysis.style import COLOUR_OF_F

EQUAL = Recipe(regularisers=("kl",), factors=(4, 8), steps=(20,), budget="flops")
SPENT = 1.5e14
"""FLOPs of diffusion training of each cell."""


def early(budget):
    """A law that falls fast and stays; `budget` in units of `SPENT`."""
    return 0.05 + 0.01 * budget**-0.5


def late(budget):
    """A law that begins higher and ends lower."""
    return 0.02 + 0.06 * budget**-0.5


LAWS = {8: early, 4: late}
CROSSED = (0.05 / 0.03) ** 2
"""Where they cross: 0.03 = 0.05 C^-0.5."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    build(store, EQUAL)
    return read_study(store)


def following(study: Study, laws, half=0.0005, noise=None) -> Study:
    """The study whose milestones follow these laws by f, with intervals of `half` to either side."""
    frame = study.frame.copy()
    own = (frame["stage"] == "progress") & (frame["metric"] == KERNEL)
    spent = with_flops(study, frame[own])["spent"]
    for index, budget in spent.items():
        value = laws[int(frame.loc[index, "f"])](budget / SPENT)
        value += 0.0 if noise is None else noise.normal(0, half / 1.96)
        frame.loc[index, ["value", "ci_low", "ci_high"]] = value, value - half, value + half
    return dataclasses.replace(study, frame=frame)


@pytest.mark.parametrize("power", [POWERS[0], POWERS[20], POWERS[-1]])
def test_a_known_law_is_found(power):
    x = np.geomspace(1 / 32, 1, 6)
    values = 0.3 + 1.7 * x**-power
    [law] = fit(x, values[None], np.full(6, 0.01), 0.0)
    assert law == pytest.approx([0.3, 1.7, power], rel=1e-6)


def test_no_law_falls_below_what_is_possible_or_rises():
    x = np.geomspace(1 / 32, 1, 6)
    values, error = 0.3 + 1.7 * x**-0.5, np.geomspace(0.03, 0.01, 6)
    [law] = fit(x, values[None], error, 1.2)
    bounds = ([1.2, 0, POWERS[0]], [np.inf, np.inf, POWERS[-1]])
    other, _ = curve_fit(lambda x, a, b, c: a + b * x**-c, x, values, [1.3, 1, 0.5], error, bounds=bounds)
    assert law == pytest.approx(other, rel=0.01)
    [law] = fit(x, (1 - 0.5 * x**-0.1)[None], np.full(6, 0.01), 0.0)
    assert law[1] == 0


def test_two_known_laws_cross_where_they_do(study):
    found = race(following(study, LAWS))
    [one] = crossings(found)
    assert brentq(lambda c: early(c) - late(c), 1, 10) == pytest.approx(CROSSED)
    assert one.at == pytest.approx(CROSSED * SPENT, rel=0.02)
    assert one.low < CROSSED * SPENT < one.high
    assert (one.first, one.then, one.is_extrapolated) == ("KL f=8", "KL f=4", True)
    assert one.share > 0.95
    names = [curve.name for curve in found.curves]
    for budget, name in ((0.2, "KL f=8"), (1.0, "KL f=8"), (8.0, "KL f=4")):
        assert found.chances[names.index(name), found.place(budget * SPENT)] > 0.95
    at = chances_at(found, dict.fromkeys(names, CROSSED * SPENT))
    assert list(at.values()) == pytest.approx([0.5, 0.5], abs=0.15)


def test_a_crossing_among_the_milestones_is_not_extrapolated(study):
    laws = {f: lambda budget, law=law: law(8 * budget) for f, law in LAWS.items()}
    [one] = crossings(race(following(study, laws)))
    assert one.at == pytest.approx(CROSSED / 8 * SPENT, rel=0.03)
    assert not one.is_extrapolated


def test_curves_that_do_not_cross_have_no_crossing(study):
    found = race(following(study, {8: early, 4: lambda budget: early(budget) + 0.01}))
    assert crossings(found) == []
    assert found.budgets[-1] == pytest.approx(REACH * SPENT, rel=0.02)


def test_a_budget_for_each_cell_names_the_best_of_those_it_reaches(study):
    found = race(following(study, LAWS))
    assert chances_at(found, {"KL f=8": SPENT, "KL f=4": SPENT})["KL f=8"] > 0.95
    assert chances_at(found, {"KL f=8": SPENT, "KL f=4": 8 * SPENT})["KL f=4"] > 0.95
    assert chances_at(found, {"KL f=4": SPENT}) == {"KL f=8": 0.0, "KL f=4": 1.0}
    assert set(chances_at(found, {"KL f=8": 1e30, "KL f=4": 1.0}).values()) == {0.0}


def test_a_crossing_after_the_budget_that_all_had_is_said_though_it_was_measured(tmp_path):
    """f = 16 spends an eighth of what f = 4 does and never leads; f = 2 overtakes f = 4 before either of them ends."""
    build(tmp_path, dataclasses.replace(EQUAL, budget="images", factors=(2, 4, 16)))
    study = read_study(tmp_path)
    worst = {16: lambda budget: 0.5 + 0.01 * budget**-0.3}
    laws = {4: lambda budget: early(6 * budget), 2: lambda budget: late(6 * budget), **worst}
    found = race(following(study, laws))
    [one] = crossings(found)
    assert one.at == pytest.approx(CROSSED / 6 * SPENT, rel=0.05)
    assert (one.at > 2 * found.spent, one.is_extrapolated) == (True, False)
    told = _outlook(study, found)
    assert "KL f=2 overtakes KL f=4 at about 3.7 times that" in told
    assert "at 4 times that (extrapolated for KL f=16) KL f=" in told
    parallel = race(following(study, {4: early, 2: lambda budget: early(budget) + 0.01, **worst}))
    assert "the lead does not change by the fits within 16 times that" in _outlook(study, parallel)


def test_extrapolated_is_said_of_the_curves_that_end_before(tmp_path):
    build(tmp_path, dataclasses.replace(EQUAL, budget="images", factors=(2, 8)))
    study = read_study(tmp_path)
    found = race(study)
    assert max(curve.spent[-1] for curve in found.curves) > 4 * found.spent  # 8 times
    assert "at 4 times that (extrapolated for KL f=8) KL f=" in _outlook(study, found)


@pytest.mark.long
def test_the_outlook_says_that_another_training_may_change_it(study, tmp_path):
    assert "for these trainings: another seed may change it." in _outlook(study, race(study))
    build(tmp_path, dataclasses.replace(EQUAL, seeds=(0, 1), ae_seeds=(0, 1)))
    seeds = read_study(tmp_path)
    assert race(seeds).unknown == ""
    assert "another seed" not in _outlook(seeds, race(seeds))


@pytest.mark.long
def test_a_budget_before_a_curve_is_known_names_the_cells_left_out(tmp_path):
    """The law of f = 4 begins at an eighth of its training."""
    build(tmp_path, dataclasses.replace(EQUAL, nearer=0.5))
    laws = {8: early, 4: lambda budget: late(max(budget, 0.12))}
    study = following(read_study(tmp_path), laws)
    found = race(study)
    [four] = [curve for curve in found.curves if curve.f == 4]
    [eight] = [curve for curve in found.curves if curve.f == 8]
    budget = four.share + 0.8 * four.known[0]
    assert budget - eight.share > eight.known[0]
    [said] = told(study, budget)
    assert said.endswith(
        "only KL f=8 is known by the fitted curves (not known that early: KL f=4): no probability can be given."
    )
    [said] = told(study, 1.0)
    assert "no cell is known by the fitted curves (not known that early: KL f=" in said
    [said] = told(study, four.share + 1.2 * four.known[0])
    assert "not known" not in said
    assert "for these trainings: another seed may change it." in said


def told(study, flops):
    """What is said of a budget of training that is all spent on one cell."""
    [answer] = answers(study, budgets=read([f"{flops} FLOPs"]))
    return _unspent(study, answer)


def test_noise_that_cells_share_does_not_blur_their_order(study):
    """Intervals as wide as the whole difference, but of the same reference images."""
    study = following(study, {8: early, 4: lambda budget: early(budget) + 0.002}, half=0.008)
    assert 0.5 < race(study).chances[0, 100] < 0.95 or 0.5 < race(study).chances[1, 100] < 0.95
    frame = study.frame.copy()
    own = frame.index[(frame["stage"] == "progress") & (frame["metric"] == KERNEL)]
    block = 0.008 / 1.96 / math.sqrt(20)
    for index in own:
        frame.at[index, "deviations"] = ((block,) * 20,)
    frame.loc[own, "alone"] = 1e-9
    assert race(dataclasses.replace(study, frame=frame)).chances.max(axis=0)[100] > 0.99


def test_milestones_before_anything_was_learnt_are_left_out(study):
    """The law begins at an eighth of the training; before, the distance stands still."""
    learning = {8: early, 4: lambda budget: late(max(budget, 0.12))}
    [four] = [curve for curve in race(following(study, learning)).curves if curve.f == 4]
    assert four.fitted < len(four.spent)
    assert four.laws[0] == pytest.approx([0.02, 0.06, 0.5], abs=0.03)
    [four] = [curve for curve in race(following(study, LAWS)).curves if curve.f == 4]
    assert (four.fitted, four.misfit) == (len(four.spent), 1.0)


def test_what_no_law_fits_has_wider_errors(study):
    bumpy = {8: early, 4: lambda budget: late(budget) + 0.01 * math.sin(3 * math.log2(budget))}
    [four] = [curve for curve in race(following(study, bumpy)).curves if curve.f == 4]
    assert four.misfit > 3
    [plain] = [curve for curve in race(following(study, LAWS)).curves if curve.f == 4]
    at = np.array([4 * SPENT])
    assert np.std(four.at(at)) > 3 * np.std(plain.at(at))


def test_nothing_is_carried_on_without_enough_milestones_or_where_more_is_better(study):
    frame = study.frame[~study.frame["images_seen"].isin([3_000, 6_000, 1_500, 4_243, 8_485])]
    frame = frame[(frame["stage"] != "progress") | (frame.groupby("model")["images_seen"].rank("dense") > 20)]
    few = dataclasses.replace(study, frame=frame)
    assert race(few) is None
    assert "crossings" not in figures_of(few)
    higher = study.frame.copy()
    higher["higher_is_better"] = higher["higher_is_better"].where(higher["stage"] != "progress", True)
    assert race(dataclasses.replace(study, frame=higher)) is None


@pytest.mark.long
def test_the_figure_dashes_and_shades_what_nobody_measured(study):
    figure = FIGURES["crossings"].draw(following(study, LAWS))
    above, below = figure.axes
    for axes in (above, below):
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
        for f in (4, 8):
            own = [line for line in lines if to_hex(line.get_color()) == COLOUR_OF_F[f]]
            solid, dashed = sorted(own, key=lambda line: line.get_linestyle() == "--")
            assert max(solid.get_xdata()) <= SPENT * 1.001
            assert max(dashed.get_xdata()) == pytest.approx(REACH * SPENT, rel=0.02)
            assert dashed.get_linestyle() == "--"
            assert min(dashed.get_xdata()) == max(solid.get_xdata())
        [shade] = [patch for patch in axes.patches if patch.get_x() == pytest.approx(SPENT, rel=0.02)]
        assert shade.get_x() + shade.get_width() == pytest.approx(REACH * SPENT, rel=0.02)
    assert "not measured of all" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.long
def test_a_curve_that_led_and_has_no_chance_left_is_named_where_it_led(study):
    followed = following(study, LAWS)
    _, below = FIGURES["crossings"].draw(followed).axes
    places = {text.get_text(): text.xy[0] for text in below.texts}
    lead, last = (next(name for name in places if name.endswith(f"f={f}")) for f in (8, 4))
    assert places[lead] <= CROSSED * SPENT < places[last]
    found = race(followed)
    assert [float(chance[-1]) < 0.03 for chance in found.chances] == [curve.f == 8 for curve in found.curves]


@pytest.mark.long
def test_the_title_names_no_cell_that_something_limits(study):
    """One curve still falls fast at its end, which is a limit; the other does not, and is the best."""
    ended = {8: lambda budget: 0.03 + 0.0004 * budget**-0.3, 4: lambda budget: late(budget) + 0.02}
    figure = FIGURES["crossings"].draw(following(study, ended))
    assert figure.words.title == "KL f=8 is best at 1.5e14 FLOPs (provisional)"
    behind = {8: lambda budget: 0.2 + 0.0004 * budget**-0.3, 4: late}
    figure = FIGURES["crossings"].draw(following(study, behind))
    assert figure.words.title == "Which cell is best after how much training?"
    assert figure.words.notes[0].startswith("Something limits KL f=4 (table.md)")


def test_seeds_are_one_curve_whose_scatter_counts(tmp_path):
    build(tmp_path, dataclasses.replace(EQUAL, seeds=(0, 1, 2)))
    study = read_study(tmp_path)
    frame = study.frame.copy()
    own = frame["stage"] == "progress"
    for seed, off in ((0, -0.004), (1, 0.0), (2, 0.004)):
        for column in ("value", "ci_low", "ci_high"):
            frame.loc[own & (frame["seed"] == seed), column] += off
    apart = race(dataclasses.replace(study, frame=frame))
    alike = race(study)
    assert [curve.trainings for curve in apart.curves] == [3, 3]
    at = np.array([SPENT])
    for one, other in zip(apart.curves, alike.curves, strict=True):
        assert np.std(one.at(at)) > 1.3 * np.std(other.at(at))


@pytest.mark.slow
def test_intervals_of_crossings_hold_the_truth(study):
    """Over 200 simulated studies the 95 % interval of the crossing leaves it out in no more than chance allows."""
    random, inside = np.random.default_rng(5), 0
    for _ in range(200):
        told = crossings(race(following(study, LAWS, noise=random)))
        assert len(told) == 1
        inside += told[0].low < CROSSED * SPENT < told[0].high
    assert inside >= 181  # 190 expected, three deviations below


def test_a_cell_whose_curve_begins_later_is_named_where_another_is_called_best(tmp_path):
    """The best of those that are known is the best of these alone."""
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4, 8), steps=(20,), budget="flops"))
    study = read_study(tmp_path)
    found = race(study)
    assert not found.late
    assert "not known" not in of_race(found) + _outlook(study, found)
    first, *others = found.values
    unmeasured = np.where(np.arange(len(found.budgets)) < len(found.budgets) - 1, np.inf, first)
    held, name = dataclasses.replace(found, values=(unmeasured, *others)), found.curves[0].name
    assert held.late == [name]
    assert f"({name} not known yet)" in of_race(held)
    assert f"had (not known that early: {name})" in _outlook(study, held)


@pytest.mark.long
def test_points_that_no_fit_uses_are_hollow_in_the_chart_too(tmp_path, monkeypatch):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4, 8, 16), steps=(20,), budget="flops"))
    study = read_study(tmp_path)
    found = race(study)
    fitted = tuple(dataclasses.replace(curve, fitted=4 + at) for at, curve in enumerate(found.curves))
    monkeypatch.setattr("analysis.figures.crossings.race", lambda *_: dataclasses.replace(found, curves=fitted))
    kept = FIGURES["crossings"].draw(study).planes[0].series
    outlined = {one.name: list(one.hollow) for one in kept if one.hollow}
    for curve in fitted:
        early = len(curve.spent) - curve.fitted
        assert outlined[curve.name] == ["too early for the fit"] * early + [""] * curve.fitted
    assert any(map(any, outlined.values()))
