"""Speeds: as they were timed alone on a machine where they were, else as the sample sets were made."""

import dataclasses
from typing import Any

import pandas as pd

from analysis.collect import Study

MACHINE = "machine"
SPEED = "sample_images_per_second"


def timed(study: Study) -> Study:
    """The study with measured speeds in place of those of making the samples, where anything was timed.

    A cell that was timed on several machines, or with several batches, has its rows once for each; one that was not
    timed loses its speed. A machine is named with its batch, so that unlike conditions are never taken for one.
    """
    if study.timings.empty:
        return study
    latest = study.timings.sort_values("created").drop_duplicates(
        ["samples", MACHINE, "batch", "precision"], keep="last"
    )
    conditions = latest[MACHINE] + latest["batch"].map(", batch {}, ".format) + latest["precision"]
    conditions += latest["is_alone"].map({True: "", False: ", NOT ALONE"})
    speeds = latest.assign(machine=conditions)[["samples", MACHINE, SPEED]]
    is_sampled = study.frame["samples"] != ""
    drawn = study.frame[is_sampled].drop(columns=[MACHINE, SPEED]).merge(speeds, on="samples", how="left")
    drawn[MACHINE] = drawn[MACHINE].fillna("")
    frame = pd.concat([study.frame[~is_sampled], drawn[study.frame.columns]], ignore_index=True)
    return dataclasses.replace(study, frame=frame)


def note(study: Study) -> str:
    """Under which conditions the speeds were measured that `timed` gives."""
    if study.timings.empty:
        return (
            "Speeds were taken while samples were made, without a warm-up and perhaps beside other work; "
            "`python -m experiments.timing` measures them."
        )
    rows = timed(study).frame
    sampled = rows[(rows["stage"] == "evaluation")]
    lacking = sampled[sampled[SPEED].isna()]["samples"].nunique()
    text = (
        "Speeds: denoising and decoding by experiments.timing, after a warm-up, one cell at a time, median of "
        f"{_listed(study.timings['repeats'])} batches; by part in timings.csv."
    )
    if not study.timings["is_alone"].all():
        text += " NOT ALONE: others used the machine meanwhile."
    if lacking:
        text += f" {lacking} sample sets were not timed and are not drawn."
    machines = [name for name in dict.fromkeys(sampled[MACHINE]) if name]
    return text + (f" Machine: {machines[0]}." if len(machines) == 1 else " Machines are not comparable: a panel each.")


def _listed(values: "pd.Series[Any]") -> str:
    return " or ".join(str(value) for value in sorted(set(values)))
