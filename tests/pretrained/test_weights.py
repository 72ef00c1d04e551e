import pytest
import torch
from safetensors.torch import save_file

from ldm.errors import UserError
from ldm.pretrained.weights import content_hash, read_weights


@pytest.fixture
def weights():
    return {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1, 2]), "c": torch.tensor(3.5)}


def test_hash_does_not_depend_on_file_format_or_order(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pth")
    save_file(weights, tmp_path / "w.safetensors")
    reverse = dict(reversed(weights.items()))
    transposed = {**weights, "b.weight": weights["b.weight"].t().contiguous().t()}
    hashes = {content_hash(read_weights(tmp_path / name)) for name in ("w.pth", "w.safetensors")}
    assert hashes == {content_hash(weights)} == {content_hash(reverse)} == {content_hash(transposed)}


@pytest.mark.parametrize(
    "changed",
    [
        {"b.weight": torch.arange(6.0).reshape(3, 2)},
        {"b.weight": torch.arange(6.0).reshape(2, 3) + torch.tensor([[0, 0, 0], [0, 0, 1e-6]])},
        {"b.weight": torch.arange(6.0).reshape(2, 3).view(torch.int32)},
        {"d": torch.zeros(1)},
    ],
    ids=["shape", "value", "type", "name"],
)
def test_hash_sees_every_change(weights, changed):
    assert content_hash(weights | changed) != content_hash(weights)


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no weight file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x01" * 40)
    with pytest.raises(UserError, match=r"damaged\.safetensors is no readable safetensors file"):
        read_weights(tmp_path / "damaged.safetensors")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(UserError, match="plain state dictionary"):
        read_weights(tmp_path / "nested.pth")


class Intruder:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"a": Intruder()}, tmp_path / "w.pth")
    with pytest.raises(UserError):
        read_weights(tmp_path / "w.pth")
    assert "executed" not in capsys.readouterr().out
