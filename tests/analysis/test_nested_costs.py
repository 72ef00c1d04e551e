"""What the table says of first stages that were cut from one training beside ones trained apart."""

from dataclasses import replace

import pandas as pd
import pytest
from synthetic_store import JUDGE, Recipe, build

from analysis.collect import read_study
from analysis.nested import short_cuts
from analysis.table import markdown


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    build(store, Recipe(regularisers=("kl",), factors=(4, 8), steps=(10,), seeds=(0, 1), ae_seeds=(0, 1)))
    return read_study(store)


def with_nested(study, worse):
    """The study with every cell also nested, at `worse` times the distance."""
    axes = replace(study.axes, all=(*study.axes.all, "nested"))
    apart = study.frame.assign(nested="")
    nested = study.frame.assign(nested="2,3,4", value=study.frame["value"] * worse, deviations=None)
    frame = pd.concat([apart, nested.assign(first_stage_flops=7.0)], ignore_index=True)
    return replace(study, frame=frame, axes=axes)


@pytest.mark.long
def test_a_study_without_nested_channels_has_no_such_section(study):
    assert "What nested channels cost" not in markdown(study)
    assert "What nested channels cost" not in markdown(replace(study, frame=study.frame.assign(nested="")))


@pytest.mark.long
def test_each_cell_is_compared_with_that_of_equal_settings(study):
    both = with_nested(study, worse=1.5)
    rows = both.frame[(both.frame["stage"] == "evaluation") & (both.frame["metric"] == f"kd_{JUDGE}")]
    found = short_cuts(both, rows)
    assert len(found) == 2
    for one, f in zip(found, (4, 8), strict=True):
        own = rows[(rows["f"] == f) & (rows["nested"] == "")]
        assert one.apart == pytest.approx(own["value"].mean())
        assert one.nested == pytest.approx(1.5 * one.apart)
        assert one.comparison.difference == pytest.approx(0.5 * one.apart)
        assert one.flops == (7.0, pytest.approx(own["first_stage_flops"].mean()))
        assert one.label.startswith(f"KL f={f}")
    text = markdown(both).split("## What nested channels cost")[1].split("\n## ")[0]
    assert "| PSNR, dB" in text
    assert "trained apart" in text
