"""Coded latents in the rate-distortion figure: a dotted line of steps for each KL first stage."""

import pytest
from matplotlib.colors import to_hex
from synthetic_store import Recipe, build, distortion, rate

from analysis import style
from analysis.collect import read_study
from analysis.figures import FIGURES


def dotted(study):
    """The dotted lines of the figure by their colour."""
    left, _ = FIGURES["rate_distortion"].draw(study).axes
    found = {}
    for line in left.get_lines():
        if line.get_linestyle() == ":":
            found.setdefault(to_hex(line.get_color()), []).append(line)
    return found


@pytest.mark.long
def test_steps_are_a_line_in_the_colour_of_their_f(tmp_path):
    build(tmp_path, Recipe(factors=(1, 4, 8), steps=(5,), on_request=True))
    found = dotted(read_study(tmp_path))
    for f in (4, 8):
        [line] = found[style.colour(f)]
        r, rmse = rate("kl", f), distortion("kl", f)
        assert list(line.get_xdata()) == pytest.approx([r / 0.5, r])
        assert list(line.get_ydata()) == pytest.approx([rmse + 0.5, rmse + 1])
    assert style.colour(1) not in found


@pytest.mark.long
def test_without_coding_there_are_none(tmp_path):
    build(tmp_path, Recipe(factors=(4,), steps=(5,)))
    assert style.colour(4) not in dotted(read_study(tmp_path))
