"""The figure of ladders: lines of the numbers in the files, in units of each extractor's own blur."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.plot_ladder import figure_of, main, read, unit_of
from ldm.errors import UserError

ROOT = Path(__file__).parents[2]


def ladder(title: str, scale: float, seed: int = 0) -> dict[str, Any]:
    def rung(strength: int) -> dict[str, float]:
        kd = scale * strength
        return {"strength": strength, "amount": strength / 2, "n": 9, "kd": kd, "low": 0.9 * kd, "high": 1.1 * kd}

    rows = [
        {
            "damage": name,
            "title": name,
            "unit": "px",
            "tau": 1.0,
            "apart": [True] * 5,
            "rungs": list(map(rung, range(1, 6))),
        }
        for name in ("blur", "noise", "contrast", "hue", "saturation", "patches")
    ]
    floor = {**rung(0), "low": -scale, "high": scale}
    about = {"extractor": title, "title": title, "set": "scenes", "set_hash": "a", "n": 9, "side": 32, "seed": seed}
    return {**about, "floor": floor, "rows": rows}


def written(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / f"{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(entries))
    return file


def test_lines_are_in_units_of_the_extractors_own_blur(tmp_path: Path) -> None:
    entries = read([written(tmp_path, ladder("a", 1.0)), written(tmp_path, ladder("b", 20.0))])
    assert [unit_of(entry) for entry in entries] == [3, 60]
    panels = [axes for axes in figure_of(entries).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["blur", "noise", "contrast", "hue", "saturation", "patches"]
    for axes in panels:
        lines = [line.get_ydata().tolist() for line in axes.lines if len(line.get_xdata()) == 5]
        assert lines == [pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])] * 2
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1", "1.5", "2", "2.5"]


def test_the_command_writes_one_file(tmp_path: Path) -> None:
    file, out = written(tmp_path, ladder("a", 1.0)), tmp_path / "ladder.png"
    command = [sys.executable, "analysis/plot_ladder.py", str(file), "--out", str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [written(tmp_path, ladder("a", 1.0)), written(tmp_path, ladder("a", 1.0, seed=1))]
    with pytest.raises(UserError, match="other images, numbers or seeds"):
        read(other)
    with pytest.raises(UserError, match="does not see a blur"):
        figure_of([ladder("blind", 0.0)])
    no_ladder = tmp_path / "none.json"
    no_ladder.write_text("[{}]")
    for arguments in ([str(no_ladder)], [str(tmp_path / "absent.json")], [str(other[0]), "--out", "ladder.pdf"]):
        assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 3
