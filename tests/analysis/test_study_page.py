"""docs/study.md says what the records in results/study hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.collect import read_study
from ldm.records import GENERATION

ROOT = Path(__file__).parents[2]
ROWS = ("**samples**, KL", "VQ", "FSQ", "**PSNR of held-out images, dB**, KL", "VQ", "FSQ")
"""The first cells of the table's first rows."""
KIND = {"KL": "kl", "VQ": "vq", "FSQ": "fsq"}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return read_study(ROOT / "results" / "study").frame


def table() -> tuple[list[int], list[tuple[str, list[str]]]]:
    """The values of f in the page's first table, and its rows."""
    lines = (ROOT / "docs" / "study.md").read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| f | 1 |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 2 + len(ROWS)]]
    return [int(f) for f in cells[0][1:]], [(row[0], row[1:]) for row in cells[2:]]


@pytest.mark.long
def test_its_distances_and_psnr_are_those_of_the_records(frame: pd.DataFrame) -> None:
    factors, rows = table()
    assert tuple(name for name, _ in rows) == ROWS
    compared = 0
    for at, (name, cells) in enumerate(rows):
        regulariser = KIND[name.split()[-1]]
        for f, cell in zip(factors, cells, strict=True):
            own = frame[(frame["f"] == f) & (frame["regulariser"] == ("identity" if f == 1 else regulariser))]
            if at < 3:
                own = own[(own["stage"] == "evaluation") & (own["kind"] == "kd") & (own["steps"] == 20)]
                own = own[(own["group"] == GENERATION) & (own["variant"] == "")]
            else:
                own = own[(own["stage"] == "reconstruction") & (own["metric"] == "psnr")]
            if not cell or cell == "exact":
                continue
            [row] = own.to_dict("records")
            numbers = re.findall(r"[\d.]+", cell)
            if at < 3:
                assert numbers == [f"{row[column]:.2f}" for column in ("value", "ci_low", "ci_high")], (name, f)
            else:
                assert numbers == [f"{row['value']:.1f}"], (name, f)
            compared += 1
    assert compared == 13 + 12


def without_a_reader(*command: str) -> tuple[int, str]:
    """The exit code of a command, and its errors, whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.long
def test_its_answer_may_be_read_to_its_first_line_alone() -> None:
    assert without_a_reader("analysis/ask.py", "--store", "results/study") == (1, "")


@pytest.mark.long
def test_tables_and_figures_are_written_whoever_reads_what_is_printed(tmp_path: Path) -> None:
    command = ("analysis/plot_tradeoffs.py", "--store", "results/f8_averages", "--out", str(tmp_path))
    assert without_a_reader(*command) == (0, "")
    assert (tmp_path / "table.md").exists()


def test_the_records_name_no_machine_and_no_folder() -> None:
    for path in (ROOT / "results").rglob("*.json"):
        text = path.read_text()
        assert '"host"' not in text, path
        assert not re.search(r"[\"=]/(home|root|tmp|work)", text), path
