"""The page of predictors: each compared with the samples of its first stage, measured in one way."""

from dataclasses import replace

import pandas as pd
import pytest
from synthetic_store import JUDGE, Recipe, build

from analysis import predictors
from analysis.collect import read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve first stages whose samples are known, a predictor that is right within f, and one that is wrong."""
    path = tmp_path_factory.mktemp("store")
    build(path, Recipe(regularisers=("kl", "vq"), factors=(4, 8, 16), steps=(5, 10)))
    found = read_study(path)
    rows = found.frame[found.frame["stage"] == "evaluation"]
    kernel = rows[rows["metric"].str.startswith("kd_") & (rows["steps"] == 10)]
    made = [
        kernel.assign(stage="predictors", metric=name, value=sign * kernel["value"] + 10 * kernel["f"].astype(float))
        for name, sign in (("right", 1.0), ("wrong", -1.0))
    ]
    return replace(found, frame=pd.concat([found.frame, *made], ignore_index=True))


def test_predictors_are_compared_with_the_samples_of_their_first_stage(study):
    page = predictors.markdown(study)
    lines = {line.split("|")[1].strip(): line.split("|") for line in page.splitlines() if line.startswith("| `")}
    assert lines["`right`"][2].split()[0] == "+1.00"
    assert lines["`wrong`"][2].split()[0] == "-1.00"
    assert lines["`right`"][3].strip() == lines["`right`"][5].strip() == "6"
    # Overall both follow f, with which samples get worse here, so that the wrong one looks right.
    assert 0 < float(lines["`wrong`"][4].split()[0]) < float(lines["`right`"][4].split()[0])
    assert "`decoded_kd_efficientnet_lite2`" in lines


def test_outcomes_are_at_the_most_steps_that_all_have(study):
    metric = study.frame[(study.frame["stage"] == "evaluation") & study.frame["metric"].str.startswith("kd_")]
    [outcome] = predictors.outcomes(study)
    for first_stage, value in outcome.values.items():
        own = metric[(metric["first_stage"] == first_stage) & (metric["steps"] == 10)]
        assert own["value"].tolist() == [value]


def test_values_of_several_protocols_are_never_averaged(study):
    """The same first stages judged again on more samples, whose values are the other way round."""
    kernel = study.frame[study.frame["metric"].str.startswith("kd_") & (study.frame["stage"] == "evaluation")]
    floors = study.frame[study.frame["metric"] == f"decoded_kd_{JUDGE}"]
    again = [rows.assign(protocol="other", n=2048, value=-rows["value"]) for rows in (kernel, floors)]
    mixed = replace(study, frame=pd.concat([study.frame, *again], ignore_index=True))
    assert [outcome.n for outcome in predictors.outcomes(mixed)] == [512, 2048]
    pages = predictors.markdown(mixed).split("\n## ")[1:]
    assert [page.splitlines()[0] for page in pages] == ["Protocol a, n = 512 samples", "Protocol c, n = 2,048 samples"]
    within = [next(line for line in page.splitlines() if line.startswith("| `right`")) for page in pages]
    assert [line.split("|")[2].split()[0] for line in within] == ["+1.00", "-1.00"]
    columns = set(predictors.predictions(mixed).columns)
    assert {f"decoded_kd_{JUDGE} (protocol {letter})" for letter in "bc"} < columns, columns


def test_without_samples_it_says_what_is_missing(study):
    without = replace(study, frame=study.frame[study.frame["stage"] != "evaluation"])
    assert "let the sweep run to its end" in predictors.markdown(without)
