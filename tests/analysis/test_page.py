"""The page of the report: charts that say what the figures showed, tables, pictures, and nothing from elsewhere."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic_store import Recipe, build

from analysis.collect import read_study
from analysis.figures import FIGURES
from analysis.figures.panels import RINGED
from analysis.numbers import NumberedFigure, Plane, Scale, Series, Words, frame
from analysis.page import charts, gallery, spending, training
from analysis.page.document import document, figure

POINTS = pd.DataFrame(
    {"x": [1.0, 4.0], "value": [3.0, 2.0], "ci_low": [2.5, np.nan], "ci_high": [4.0, np.nan], "n": [100, 100]}
)


@pytest.mark.long
def test_charts_and_csv_say_the_numbers_of_the_study(tmp_path):
    """Quality over f: all means of the sweep, at their f, with the interval and the command of each."""
    build(tmp_path, Recipe(regularisers=("kl",), factors=(2, 8), steps=(5, 20)))
    study = read_study(tmp_path)
    figure = FIGURES["quality_vs_f"].draw(study)
    assert isinstance(figure, NumberedFigure)
    found = frame(figure.planes)
    found = found[found["series"] != RINGED]  # around points that stand there already
    rows = study.frame[(study.frame["stage"] == "evaluation") & (study.frame["metric"] == "kd_efficientnet_lite2")]
    drawn = found[found["identity"].isin(rows["identity"])].set_index("identity")
    for row in rows.to_dict("records"):
        assert drawn.loc[row["identity"], ["x", "value", "ci_low", "ci_high", "n"]].tolist() == pytest.approx(
            [row["f"], row["value"], row["ci_low"], row["ci_high"], row["n"]]
        )
    told = {identity: f"make {identity}" for identity in rows["identity"]}
    [panel] = charts.chart("quality_vs_f", figure.words, figure.planes, told).panels
    lines = {trace["name"]: trace for trace in panel.traces}
    for steps, own in rows.groupby("steps"):
        trace, own = lines[f"{steps} steps"], own.sort_values("f")
        assert (trace["x"], trace["y"]) == (list(own["f"]), pytest.approx(list(own["value"]), rel=1e-5))
        assert trace["error_y"]["array"] == pytest.approx(list(own["ci_high"] - own["value"]), rel=1e-4)
        for said, identity in zip(trace["hovertext"], own["identity"], strict=True):
            assert f"make {identity}" in said
            assert "n = 512" in said
    assert panel.layout["xaxis"]["tickvals"] == [2.0, 8.0]


def test_a_series_becomes_a_trace_with_its_bars_and_a_level_a_line_across():
    level = POINTS.head(1).assign(x=np.nan, value=7.0, ci_low=np.nan)
    series = [Series("a", POINTS, "#112233", ":", "s"), Series("floor", level, "#222222", "--", is_beside=True)]
    plane = Plane("", Scale("cost (s)", is_log=True), Scale("error"), series)
    a, floor = charts.panel(plane, {}).traces
    assert (a["mode"], a["line"]["dash"], a["marker"]["symbol"]) == ("lines+markers", "dot", "square")
    assert (a["error_y"]["array"], a["error_y"]["arrayminus"]) == ([1.0, None], [0.5, None])
    assert floor["y"] == [7.0, 7.0]
    assert floor["x"][0] < 1 < 4 < floor["x"][1]
    assert "cost: 4" in a["hovertext"][1]


def test_rings_lie_above_around_the_marks_and_hollow_marks_are_outlines():
    best, line = POINTS.head(1), Series("a", POINTS, "#112233", marker="s", hollow=("", "limited"))
    rings = [Series(kind, best, "#222222", "", kind) for kind in ("wide ring", "ring")]
    *_, shown, wide, ring = charts.panel(Plane("", Scale("x"), Scale("y"), [*rings, line]), {}).traces
    assert [one["name"] for one in (shown, wide, ring)] == ["a", "wide ring", "ring"]
    assert wide["marker"]["size"] > ring["marker"]["size"] > shown["marker"]["size"]
    assert (ring["marker"]["symbol"], ring["opacity"], "error_y" in ring) == ("circle-open", 1, False)
    assert (shown["marker"]["symbol"], shown["marker"]["line"]["width"][0]) == (["square", "square-open"], 0)
    assert ["hollow: limited" in said for said in shown["hovertext"]] == [False, True]


def test_a_logarithmic_axis_reaches_as_far_as_what_is_above_zero():
    floor = Series("floor", POINTS.head(1).assign(x=np.nan, value=-0.002), "#222222", "--", is_beside=True)
    scale = Scale("error", is_log=True)
    with_floor, alone = (
        charts.panel(Plane("", Scale("x"), scale, [Series("a", POINTS, "#112233"), *more]), {}).layout["yaxis"]
        for more in ([floor], [])
    )
    assert with_floor == alone
    assert 10 ** with_floor["range"][0] < 2 < 3 < 10 ** with_floor["range"][1]
    assert "range" not in charts.panel(Plane("", Scale("x"), scale, [floor]), {}).layout["yaxis"]


def test_tooltips_say_f_where_nothing_else_does():
    rows = POINTS.assign(f=[4, 16])
    said = {
        (x, name): ["f = " in told for told in charts.panel(plane, {}).traces[0]["hovertext"]]
        for x in ("cost", "compression factor f (image side / latent side)")
        for name in ("KL", "KL f=4")
        for plane in [Plane("", Scale(x), Scale("y"), [Series(name, rows, "#112233")])]
    }
    assert list(said.values()) == [[True, True], [False, True], [False, False], [False, False]]


def test_the_mean_of_several_trainings_names_no_record(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,), seeds=(0, 1)))
    figure = FIGURES["quality_vs_f"].draw(read_study(tmp_path))
    assert isinstance(figure, NumberedFigure)
    found = frame(figure.planes)
    means = found[found["series"] == "5 steps"]
    assert set(means["made"]) == {"mean of 2 trainings"}
    assert set(means[["cell", "model", "first_stage", "identity"]].to_numpy().ravel()) == {""}
    [panel] = charts.chart("quality_vs_f", figure.words, figure.planes, {}).panels
    [line] = [trace for trace in panel.traces if trace["name"] == "5 steps"]
    assert all("mean of 2 trainings" in said for said in line["hovertext"])


def test_what_has_no_room_is_counted_and_in_the_numbers(tmp_path, monkeypatch):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4, 8), steps=(5,)))
    study = read_study(tmp_path)
    rows = study.frame[study.frame["stage"] == "progress"]
    losses = [rows.assign(metric=f"loss_{name}", title=f"loss {name}", kind="") for name in "abc"]
    study = dataclasses.replace(study, frame=pd.concat([study.frame, *losses], ignore_index=True))
    monkeypatch.setattr(training, "MOST_PANELS", 1)
    monkeypatch.setattr(spending, "MOST_BARS", 2)
    curves, costs = training.chart(study, {}), spending.chart(study)
    assert curves is not None
    assert costs is not None
    assert len(curves.panels) == 1
    assert curves.words.facts[-1] == "3 more of 4 metrics: in the numbers (CSV)."
    assert all(f"loss {name}" in curves.csv for name in "abc")
    assert costs.words.facts[-1] == "1 more of 3 models: in the numbers (CSV)."
    assert costs.csv.count("f=") == 3


def test_a_page_needs_nothing_from_elsewhere_and_holds_its_charts_as_json():
    plane = Plane("<i>", Scale("x"), Scale("y"), [Series("</script><b>", POINTS, "#112233")])
    chart = charts.chart("one", Words("A title", ("facts",), ("a note",)), [plane], {})
    cells = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    text = f"# Sweep s\n\n    python run.py\n\n## Recommendation\n\nTake it.\n\n## Cells\n\n{cells}"
    page = document("Report", [text], ["one"], [chart], {"Samples": "<p>pictures</p>"})
    held = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert held is not None
    # The name as it is in words, not as markup: Plotly reads that in names.
    assert json.loads(held[1])["one"][0]["traces"][0]["name"] == "&lt;/script&gt;&lt;b&gt;"
    own = page.replace((Path(charts.__file__).parent / "assets" / "plotly-basic.min.js").read_text(), "")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', own)
    assert not re.findall(r"https?://", own)
    order = [page.index(f"<h2>{name}</h2>") for name in ("Recommendation", "Cells", "Figures", "Samples")]
    assert order == sorted(order)
    assert page.index("Take it.") < page.index('data-chart="one"') < order[1]
    csv = re.search(r'download="one.csv" href="data:text/csv;base64,([^"]+)"', page)
    assert csv is not None
    assert base64.b64decode(csv[1]).decode() == chart.csv


def test_a_figure_without_charts_shows_what_is_printed_and_offers_no_numbers(tmp_path):
    printed = tmp_path / "one.svg"
    printed.write_text("<svg/>")
    words, plane = Words("A title", (), ()), Plane("", Scale("x"), Scale("y"), [Series("a", POINTS, "#112233")])
    alone, charted = (figure(charts.chart("one", words, planes, {}, printed)) for planes in ([], [plane]))
    assert 'class="print-file alone"' in alone
    assert "one.csv" not in alone
    assert 'class="print-file"' in charted
    assert "one.csv" in charted


def test_curves_over_training_are_drawn_of_whatever_records_have(tmp_path):
    """Of a metric that this program does not know, at three milestones of two models."""
    build(tmp_path, Recipe(regularisers=("kl",), factors=(2, 8), steps=(5,)))
    study = read_study(tmp_path)
    first = study.frame[(study.frame["stage"] == "progress")].iloc[[0]]
    loss = [
        first.assign(metric="loss_bin_3", title="held-out loss, t from 0.2 to 0.4", kind="", model=m, images_seen=seen)
        for m in study.frame["model"][study.frame["stage"] == "progress"].unique()
        for seen in (100, 200, 400)
    ]
    known = pd.concat([study.frame, *loss], ignore_index=True)
    planes = {plane.heading: plane for plane in training.planes(dataclasses.replace(study, frame=known))}
    bins = planes["held-out loss, t from 0.2 to 0.4"]
    assert [list(one.rows["x"]) for one in bins.series] == [[100, 200, 400]] * 2
    assert {one.name for one in bins.series} == {"KL f=2", "KL f=8"}
    assert "held-out loss, t from 0.2 to 0.4" not in {plane.heading for plane in training.planes(study)}


def test_costs_are_split_by_what_is_trained(tmp_path):
    build(tmp_path, Recipe(regularisers=("kl",), factors=(1, 4), steps=(5, 20)))
    study = read_study(tmp_path)
    costs = spending.frame(study).set_index("name")
    assert sorted(costs.index) == ["KL f=4", "pixels f=1"]
    chart = spending.chart(study)
    assert chart is not None
    shown = {trace["name"]: dict(zip(trace["y"], trace["x"], strict=True)) for trace in chart.panels[0].traces}
    for name, row in costs.iterrows():
        assert shown["diffusion"][name] == pytest.approx(row["diffusion_seconds"], rel=1e-5)
        assert shown["first stage"][name] == pytest.approx(np.nan_to_num(row["first_stage_seconds"]), rel=1e-5)


def test_pictures_are_held_with_their_cells(tmp_path):
    """Samples are cut to two rows until opened; originals lie over reconstructions."""
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4,), steps=(5,)))
    study = read_study(tmp_path)
    folders = {one.record.stage: one for one in study.finished}
    Image.new("RGB", (16 * 8, 4 * 8)).save(folders["samples"].folder / "grid.png")
    Image.new("RGB", (64, 18)).save(folders["reconstruction"].folder / "reconstructions.png")
    found = gallery.sections(study)
    assert list(found) == ["Samples", "Reconstructions"]
    assert "--shown:128/16" in found["Samples"]
    assert folders["samples"].label in found["Samples"]
    assert "aspect-ratio:64/9" in found["Reconstructions"]
    assert 'type="range"' in found["Reconstructions"]
    held = re.findall(r"data:image/png;base64,([^\")]+)", "".join(found.values()))
    assert [gallery.size(base64.b64decode(one)) for one in held] == [(128, 32), (64, 18)]
