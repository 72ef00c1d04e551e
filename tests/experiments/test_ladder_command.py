"""The ladder's command: embedded scenes or files, all numbers as JSON, one sentence for bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.commands.ladder import main
from ldm.metrics.damage import DAMAGES, STRENGTHS


def photos(folder: Path, n: int, classes: int = 1) -> Path:
    for index in range(n):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        place = folder / f"class_{index % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


@pytest.mark.long
def test_the_embedded_scenes_in_all_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ladder.json"
    assert main(["--n", "20", "--resolution", "16", "--json", str(file)]) == 0
    [found] = json.loads(file.read_text())
    assert (found["set"], found["n"], found["side"], found["seed"]) == ("data=emoji", 20, 16, 0)
    assert (found["extractor"], found["extractor_size"]) == ("efficientnet_lite2_colour", 64)
    assert [row["damage"] for row in found["rows"]] == list(DAMAGES)
    assert all([rung["strength"] for rung in row["rungs"]] == list(STRENGTHS) for row in found["rows"])
    assert found["rows"][0]["rungs"][0]["amount"] == 0.25
    assert all(rung["low"] < rung["kd"] < rung["high"] for row in found["rows"] for rung in row["rungs"])
    assert found["score"]["checks"] == len(found["checks"]) == 4
    said = capsys.readouterr().out
    for text in ("mean tau", "patches shuffled 4 px above blur 2 px", "20 images a half of 16 px (data=emoji, content"):
        assert text in said


@pytest.mark.long
def test_files_of_one_kind_have_no_classes_to_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ladder.json"
    assert main([str(photos(tmp_path / "photos", 41)), "--resolution", "16", "--json", str(file)]) == 0
    [found] = json.loads(file.read_text())
    assert found["n"] == 20
    assert [row["damage"] for row in found["rows"]] == [name for name in DAMAGES if name != "classes"]
    assert "left out: classes missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--extractor", "efficientnet_lite3"], "did you mean 'efficientnet_lite2'"),
        (["--n", "5"], "--n 5: a ladder needs at least 20 images of each half"),
        (["few"], "the set has 12 images that can be used: a ladder needs at least 40"),
        (["absent"], "absent"),
        (["--resolution", "8"], "resolutions from 16 to 256"),
    ],
)
def test_bad_input_is_said_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "few", 12)
    assert main(arguments) == 2
    assert said in capsys.readouterr().out
