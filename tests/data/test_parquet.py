"""Parquet files of images as Hugging Face distributes them, and what is said where they are something else."""

import json
import sys

import pytest
from image_places import png

from ldm.data import open_splits
from ldm.data.parquet_files import ParquetTable
from ldm.errors import UserError

N = 12


def write(path, columns, features=None, group=5):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


def images(first=0, n=N):
    return [{"bytes": png(i), "path": f"{i}.png"} for i in range(first, first + n)]


def opened(root, **options):
    return open_splits("parquet", 16, path=root, **options)


CLASSES = {"label": {"names": ["zebra", "cat", "ant"], "_type": "ClassLabel"}, "other": [{"_type": "Value"}]}


def test_images_classes_and_captions_by_the_splits_of_the_names(tmp_path):
    for first, name in ((0, "train-00000-of-00002"), (20, "train-00001-of-00002"), (40, "validation-00000-of-00001")):
        columns = {
            "image": images(first),
            "label": [i % 2 for i in range(N)],
            "text": [f"a\u2028{first + i}" for i in range(N)],
        }
        write(tmp_path / f"{name}.parquet", columns, CLASSES)
    write(tmp_path / "test-00000-of-00001.parquet", {"image": images(60), "label": [-1] * N}, CLASSES)
    splits = opened(tmp_path)
    train, heldout = splits["train"], splits["heldout"]
    assert (len(train), len(heldout)) == (2 * N, N)
    assert train.classes == ("zebra", "cat")
    for source, firsts in ((train, (0, 20)), (heldout, (40,))):
        for index in range(len(source)):
            number = firsts[index // N] + index % N
            assert source.item(index).label == index % N % 2
            assert source.annotation("captions", index) == f"a\u2028{number}"


@pytest.mark.parametrize("form", ["struct", "binary"])
def test_pixels_are_those_of_the_rows(tmp_path, form):
    column = images() if form == "struct" else [png(i) for i in range(N)]
    write(tmp_path / "a.parquet", {"img": column, "captions": [[f"{i}", "second"] for i in range(N)]})
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(N):
        (folder / f"{i:02}.png").write_bytes(png(i))
    given, expected = opened(tmp_path / "a.parquet"), open_splits("folder", 16, path=folder)
    for side in ("train", "heldout"):
        assert len(given[side]) == len(expected[side])
        for i in range(len(given[side])):
            assert (given[side].item(i).image == expected[side].item(i).image).all()
            assert given[side].annotation("captions", i) == str(int(given[side].name(i)[-8:]))


def test_columns_are_chosen_where_several_could_be_meant(tmp_path):
    columns = {"left": images(), "right": images(50), "mask": images(90), "kind": ["x", "y"] * (N // 2)}
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=r"holds several columns of images; choose one: data\.image=left or right"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"data\.image=rigth is no column of images .*did you mean"):
        opened(tmp_path, image="rigth")
    with pytest.raises(UserError, match=r"data\.label=kin is no column"):
        opened(tmp_path, image="left", label="kin")
    assert opened(tmp_path, image="right", label="kind")["train"].classes == ("x", "y")
    assert opened(tmp_path, image="right")["train"].classes == ()


def test_missing_images_are_skipped_by_name_and_absent_ones_refused(tmp_path):
    some = images()
    some[3] = {"bytes": None, "path": "3.png"}
    write(tmp_path / "a.parquet", {"image": some})
    assert sum(map(len, opened(tmp_path).values())) == N
    write(tmp_path / "a.parquet", {"image": [{"bytes": None, "path": f"{i}.png"} for i in range(N)]})
    with pytest.raises(UserError, match=r"column image names files \(0\.png\) and does not hold them"):
        opened(tmp_path)


def test_contents_are_read_once(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", {"image": images()})
    first = opened(tmp_path, memo=tmp_path / "memo.json")["train"].fingerprint
    monkeypatch.setattr(ParquetTable, "column", lambda *_: pytest.fail("read again"))
    assert opened(tmp_path, memo=tmp_path / "memo.json")["train"].fingerprint == first


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.parquet files"):
        opened(tmp_path)
    write(tmp_path / "a.parquet", {"text": ["a", "b"]})
    with pytest.raises(UserError, match=r"holds no column of images \(bytes\); its columns are text"):
        opened(tmp_path)
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[:-30], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b""):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet cannot be read as parquet .* git lfs"):
            opened(tmp_path)


def test_damage_inside_is_said(tmp_path):
    write(tmp_path / "a.parquet", {"image": images()})
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:60] = bytes(56)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as parquet"):
        opened(tmp_path)


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet is a parquet file; to read it: pip install pyarrow"):
        opened(tmp_path)
