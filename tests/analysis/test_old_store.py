"""A store written before schema 2 (tests/analysis/old_store) gives the results.csv that it gave then, byte for byte."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import axes, older_stores
from analysis.collect import read_study
from analysis.columns import UNPRINTED
from analysis.figures import FIGURES, figures_of
from ldm.records import Choice, Sweep

FOLDER = Path(__file__).with_name("old_store")
STORE = FOLDER / "store"
SWEEPS = {"all": "all", "guidance": "2026-01-02_guidance", "settings": "2026-01-03_settings"}


@pytest.mark.parametrize("name", SWEEPS)
def test_results_are_those_of_the_program_that_wrote_the_store(name):
    expected = (FOLDER / f"results_{name}.csv").read_bytes()
    columns = pd.read_csv(io.BytesIO(expected), nrows=0).columns
    frame = read_study(STORE, SWEEPS[name]).frame.drop(columns=list(UNPRINTED))
    assert list(frame.columns[: len(columns)]) == list(columns)
    assert frame[columns].to_csv(index=False).encode() == expected


def test_the_store_holds_what_later_ones_say_otherwise():
    sweeps = [json.loads(path.read_text()) for path in (STORE / "sweeps").glob("*.json")]
    assert [sweep["schema"] for sweep in sweeps] == [1, 1, 1]
    frame = read_study(STORE, "all").frame
    assert set(older_stores.STAGES) - set(frame["stage"]) == {
        *("other_references", "first_stage", "latents", "diffusion", "tuning", "samples")  # which write no rows
    }
    assert {"tuned", ""} == set(frame["guidance_rule"])
    assert {"ae.kl_weight=0.001", "ae.kl_weight=0.0001"} < set(frame["ae_settings"])
    assert frame["settings"].str.contains("trainer.learning_rate=0.0002").any()


def test_what_is_missing_has_its_cause():
    found = {(gap.goal, gap.stage, gap.failed) for gap in read_study(STORE, "all").missing}
    assert found == {
        ("evaluation", "evaluation", False),
        ("progress", "diffusion", True),
        ("evaluation", "diffusion", True),
    }


@pytest.mark.slow
def test_its_figures_are_drawn():
    study = read_study(STORE, "all")
    drawn = {name: draw(study) for name, draw in figures_of(study).items()}
    # Its trainings have fewer than four milestones; errors at noise levels were not measured, no autoencoders given.
    assert set(drawn) == set(FIGURES) - {"crossings", "error_by_level", "autoencoders"}
    for name, figure in drawn.items():
        assert any(len(axes.get_lines()) > 1 for axes in figure.axes), name
        assert not any("no finished" in text.get_text() for axes in figure.axes for text in axes.texts), name


def test_a_sweep_that_says_its_stages_is_left_alone():
    shape = older_stores.STAGES["probe"]
    named = {"sampler": {"mine": Choice("my sampler")}}
    sweep = Sweep("new", "now", "python run.py", (), stages={"probe": shape}, choices=named)
    assert older_stores.completed(sweep) is sweep


def test_parents_come_first_in_the_frozen_table():
    seen: set[str] = set()
    for name, shape in older_stores.STAGES.items():
        assert set(shape.parents) <= seen
        seen.add(name)
    assert axes.axes_of(older_stores.STAGES).all == older_stores.ALL
