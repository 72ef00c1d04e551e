"""The figure of ladders: lines of the numbers in the files, in units of each extractor's own blur."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.plot_ladder import _keys, _looks, figure_of, main, read, store_figure, unit_of
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


@pytest.mark.long
def test_lines_are_in_units_of_the_extractors_own_blur(tmp_path: Path) -> None:
    entries = read([written(tmp_path, ladder("a", 1.0)), written(tmp_path, ladder("b", 20.0))])
    assert [unit_of(entry) for entry in entries] == [3, 60]
    panels = [axes for axes in figure_of(entries).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["blur", "noise", "contrast", "hue", "saturation", "patches"]
    for axes in panels:
        lines = [line.get_ydata().tolist() for line in axes.lines if len(line.get_xdata()) == 5]
        assert lines == [pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])] * 2
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "1", "1.5", "2", "2.5"]


@pytest.mark.long
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


def of_store(entry: dict[str, Any], made: dict[tuple[str, str, int, int | None], float]) -> dict[str, Any]:
    rows = [
        {"kind": kind, "series": series, "f": f, "images_seen": seen, "kd": kd, "low": 0.9 * kd, "high": 1.1 * kd}
        for (kind, series, f, seen), kd in made.items()
    ]
    return {**entry, "store": {"rows": rows}}


MADE = {
    ("decoded", "kl", 8, None): 6.0,
    ("decoded", "kl", 4, None): 3.0,
    ("decoded", "vq", 4, None): 4.5,
    ("samples", "kl, target v", 4, None): 9.0,
    ("samples", "kl, target eps", 4, None): 12.0,
}
TRAINED = {("milestone", "kl", 4, 20): 1.5, ("milestone", "kl", 4, 10): 3.0}


def drawn(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Places and values of the series in a panel."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def test_series_of_a_store_are_drawn_over_f_in_each_extractors_own_unit() -> None:
    entries = [of_store(ladder("a", 1.0), MADE), of_store(ladder("b", 10.0), MADE), ladder("c", 1.0)]
    panels = store_figure(entries).axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert drawn(panels[0]) == {
        "decoded, kl": ([4, 8], [3, 6]),
        "decoded, vq": ([4], [4.5]),
        "samples, kl, target v": ([4], [9]),
        "samples, kl, target eps": ([4], [12]),
    }
    assert drawn(panels[1])["decoded, kl"] == ([4, 8], [3, 6])
    looks = {tuple(sorted((key, str(value)) for key, value in look.items())) for look in _looks(rows_of(MADE)).values()}
    assert len(looks) == 4  # no two look alike


def rows_of(made: dict[tuple[str, str, int, int | None], float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = of_store({}, made)["store"]["rows"]
    return rows


def test_milestones_are_drawn_over_training() -> None:
    upper, lower = store_figure([of_store(ladder("a", 1.0), MADE | TRAINED)]).axes
    assert not any(name.startswith("milestone") for name in drawn(upper))
    assert drawn(lower) == {"milestone, kl, f = 4": ([10, 20], [3, 1.5])}


def test_many_series_of_samples_share_the_last_colour_and_its_key() -> None:
    looks = _looks(rows_of({("samples", f"kl, steps {i}", 4, None): 1.0 for i in range(9)}))
    keys = _keys(looks)
    assert len(looks) == 9
    assert [*keys] == [*(f"samples, kl, steps {i}" for i in range(5)), "samples, kl, steps 5, ..."]


@pytest.mark.long
def test_a_second_file_is_written_where_there_are_rows_of_a_store(tmp_path: Path) -> None:
    out = tmp_path / "out.svg"
    assert main([str(written(tmp_path, of_store(ladder("a", 1.0), MADE | TRAINED))), "--out", str(out)]) == 0
    assert (tmp_path / "out_store.svg").read_bytes().startswith(b"<?xml")
    plain = tmp_path / "plain.svg"
    assert main([str(written(tmp_path, ladder("a", 1.0))), "--out", str(plain)]) == 0
    assert not (tmp_path / "plain_store.svg").exists()
