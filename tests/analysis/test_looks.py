"""What nobody has set a look for gets one of its own, in the order in which it appears."""

import pytest
from matplotlib.colors import to_hex
from synthetic_store import Recipe, build

from analysis import looks
from analysis.collect import read_study
from analysis.figures import FIGURES


def test_new_regularisers_have_markers_of_their_own_behind_those_that_are_set():
    found = looks.families(["mine", "identity", "yours", "kl", "mine", ""])
    assert list(found) == ["kl", "identity", "mine", "yours"]
    assert {name: found[name] for name in ("kl", "identity")} == {n: looks.FAMILIES[n] for n in ("kl", "identity")}
    assert len({look.marker for look in found.values()}) == 4
    assert found["mine"].line != found["yours"].line
    assert [key.get_label() for key in looks.family_keys(found, ["yours", "kl"])] == ["KL", "yours"]


def test_every_regulariser_of_the_program_has_a_look_of_its_own():
    new = [f"new{index}" for index in range(4)]
    found = looks.families([*looks.FAMILIES, *new])
    assert {"kl", "vq", "fsq", "lfq", "bsq", "identity"} == looks.FAMILIES.keys()
    assert len({look.marker for look in found.values()}) == len(found)
    lines = [look.line for name, look in found.items() if name != "identity"]
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("coloured", [looks.samplers, looks.codecs])
def test_new_samplers_and_codecs_have_colours_of_their_own(coloured):
    names = [f"new{index}" for index in range(len(looks.COLOURS))]
    found = coloured(names)
    assert len({look.colour for look in found.values()}) == len(names)
    assert not {look.colour for look in found.values()} & {
        look.colour for known in (looks.SAMPLERS, looks.CODECS) for look in known.values()
    }
    assert coloured(names[:2]) == {name: found[name] for name in names[:2]}


@pytest.mark.long
def test_a_new_sampler_is_a_line_in_its_own_colour(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5, 10), samplers=("ddim", "mine", "yours")))
    study = read_study(tmp_path)
    expected = looks.samplers(study.frame["sampler"])
    assert [expected[name].name for name in ("ddim", "mine", "yours")] == ["DDIM", "mine", "yours"]
    axes = FIGURES["quality_vs_nfe"].draw(study).axes[0]
    drawn = {to_hex(line.get_color()) for line in axes.get_lines() if len(line.get_xdata()) == 2}
    assert {expected[name].colour for name in ("ddim", "mine", "yours")} <= drawn
