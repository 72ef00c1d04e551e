"""Rows say what their metrics mean: one that nobody knows has its place, and older rows read as they always did."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from every_metric import every_metric
from synthetic_store import JUDGE, Recipe, build

from analysis import compare, older_metrics
from analysis.collect import read_study
from analysis.columns import MEANING
from analysis.figures import figures_of
from analysis.headline import headline
from analysis.table import markdown
from ldm.metrics.distribution import KINDS, metric_of
from ldm.metrics.values import DECODED_IMAGES, REAL_IMAGES, WINDOWS_OF_SAMPLES, MetricValue, varied
from ldm.records import GENERATION

ROOT = Path(__file__).parents[2]
SPLENDOUR = {
    "metric": "splendour",
    "title": "splendour",
    "unit": "points",
    "higher_is_better": True,
    "kind": "splendour",
}


def rewritten(store: Path, rows_of) -> None:
    """Gives each evaluation other rows, made of its f and of those that it has."""
    for path in store.glob("evaluation/*/record.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "rows": rows_of(record["rows"])}))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build(tmp_path, Recipe(regularisers=("kl",), factors=(4, 8), steps=(5,)))
    return tmp_path


def splendid(rows: list[dict]) -> list[dict]:
    """A made-up metric by which more of the kernel distance is better."""
    [kernel] = [row for row in rows if row["metric"] == f"kd_{JUDGE}"]
    empty = {"group": "", "base": "", "variant": "", "headline_from": None}
    return [{**kernel, **empty, **SPLENDOUR}]


@pytest.mark.long
def test_a_metric_that_nobody_knows_gets_a_column_and_a_verdict(store: Path) -> None:
    rewritten(store, lambda rows: rows + splendid(rows))
    study = read_study(store)
    page = markdown(study)
    assert "| splendour, points (n = 512) |" in page
    verdicts = page.split("## Which cells are better")[1].split("\n## ")[0]
    assert "kernel distance, EfficientNet-Lite2 (n = 512)" in verdicts
    assert "splendour, points (n = 512)" in verdicts
    found = {table.metric: table for table in compare.tables(study.frame, study.axes)}
    kernel, splendour = found[f"kd_{JUDGE}"], found["splendour"]
    assert [mean.name for mean in splendour.means] == [mean.name for mean in kernel.means][::-1]
    assert [item.verdict for item in splendour.comparisons] == ["worse"]
    assert headline(study.frame).metric == f"kd_{JUDGE}"


def test_a_metric_that_nobody_knows_gets_an_axis_where_it_is_all_there_is(store: Path) -> None:
    rewritten(store, splendid)
    study = read_study(store)
    figure = figures_of(study)["quality_vs_f"](study)
    assert figure.axes[0].get_ylabel() == "splendour, points\n(higher is better)"
    assert any(list(line.get_xdata()) == [4, 8] for line in figure.axes[0].get_lines())


@pytest.mark.long
def test_a_metric_of_no_better_end_gets_a_column_and_no_verdict(store: Path) -> None:
    rewritten(store, lambda rows: rows + [{**row, "higher_is_better": None} for row in splendid(rows)])
    study = read_study(store)
    assert "splendour, points (n = 512)" in markdown(study)
    assert "splendour" not in {table.metric for table in compare.tables(study.frame, study.axes)}


@pytest.mark.parametrize("extractor", older_metrics.NETWORKS)
@pytest.mark.parametrize("variants", [(), (WINDOWS_OF_SAMPLES,), (REAL_IMAGES,), (DECODED_IMAGES,)])
def test_older_rows_of_distances_mean_what_rows_say_today(extractor: str, variants: tuple) -> None:
    for kind in KINDS.values():
        row = MetricValue(varied(metric_of(kind, extractor), *variants), 1.0, 100).row()
        bare = older_metrics.ResultRow(row.metric, 1.0, 100)
        older = older_metrics.filled(bare)
        names = [name for name in MEANING if name != "group" or (row.group == GENERATION and not variants)]
        assert {name: getattr(older, name) for name in names} == {name: getattr(row, name) for name in names}


def test_only_the_standard_weights_are_called_fid() -> None:
    titles = {name: metric.title for name, metric in every_metric().items()}
    assert titles["fid"] == "FID"
    assert titles["rfid"] == "rFID"
    assert titles["fd_infinity_dinov2"] == "Fréchet distance at infinite n, DINOv2"
    assert titles["clipped_coverage_inception"] == "clipped coverage, Inception-v3"
    assert titles["window_fd_efficientnet_lite2"] == "Fréchet distance, EfficientNet-Lite2, windows of larger samples"


@pytest.mark.slow
def test_older_rows_stay_where_they_were(tmp_path: Path) -> None:
    """Only metrics that had no title go by their names in them."""
    recipe = Recipe(regularisers=("kl",), factors=(1, 4), steps=(5,), conditioning="inpaint", task="inpaint")
    pages, columns = [], []
    for is_declared in (True, False):
        place = tmp_path / str(is_declared)
        build(place, dataclasses.replace(recipe, is_declared=is_declared))
        study = read_study(place)
        pages.append(markdown(study))
        columns.append({figure: draw(study).axes[0].get_ylabel() for figure, draw in figures_of(study).items()})
    declared, older = pages
    assert columns[0] == columns[1]
    for metric in ("psnr", "psnr_sample", "rmse255", "rate_kl_fitted", "rate_lossless"):
        assert f"| {metric} (n" in older
        assert f"| {metric} (n" not in declared
    assert "PSNR, a posterior sample, dB (n" in declared
    [new], [old] = ([part for part in page.split("\n## ") if part.startswith("First stages")] for page in pages)
    assert declared.replace(new, "") == older.replace(old, "")
    assert new.splitlines()[3:] == old.splitlines()[3:]


@pytest.mark.long
def test_analysis_reads_records_without_the_library_of_metrics(store: Path) -> None:
    """What metrics mean comes from rows alone."""
    program = f"""import sys
from pathlib import Path
from analysis.collect import read_study
print(len(read_study(Path({str(store)!r})).frame), [m for m in sys.modules if m.startswith('ldm.metrics')])"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert found.stdout.strip().endswith("[]"), found.stderr
