"""Models of transformers are whole or refused, and nothing is printed on the way."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model, read_part

sys.path.append(str(Path(__file__).parents[1]))
from tiny_clip import save_tiny_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny CLIP."""
    save_tiny_clip(tmp_path / "clip")
    return tmp_path / "clip"


def test_every_weight_is_that_of_the_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored, model = load_file(folder / "model.safetensors"), read_model("CLIPModel", folder)
    capfd.readouterr()
    assert {name for name, value in model.state_dict().items() if torch.equal(value, stored[name])} == set(stored)
    read_model("CLIPModel", folder)
    assert read_part("AutoTokenizer", folder)("red cat")["input_ids"]
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("change", [lambda value: None, lambda value: value[:, :-1].contiguous()])
def test_weights_that_are_missing_or_of_another_shape_are_no_random_numbers(folder: Path, change) -> None:
    name = "visual_projection.weight"
    stored = load_file(folder / "model.safetensors")
    changed = {**stored, name: change(stored[name])}
    save_file({k: v for k, v in changed.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnreadableFolderError, match=name):
        read_model("CLIPModel", folder)


def test_what_nothing_reads_may_be_missing(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    rest = {name: value for name, value in stored.items() if not name.startswith("visual_projection")}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    assert read_model("CLIPModel", folder, unused=("visual_projection.",)).config.projection_dim == 8


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnreadableFolderError, match="safetensors"):
        read_model("CLIPModel", folder)
