"""Axes and parents come from the sweeps: new ones get columns, labels and panels without being named anywhere."""

import json

import pandas as pd
import pytest
from synthetic_store import Recipe, build

from analysis.axes import axes_of, choices_of, needed_by, stages_of
from analysis.collect import read_study
from analysis.columns import COLUMNS
from analysis.figures import FIGURES
from analysis.labels import row_label, varying
from analysis.table import markdown
from ldm.records import Choice, StageShape, Sweep

A = StageShape(("data",), (), is_result=False)
B = StageShape(("data", "f"), ("a",), is_result=False)
C = StageShape(("data", "size", "f", "steps"), ("b",), is_result=True)
D = StageShape(("data", "f", "colour"), ("a",), is_result=True)
STAGES = {"a": A, "b": B, "c": C, "d": D}


def test_what_a_stage_needs_comes_parents_first():
    assert needed_by("c", STAGES) == ["a", "b", "c"]
    assert needed_by("d", STAGES) == ["a", "d"]


def test_the_stage_with_most_axes_says_their_order():
    assert axes_of(STAGES).all == ("data", "size", "f", "steps", "colour")


def test_stages_are_those_of_the_latest_program_and_what_only_earlier_ones_had():
    changed = StageShape(("data", "f", "depth"), ("a",), is_result=True)
    earlier = Sweep("one", "2026-01-01", "", (), stages=STAGES)
    later = Sweep("two", "2026-01-02", "", (), stages={"d": changed, "a": A})
    assert stages_of([earlier, later]) == {"d": changed, "a": A, "b": B, "c": C}
    assert list(stages_of([earlier, later])) == ["d", "a", "b", "c"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store whose samples depend on an axis that nobody has heard of, named by the sampler."""
    store = tmp_path_factory.mktemp("store")
    build(store, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10), samplers=("ddim", "ddpm")))
    [path] = (store / "sweeps").glob("*.json")
    sweep = json.loads(path.read_text())
    for shape in sweep["stages"].values():
        shape["axes"] += ["warp"] if "steps" in shape["axes"] else []
    for cell in sweep["cells"]:
        cell["axes"] |= {"warp": {"ddim": "soft", "ddpm": "hard"}[cell["axes"]["sampler"]], "sampler": "ddim"}
    path.write_text(json.dumps(sweep))
    return read_study(store)


def test_a_new_axis_has_a_column_behind_the_others(study):
    assert list(study.frame.columns) == [*COLUMNS, "warp"]
    assert set(study.frame[study.frame["stage"] == "evaluation"]["warp"]) == {"soft", "hard"}
    assert set(study.frame[study.frame["stage"] == "progress"]["warp"]) == {""}


@pytest.mark.long
def test_a_new_axis_is_told_in_labels_table_and_panels(study):
    rows = study.frame[study.frame["stage"] == "evaluation"]
    assert row_label(rows, rows.iloc[0].to_dict(), study.axes).endswith(("warp soft", "warp hard"))
    assert "| warp |" in markdown(study)
    titles = [axes.get_title(loc="left") for axes in FIGURES["quality_vs_f"].draw(study).axes if axes.get_visible()]
    assert [title.split("warp ")[1].split(",")[0] for title in titles] == ["hard", "soft"]


def test_a_new_stage_is_missed_and_waits_for_its_parents(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,), missing=[("diffusion", "kl", 4, 5)]))
    [path] = (tmp_path / "sweeps").glob("*.json")
    sweep = json.loads(path.read_text())
    sweep["stages"]["new"] = {"axes": ["f", "regulariser"], "parents": ["first_stage"], "is_result": True}
    sweep["cells"][0]["stages"]["new"] = "0123"
    path.write_text(json.dumps(sweep))
    found = {gap.goal: (gap.label, gap.stage) for gap in read_study(tmp_path).missing}
    assert found["new"] == ("KL f=4", "new")
    assert found["evaluation"] == ("KL f=4, 5 steps", "diffusion")


def test_parts_go_by_the_titles_of_the_latest_program_and_others_by_their_names():
    early = {"sampler": {"a": Choice("A"), "b": Choice("B", ("depth",))}}
    late = {"sampler": {"a": Choice("new A", ("eta",))}, "regulariser": {"l2": Choice("L2")}}
    sweeps = [Sweep("two", "2026-01-02", "", (), choices=late), Sweep("one", "2026-01-01", "", (), choices=early)]
    found = axes_of(STAGES, choices_of(sweeps))
    assert [found.title("sampler", name) for name in ("a", "b", "c")] == ["new A", "B", "c"]
    assert [found.own("sampler", name) for name in ("a", "b", "c")] == [("eta",), ("depth",), ()]
    assert (found.titles("regulariser"), found.titles("colour")) == ({"l2": "L2"}, {})


def test_names_leave_out_what_a_scale_derives_from_f():
    """At f = 1 the scale gives another shift and interval of guidance; swept at one f they tell cells apart."""
    by_rule = pd.DataFrame(
        {
            "regulariser": ["identity", "kl", "kl"],
            "f": [1, 4, 8],
            "shift": ["auto", "none", "none"],
            "guidance_interval": ["0.15 to 0.86", "0.42 to 0.96", "0.42 to 0.96"],
            "sampler": ["ddim", "ddim", "heun"],
        }
    )
    axes = ("shift", "guidance_interval", "sampler")
    assert varying(by_rule, axes) == ["sampler"]
    swept = pd.concat([by_rule, by_rule.iloc[:1].assign(shift="none")])
    assert varying(swept, axes) == ["shift", "sampler"]
    unguided = pd.concat([by_rule, by_rule.iloc[1:2].assign(guidance_interval=None)])
    assert varying(unguided, axes) == ["guidance_interval", "sampler"]
