"""Cells that differ in a key without an axis are told apart, and seeds are still repetitions."""

import dataclasses

import pandas as pd

from analysis.axes import choices
from analysis.older_stores import completed
from analysis.settings import with_settings
from ldm.records import Cell, Sweep

AXES = ("f", "regulariser", "channels", "seed", "ae_seed", "sampler_seed", "ae_settings", "settings")


def cell(name, *overrides, **axes):
    plain = {"f": 4, "regulariser": "kl", "channels": 3, "seed": 0, "ae_seed": 0, "sampler_seed": 0}
    return Cell(name, {**plain, **axes}, overrides, {})


def settings_of(*cells):
    sweep = completed(Sweep("s", "now", "run.py", tuple(cells)))
    [sweep] = with_settings([sweep], AXES)
    return [(c.axes.get("ae_settings"), c.axes.get("settings")) for c in sweep.cells]


def test_keys_that_no_axis_shows_become_one():
    found = settings_of(
        cell("a", "ae.f=4", "ae.kl_weight=1e-6", "trainer.images=100"),
        cell("b", "ae.f=4", "ae.kl_weight=1e-2", "trainer.images=100"),
        cell("c", "ae.f=8", "ae.kl_weight=1e-2", "trainer.images=200", f=8),
        cell("d", "ae.f=8", "ae.kl_weight=1e-2", "trainer.images=100", f=8),
    )
    assert found == [
        ("ae.kl_weight=1e-6", "trainer.images=100"),
        ("ae.kl_weight=1e-2", "trainer.images=100"),
        ("ae.kl_weight=1e-2", "trainer.images=200"),
        ("ae.kl_weight=1e-2", "trainer.images=100"),
    ]


def test_axes_seeds_and_what_makes_no_number_are_left_to_themselves():
    assert (
        settings_of(
            cell("a", "ae.f=4", "seed=0", "store=/one"),
            cell("a", "ae.f=4", "seed=1", "store=/two", seed=1),  # a cell's name holds no training seed
            cell("b", "ae.f=4", "ae.seed=1", ae_seed=1),
            cell("c", "ae.f=8", "+experiment=one", f=8),
            cell("c", "ae.f=8", "+experiment=two", f=8),
        )
        == [(None, None)] * 5
    )


def test_pixels_have_no_first_stage_to_name():
    found = settings_of(
        cell("a", "ae.f=4", "ae.kl_weight=1"),
        cell("b", "ae.f=4", "ae.kl_weight=2"),
        cell("c", "ae.f=1", "ae.kl_weight=1", f=1, regulariser="identity"),
    )
    assert found[2] == (None, None)


def test_cells_that_no_key_tells_apart_bear_their_names():
    assert settings_of(cell("a", "ae.f=4"), cell("b", "ae.f=4")) == [(None, "a"), (None, "b")]


def test_sweeps_are_told_apart_too():
    one = Sweep("one", "now", "run.py", (cell("a", "ae.f=4", "ae.kl_weight=1"),))
    two = dataclasses.replace(one, sweep="two", cells=(cell("b", "ae.f=4"),))
    [[first], [second]] = (
        [c.axes for c in sweep.cells] for sweep in with_settings([completed(one), completed(two)], AXES)
    )
    assert (first["ae_settings"], second.get("ae_settings")) == ("ae.kl_weight=1", None)


def test_guidance_that_was_tuned_is_a_choice_beside_none():
    assert choices(pd.Series(["tuned", None], name="guidance_rule")) == 2
    assert choices(pd.Series(["cfg", None], name="guidance_rule")) == 1  # empty where there is no guidance
