"""Coded latents in the rate-distortion figure: a dotted line of steps for each KL first stage."""

import pytest
from matplotlib.colors import to_hex
from synthetic_store import Recipe, build, distortion, rate

from analysis import style
from analysis.collect import read_study
from analysis.figures import FIGURES


def dotted(study, f):
    left, _ = FIGURES["rate_distortion"].draw(study).axes
    return [
        line for line in left.get_lines() if line.get_linestyle() == ":" and to_hex(line.get_color()) == style.colour(f)
    ]


def test_steps_are_a_line_in_the_colour_of_their_f(tmp_path):
    build(tmp_path, Recipe(factors=(1, 4, 8), steps=(5,), on_request=True))
    study = read_study(tmp_path)
    for f in (4, 8):
        [line] = dotted(study, f)
        r, rmse = rate("kl", f), distortion("kl", f)
        assert list(line.get_xdata()) == pytest.approx([r / 0.5, r])
        assert list(line.get_ydata()) == pytest.approx([rmse + 0.5, rmse + 1])
    assert not dotted(study, 1)


def test_without_coding_there_are_none(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,)))
    assert not dotted(read_study(tmp_path), 4)
