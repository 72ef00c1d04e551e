"""CIFAR-10 in the official layouts, made up: both versions, packed and extracted, give the same set."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from ldm.data import open_splits
from ldm.errors import UserError

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def content(batch, n=4):
    rng = np.random.default_rng(BATCHES.index(batch))
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n)


def binary_files():
    files = {}
    for batch in BATCHES:
        planes, labels = content(batch)
        files[f"cifar-10-batches-bin/{batch}.bin"] = np.column_stack([labels.astype(np.uint8), planes]).tobytes()
    return files | {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}


def python_files():
    files = {}
    for batch in BATCHES:
        planes, labels = content(batch)
        value = {b"data": planes, b"labels": [int(label) for label in labels], b"batch_label": b"made up"}
        files[f"cifar-10-batches-py/{batch}"] = pickle.dumps(value, protocol=2)
    return files


def pack(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def extract(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def opened(path, resolution=32, **options):
    return open_splits("cifar10", resolution, path=path, **options)


@pytest.fixture(params=["binary", "python"])
def files(request):
    return binary_files() if request.param == "binary" else python_files()


@pytest.mark.parametrize("form", ["packed", "extracted", "inner folder"])
def test_official_layouts(tmp_path, files, form):
    path = pack(tmp_path / "cifar.tar.gz", files) if form == "packed" else extract(tmp_path / "cifar", files)
    if form == "inner folder":
        path = path / next(iter(files)).split("/")[0]
    splits = opened(path)
    train = [split_content for batch in BATCHES[:5] for split_content in zip(*content(batch), strict=True)]
    heldout = list(zip(*content("test_batch"), strict=True))
    for split, expected in (("train", train), ("heldout", heldout)):
        source = splits[split]
        assert len(source) == len(expected)
        for index, (planes, label) in enumerate(expected):
            item = source.item(index)
            assert item.label == label
            for channel in range(3):
                rows = planes[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
                np.testing.assert_array_equal(item.image[..., channel], rows)


def test_all_forms_are_one_set(tmp_path):
    prints = {
        opened(path)["train"].fingerprint
        for path in (
            pack(tmp_path / "a.tar.gz", binary_files()),
            pack(tmp_path / "b.tar.gz", python_files()),
            extract(tmp_path / "c", binary_files()),
            extract(tmp_path / "d", python_files()),
        )
    }
    assert len(prints) == 1
    whole = opened(tmp_path / "a.tar.gz")
    assert whole["train"].fingerprint != whole["heldout"].fingerprint
    assert opened(tmp_path / "a.tar.gz", n_train=7)["train"].fingerprint not in prints
    assert len(opened(tmp_path / "a.tar.gz", n_train=7)["train"]) == 7
    assert opened(tmp_path / "a.tar.gz", resolution=16)["train"].fingerprint not in prints


def test_the_memo_spares_unpacking(tmp_path, monkeypatch):
    path, memo = pack(tmp_path / "a.tar.gz", binary_files()), tmp_path / "memo.json"
    first = {split: source.fingerprint for split, source in opened(path, memo=memo).items()}
    monkeypatch.setattr("ldm.data.cifar10._tar_members", lambda _: pytest.fail("unpacked again"))
    assert {split: source.fingerprint for split, source in opened(path, memo=memo).items()} == first


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = python_files()
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({b"data": Attack(), b"labels": []}, protocol=2)
    with pytest.raises(UserError, match=r"data_batch_3 .*refused to load"):
        opened(pack(tmp_path / "a.tar.gz", files))["train"].item(0)
    assert not (tmp_path / "attacked").exists()


def test_damage_is_said(tmp_path):
    short = binary_files()
    short["cifar-10-batches-bin/data_batch_2.bin"] = short["cifar-10-batches-bin/data_batch_2.bin"][:-5]
    with pytest.raises(UserError, match=r"data_batch_2\.bin .*no whole number"):
        opened(extract(tmp_path / "short", short))["train"].item(0)
    label = binary_files()
    label["cifar-10-batches-bin/test_batch.bin"] = bytes([10]) + bytes(3072)
    with pytest.raises(UserError, match="label from 0 to 9"):
        opened(extract(tmp_path / "label", label))["heldout"].item(0)
    untested = {name: data for name, data in binary_files().items() if "test" not in name}
    with pytest.raises(UserError, match="no test_batch"):
        opened(extract(tmp_path / "untested", untested))["heldout"].item(0)
    path = pack(tmp_path / "cut.tar.gz", binary_files())
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match="damaged"):
        opened(path)["train"].item(0)
    with pytest.raises(UserError, match="32 px"):
        opened(tmp_path / "short", resolution=65)
