"""Checkpoints: whole or not at all, and data only."""

import io
import os

import pytest
import torch

from ldm import intact
from ldm.training.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights

TRACE: list[str] = []


def leave_trace(text):
    TRACE.append(text)


class Payload:
    """Leaves a trace where unpickling would run it."""

    def __reduce__(self):
        return (leave_trace, ("executed",))


def test_a_state_comes_back_with_its_types(tmp_path):
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    state = {"step": 3, "name": "x", "nested": [{"a": torch.arange(3)}], "optimiser": optimiser.state_dict()}
    save_checkpoint(tmp_path / "last.pt", state)
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.keys() == state.keys()
    assert (loaded["step"], loaded["name"]) == (3, "x")
    assert torch.equal(loaded["nested"][0]["a"], torch.arange(3))
    assert loaded["optimiser"] == state["optimiser"]


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "last.pt") is None


@pytest.mark.parametrize("kind", ["state", "weights"])
@pytest.mark.parametrize("failure", ["while writing", "while renaming"])
def test_a_failing_write_leaves_the_old_file_and_no_other(failure, kind, tmp_path, monkeypatch):
    path = tmp_path / "last"
    save, load = {"state": (save_checkpoint, load_checkpoint), "weights": (save_weights, load_weights)}[kind]
    save(path, {"w": torch.zeros(2)})

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(intact.os, "fsync" if failure == "while writing" else "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save(path, {"w": torch.ones(2)})
    assert torch.equal(load(path)["w"], torch.zeros(2))
    assert os.listdir(tmp_path) == ["last"]


def test_pickled_objects_are_refused_without_running_them(tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"step": 1, "object": Payload()})
    content = (tmp_path / "last.pt").read_bytes()  # whose hash is right
    assert load_checkpoint(tmp_path / "last.pt") is None
    assert not (tmp_path / "last.pt").exists()
    assert TRACE == []
    torch.load(io.BytesIO(content[:-32]), weights_only=False)
    assert TRACE == ["executed"], "the file must be one that would do harm"


def test_weights_come_back_bit_for_bit_in_any_layout(tmp_path):
    weights = {
        "half": torch.randn(2, 3).bfloat16(),
        "strided": torch.randn(4, 6).T,
        "trained": torch.nn.Parameter(torch.randn(2, 2)),
        "images": torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert loaded["half"].dtype == torch.bfloat16


def test_training_goes_on_from_the_last_whole_checkpoint(tmp_path, caplog):
    path = tmp_path / "checkpoint.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, {"step": step, "w": torch.full((50,), float(step))})
    assert load_checkpoint(path)["step"] == 3
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-1], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], b""):
        path.write_bytes(damaged)
        assert load_checkpoint(path)["step"] == 2
        assert "checkpoint.pt is damaged" in caplog.text
        assert not path.exists()
    save_checkpoint(path, {"step": 4})
    assert load_checkpoint(path)["step"] == 4
    path.unlink()  # a kill between the two renames
    assert load_checkpoint(path)["step"] == 2
    (tmp_path / "checkpoint.previous.pt").write_bytes(b"half")
    assert load_checkpoint(path) is None
