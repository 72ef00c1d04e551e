"""The figure of the error at noise levels: one line a model, at its last milestone, over the bins' centres."""

from dataclasses import replace

import pytest
from synthetic_store import Recipe, build

from analysis.collect import read_study
from analysis.figures import figures_of
from analysis.figures.error_by_level import LevelCurve, level_curves, marks

TOLD = {"log_snr": [[-4, -2], [-2, 0], [0, 2]], "images_seen": [100, 200], "errors": [[0.9, 0.8, 0.7], [0.5, 0.4, 0.6]]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The records of likelihood, made those of errors at noise levels."""
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), on_request=True))
    found = read_study(path)
    finished = (
        replace(one, record=replace(one.record, facts={"level_error": TOLD}))
        if one.record.stage == "likelihood"
        else one
        for one in found.finished
    )
    return replace(found, finished=tuple(finished))


@pytest.mark.long
def test_each_model_has_a_line_of_its_last_milestone(study):
    curves = level_curves(study)
    assert [(curve.f, curve.n) for curve in curves] == [(1, 100), (4, 100)]
    [axes] = figures_of(study)["error_by_level"](study).axes
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[-3, -1, 1]] * 2
    assert [list(line.get_ydata()) for line in lines] == [[0.5, 0.4, 0.6]] * 2


def test_without_the_measurement_there_is_no_such_figure(study):
    bare = replace(study, finished=tuple(one for one in study.finished if one.record.stage != "likelihood"))
    assert "error_by_level" not in figures_of(bare)


def test_models_of_one_colour_have_marks_of_their_own_and_their_seeds_share_them():
    told = [("a", 4, "kl"), ("b", 4, "kl"), ("a", 4, "kl"), ("c", 8, "kl"), ("b", 4, "vq")]
    assert marks([LevelCurve(*one, (), (), 1) for one in told]) == ["o", "^", "o", "o", "o"]
