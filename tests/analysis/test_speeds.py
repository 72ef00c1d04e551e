"""Speeds in the throughput figure: measured ones where there are any, machines never in one panel, marks said."""

from dataclasses import replace

import pandas as pd
import pytest
from reading_figures import said
from synthetic_store import Recipe, build

from analysis import speeds
from analysis.collect import read_study
from analysis.figures import FIGURES
from analysis.plot_tradeoffs import main
from ldm.records import Cost, StageRecord, write_json

CPU = {"device": "cpu", "processor": "A", "threads": 2}


def _time(store, cell, machine="A, 2 threads", seconds=4.0, is_alone=True, created="2026-01-02", batch=50):
    """A timing record as experiments.timing writes it: `seconds` a batch, a tenth of it decoding."""
    parts = {"encode": 1.0, "denoise": 0.9 * seconds, "decode": 0.1 * seconds}
    config = {"batch": batch, "repeats": 3, "machine": CPU, "precision": "fp32", "guidance": {"scale": 1.0}}
    facts = {"machine": machine, "is_alone": is_alone}
    identity = f"{cell.cell}-{machine}-{batch}-{created}"
    parents = {"samples": cell.stages["samples"]}
    record = StageRecord(
        "timing", identity, config, parents, facts, cost=Cost(seconds, batch, parts=parts), created=created
    )
    write_json(store / "timing" / identity / "record.json", record.to_json())


@pytest.fixture
def made(tmp_path):
    """A store of four cells and its sweep."""
    return tmp_path, build(tmp_path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5, 10)))


def _titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.long
def test_without_timings_the_figure_says_whose_speeds_it_shows(made):
    store, _ = made
    study = read_study(store)
    assert speeds.timed(study) is study
    assert "python -m experiments.timing" in said(FIGURES["quality_vs_throughput"].draw(study))


@pytest.mark.long
def test_measured_speeds_take_the_place_of_those_of_making_the_samples(made):
    store, sweep = made
    for number, cell in enumerate(sweep.cells, start=1):
        _time(store, cell, seconds=4.0 * number)
    study = read_study(store)
    frame = speeds.timed(study).frame
    found = frame[frame["stage"] == "evaluation"].drop_duplicates("samples").set_index("samples")
    for number, cell in enumerate(sweep.cells, start=1):
        assert found.loc[cell.stages["samples"], "sample_images_per_second"] == pytest.approx(50 / (4.0 * number))
    # Nothing else moves.
    pd.testing.assert_series_equal(
        frame["value"].sort_values(ignore_index=True), study.frame["value"].sort_values(ignore_index=True)
    )
    figure = FIGURES["quality_vs_throughput"].draw(study)
    drawn = {round(float(line.get_xdata()[0]), 6) for line in figure.axes[0].get_lines() if line.get_marker() == "o"}
    assert {round(50 / (4.0 * number), 6) for number in (1, 2, 3, 4)} <= drawn
    assert "Machine: A, 2 threads, batch 50, fp32." in said(figure)
    assert study.timings["encode_seconds_per_image"].tolist() == [0.02] * 4


@pytest.mark.long
def test_machines_and_batches_have_a_panel_each(made):
    store, sweep = made
    for cell in sweep.cells:
        _time(store, cell)
        _time(store, cell, machine="B")
        _time(store, cell, batch=10)
    figure = FIGURES["quality_vs_throughput"].draw(read_study(store))
    places = ("A, 2 threads, batch 10, fp32", "A, 2 threads, batch 50, fp32", "B, batch 50, fp32")
    assert _titles(figure) == [f"KL, machine {place}" for place in places]
    assert "Machines are not comparable: a panel each." in said(figure)
    # What has no speed in it knows no machines.
    assert _titles(FIGURES["quality_vs_f"].draw(read_study(store))) == [""]


@pytest.mark.long
def test_sample_sets_made_on_two_machines_share_no_panel_either(made):
    store, _ = made
    study = read_study(store)
    frame = study.frame.assign(machine=study.frame["f"].map({4: "A", 8: "B"}).fillna(""))
    assert _titles(FIGURES["quality_vs_throughput"].draw(replace(study, frame=frame))) == [
        "KL, machine A",
        "KL, machine B",
    ]


@pytest.mark.long
def test_a_busy_machine_and_cells_that_were_not_timed_are_said(made):
    store, sweep = made
    _time(store, sweep.cells[0], is_alone=False)
    _time(store, sweep.cells[1])
    figure = FIGURES["quality_vs_throughput"].draw(read_study(store))
    assert "NOT ALONE: others used the machine" in said(figure)
    assert "2 sample sets were not timed and are not drawn" in said(figure)
    assert any(title.endswith("NOT ALONE") for title in _titles(figure))


def test_the_latest_of_two_timings_counts(made):
    store, sweep = made
    _time(store, sweep.cells[0], seconds=9.0, created="2026-01-03")
    _time(store, sweep.cells[0], seconds=5.0, created="2026-01-05")
    frame = speeds.timed(read_study(store)).frame
    assert frame[frame["samples"] == sweep.cells[0].stages["samples"]]["sample_images_per_second"].unique() == [10.0]


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_timings_stand_in_a_table_of_their_own(made):
    store, sweep = made
    _time(store, sweep.cells[0])
    assert main(["--store", str(store), "--out", str(store / "out")]) == 0
    [row] = pd.read_csv(store / "out" / "timings.csv").to_dict("records")
    assert (row["denoise_seconds_per_image"], row["decode_seconds_per_image"]) == pytest.approx((0.072, 0.008))
    assert (row["batch"], row["precision"], row["guidance_scale"]) == (50, "fp32", 1.0)
