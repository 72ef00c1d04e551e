"""What a shortlist saved and risked: probabilities that come true over simulated stores, and costs in closed form."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import multivariate_t, norm, rankdata
from synthetic_store import Recipe, build

from analysis import shortlist
from analysis.collect import read_study
from analysis.plot_tradeoffs import draw
from analysis.shortlist import cost, markdown, risk
from ldm.errors import UserError
from ldm.records import Shortlist, sealed, write_json

N, KEPT, CONTROLS = 16, 4, 4


def simulated(random, rho):
    """A grid whose outcomes follow the predictor with correlation rho; which were kept, and which trained at all."""
    x = random.normal(size=N)
    y = rho * x + math.sqrt(1 - rho**2) * random.normal(size=N)
    order = np.argsort(x)
    kept, trained = np.zeros(N, bool), np.zeros(N, bool)
    kept[order[:KEPT]] = True
    trained[order[:KEPT]] = trained[random.permutation(order[KEPT:])[:CONTROLS]] = True
    return x, y, kept, trained


def of(x, y, kept, trained, error=0.0):
    return risk(x, np.where(trained, y, np.nan), np.full(len(x), error), kept)


@pytest.mark.long
def test_probabilities_come_true(monkeypatch):
    """Over stores whose predictors are of any worth: among those with such a probability, so many lost their best."""
    monkeypatch.setattr(shortlist, "LINES", 200)
    monkeypatch.setattr(shortlist, "ERRORS", 1)
    random = np.random.default_rng(0)
    told, came, covered = [], [], []
    for _ in range(800):
        grid = simulated(random, random.uniform(0, 0.95))
        found, (_, y, kept, _) = of(*grid), grid
        told.append(found.pruned.value)
        came.append(y[~kept].min() < y[kept].min())
        covered.append(found.regret.low <= y[kept].min() - y.min() <= found.regret.high)
    told, came = np.array(told), np.array(came)
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)):
        own = (told >= low) & (told < high)
        assert own.sum() > 50
        spread = math.sqrt(max(told[own].mean() * (1 - told[own].mean()), 0.01) / own.sum())
        assert came[own].mean() == pytest.approx(told[own].mean(), abs=3 * spread + 0.03)
    assert 0.93 <= np.mean(covered) <= 1


@pytest.mark.parametrize("rho", [0.2, 0.9])
def test_it_is_the_probability_under_students_predictive_distribution(rho):
    """That of the outcomes that were not seen, in closed form, of which scipy draws."""
    x, y, kept, _ = simulated(np.random.default_rng(5), rho)
    trained = kept.copy()
    trained[np.argsort(x)[[6, 9, 12]]] = True
    y[trained & ~kept] = y[kept].max()  # so that no control is the best
    score = norm.ppf((rankdata(x) - 0.375) / (N + 0.25))
    design, beyond = (np.column_stack([np.ones(own.sum()), score[own]]) for own in (trained, ~trained))
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ y[trained]
    variance = ((y[trained] - design @ fitted) ** 2).sum() / (trained.sum() - 2)
    shape = variance * (np.eye(len(beyond)) + beyond @ inverse @ beyond.T)
    drawn = multivariate_t(beyond @ fitted, shape, df=trained.sum() - 2, seed=1).rvs(40_000)
    expected = (drawn.min(axis=1) < y[kept].min()).mean()
    regret = np.median(np.maximum(y[kept].min() - drawn.min(axis=1), 0))
    found = of(x, y, kept, trained)
    assert found.pruned.value == pytest.approx(expected, abs=0.02)
    assert found.regret.value == pytest.approx(regret, abs=0.1 * regret + 0.02)
    assert found.pruned.low <= found.pruned.value <= found.pruned.high


def test_an_exact_predictor_loses_nothing_and_a_better_control_is_a_loss():
    x = norm.ppf((np.arange(N) + 1 - 0.375) / (N + 0.25))
    kept = np.arange(N) < KEPT
    trained = kept | (np.arange(N) % 5 == 0)
    noise = 1e-3 * np.random.default_rng(0).normal(size=N)
    sure = of(x, x + noise, kept, trained)
    assert sure.pruned.high < 1e-6
    assert sure.regret.value == 0
    y = x + noise
    y[10] = x[0] - 3
    lost = of(x, y, kept, trained)
    assert lost.pruned.value == 1
    assert lost.regret.low >= 3 - 0.01


def test_errors_of_what_was_trained_blur_a_control_that_is_hardly_better():
    x = norm.ppf((np.arange(8) + 1 - 0.375) / 8.25)
    y = np.array([0.0, 1, 2, 3, 4, 5, 6, -0.01])
    kept = np.arange(8) < 2
    everything = np.ones(8, bool)
    assert of(x, y, kept, everything).pruned.value == 1
    assert of(x, y, kept, everything, error=0.5).pruned.value == pytest.approx(0.5, abs=0.15)


def test_too_few_are_refused():
    trained = np.arange(N) < 3
    with pytest.raises(ValueError, match="need 4 outcomes, there are 3"):
        of(np.arange(float(N)), np.arange(float(N)), trained, trained)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store of eight first stages, of which five were trained on; the samples of the others were never made."""
    path = tmp_path_factory.mktemp("store")
    sweep = build(path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(10,), ae_seeds=(0, 1, 2, 3)))
    by_place = {(cell.axes["f"], cell.axes["ae_seed"]): cell.stages["first_stage"] for cell in sweep.cells}
    first = [by_place[place] for place in sorted(by_place)]
    predicted = {identity: float(place) for place, identity in enumerate(first)}
    choice = Shortlist("abc", "now", "latent_roughness", True, 0, predicted, tuple(first[:3]), (first[4], first[6]))
    write_json(path / "shortlists" / "abc.json", sealed(choice.to_json()))
    found = read_study(path)
    pruned = found.frame["first_stage"].isin(choice.pruned) & (found.frame["stage"] == "evaluation")
    return dataclasses.replace(found, frame=found.frame[~pruned]), choice


def test_costs_are_those_of_the_records(study):
    """Of the synthetic store: all first stages and their latents; diffusion and samples of five, and of three saved."""
    found, choice = study
    spent = cost(choice, found.finished)
    seconds = {f: 20 + 400 / f + 512 * (0.002 * 10 / f**1.2 + 0.0005) for f in (4, 8)}
    assert spent.predicting.seconds == pytest.approx(4 * (60 + 4) + 4 * (60 + 8) + 8 * 4)
    assert spent.training.seconds == pytest.approx(3 * seconds[4] + 2 * seconds[8])
    assert spent.saved.seconds == pytest.approx(seconds[4] + 2 * seconds[8])
    flops = {f: 1.2e15 / f**1.5 + 512 * 4e8 * 10 / f**1.5 for f in (4, 8)}
    assert spent.saved.flops == pytest.approx(flops[4] + 2 * flops[8])


def test_a_nested_training_counts_as_the_first_stages_that_it_made(study):
    found, choice = study
    nested = [
        dataclasses.replace(one, record=dataclasses.replace(one.record, stage="nested"))
        if one.record.stage == "first_stage"
        else one
        for one in found.finished
    ]
    assert cost(choice, nested) == cost(choice, found.finished)


def test_the_page_says_the_rule_the_cost_the_risk_and_every_first_stage(study):
    found, choice = study
    page = markdown(found)
    assert "8 first stages, ranked by `latent_roughness`, the lowest first (taken on trust" in page
    assert "of the FLOPs and" in page
    assert "the best of all 8 is not among the kept with probability 0." in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [line.split("|")[1].strip(" `") for line in rows] == sorted(choice.predicted, key=choice.predicted.get)
    assert [line.split("|")[4].strip() for line in rows] == [
        *("kept", "kept", "kept", "pruned", "control", "pruned", "control", "pruned")
    ]  # fmt: skip
    assert [line.split("|")[5].strip() == "–" for line in rows] == [False, False, False, True, False, True, False, True]


def test_without_samples_it_says_what_is_missing(study):
    found, _ = study
    without = dataclasses.replace(found, frame=found.frame[found.frame["stage"] != "evaluation"])
    assert "let the sweep run to its end" in markdown(without)


@pytest.mark.slow
def test_it_is_written_where_a_store_holds_a_choice(study, tmp_path):
    [store] = study[0].stores
    assert "shortlist.md" in {path.name for path in draw(store, tmp_path / "out", None, False)}


def test_a_store_without_a_choice_has_none_and_a_damaged_one_is_refused(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(10,)))
    assert shortlist.choices(read_study(tmp_path)) == []
    (tmp_path / "shortlists").mkdir()
    (tmp_path / "shortlists" / "abc.json").write_text("{}")
    with pytest.raises(UserError, match="remove it, and run the sweep again to choose anew"):
        shortlist.choices(read_study(tmp_path))
