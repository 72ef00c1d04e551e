"""Folders and zip archives: layouts, splits, identities, and what is wrong with them."""

import io
import os
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from image_places import opened, png, write_folder, write_zip
from PIL import Image

from ldm.data import build_cache, open_splits
from ldm.data import files as places
from ldm.data.listing import heldout_contents
from ldm.errors import UserError, nearest


def names(source):
    return [source.item(i).name for i in range(len(source))]


def labels(source):
    return {item.name: item.label for item in (source.item(i) for i in range(len(source)))}


def test_classes_are_the_first_folders_and_noise_is_ignored(tmp_path):
    files = {f"cat/{i}.png": png(i) for i in range(6)} | {f"dog/deep/{i}.PNG": png(100 + i) for i in range(6)}
    noise = {"__MACOSX/cat/._0.png": b"x", ".hidden/a.png": b"x", "cat/.0.png": b"x", "cat/notes.txt": b"x"}
    splits = opened(write_folder(tmp_path, files | noise))
    assert splits["train"].classes == splits["heldout"].classes == ("cat", "dog")
    both = labels(splits["train"]) | labels(splits["heldout"])
    assert both == {name: int(name.startswith("dog")) for name in files}


@pytest.mark.parametrize(
    "layout", [["{}.png"], ["all/{}.png"], ["{}.png", "some/{}.png"]], ids=["flat", "one folder", "mixed"]
)
def test_without_two_classes_images_are_unlabelled(tmp_path, layout):
    files = {layout[i % len(layout)].format(i): png(i) for i in range(10)}
    train = opened(write_folder(tmp_path, files))["train"]
    assert train.classes == ()
    assert set(labels(train).values()) == {None}


def test_zip_and_folder_of_the_same_images_are_the_same_set(tmp_path):
    files = {f"{kind}/{i}.png": png(10 * ord(kind) + i) for kind in "ab" for i in range(12)}
    plain = opened(write_folder(tmp_path / "images", files))
    wrapped = {f"data/set/{name}": data for name, data in files.items()}
    packed = opened(write_zip(tmp_path / "images.zip", wrapped))
    for split in ("train", "heldout"):
        assert plain[split].fingerprint == packed[split].fingerprint
        assert len(plain[split]) == len(packed[split])
        for index in range(len(plain[split])):
            a, b = plain[split].item(index), packed[split].item(index)
            np.testing.assert_array_equal(a.image, b.image)
            assert (a.label, f"data/set/{a.name}") == (b.label, b.name)


def test_fingerprint_follows_content_names_and_resolution(tmp_path):
    files = {f"{i}.png": png(i) for i in range(12)}
    base = opened(write_folder(tmp_path / "a", files))["train"]
    kept = base.item(0).name
    others = [
        opened(write_folder(tmp_path / "b", files | {kept: png(99)}))["train"],
        opened(write_folder(tmp_path / "c", {name.replace(kept, "z.png"): d for name, d in files.items()}))["train"],
        opened(tmp_path / "a", resolution=12)["train"],
    ]
    assert len({source.fingerprint for source in (base, *others)}) == 4


def test_the_split_depends_on_content_not_on_names(tmp_path):
    files = {f"{i}.png": png(i) for i in range(40)}
    renamed = {f"x/{name}": data for name, data in reversed(files.items())}
    first, second = opened(write_folder(tmp_path / "a", files)), opened(write_folder(tmp_path / "b", renamed))
    assert sorted(names(second["heldout"])) == sorted(f"x/{name}" for name in names(first["heldout"]))
    assert sorted(names(first["train"]) + names(first["heldout"])) == sorted(files)


def test_held_out_number_is_near_the_fraction_and_duplicates_stay_together(tmp_path):
    contents = [f"{i:08x}-{i}" for i in range(3000)]
    assert abs(len(heldout_contents(contents, 0.1, tmp_path)) - 300) < 60
    assert heldout_contents(contents, 0.1, tmp_path) < heldout_contents(contents, 0.2, tmp_path)
    for n, least in ((2, 1), (7, 1), (8, 2)):
        assert len(heldout_contents(contents[:n], 1e-9, tmp_path)) == least
        assert len(heldout_contents(contents[:n], 1 - 1e-9, tmp_path)) == n - 1
    files = {f"{i}-{copy}.png": png(i) for i in range(20) for copy in range(2)}
    splits = opened(write_folder(tmp_path, files))
    sides = [{name.split("-")[0] for name in names(splits[split])} for split in ("train", "heldout")]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("other", ["test", "val", "Validation", "heldout"])
def test_a_given_split_is_used(tmp_path, other):
    files = {f"top/train/{kind}/{i}.png": png(i) for kind in ("a", "b") for i in range(3)}
    files |= {f"top/{other}/{kind}/{i}.png": png(50 + i) for kind in ("a", "b") for i in range(3)}
    splits = opened(write_folder(tmp_path, files))
    assert all(name.startswith("top/train/") for name in names(splits["train"]))
    assert len(splits["train"]) == 6
    assert all(name.startswith(f"top/{other}/") for name in names(splits["heldout"]))
    assert len(splits["heldout"]) == 6
    assert splits["train"].classes == ("a", "b")


def test_val_is_taken_before_test(tmp_path):
    files = {f"{part}/{i}.png": png(i) for part in ("train", "val", "test") for i in range(3)}
    splits = opened(write_folder(tmp_path, files))
    assert names(splits["heldout"]) == [f"val/{i}.png" for i in range(3)]
    assert len(splits["train"]) == 3


def test_limits_choose_by_content(tmp_path):
    files = {f"{i}.png": png(i) for i in range(30)}
    renamed = {f"{29 - int(name[:-4]):02}.png": data for name, data in files.items()}
    few = opened(write_folder(tmp_path / "a", files), n_train=5)["train"]
    same = opened(write_folder(tmp_path / "b", renamed), n_train=5)["train"]
    assert len(few) == len(same) == 5
    assert {few.item(i).image.tobytes() for i in range(5)} == {same.item(i).image.tobytes() for i in range(5)}


def test_the_memo_spares_reading_and_notices_changes(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "images", {f"{i}.png": png(i) for i in range(10)})
    memo = tmp_path / "memo.json"
    first = opened(root, memo=memo)["train"].fingerprint
    read = []
    own = SimpleNamespace(crc32=lambda *args: read.append(1) or zlib.crc32(*args), error=zlib.error)
    monkeypatch.setattr(places, "zlib", own)  # of that module alone: decoders check sums as well
    assert opened(root, memo=memo)["train"].fingerprint == first
    assert not read
    for name in os.listdir(root):
        (root / name).write_bytes(png(77 + int(name[:-4])))
    read.clear()
    assert opened(root, memo=memo)["train"].fingerprint != first
    assert len(read) == 10


def test_broken_and_tiny_files_are_skipped_by_name(tmp_path):
    files = {f"{i:02}.png": png(i) for i in range(38)} | {"bad.png": png(1)[:60], "tiny.png": png(5, side=7)}
    source = opened(write_folder(tmp_path / "images", files), heldout_fraction=0.01)["train"]
    cache = build_cache(source, tmp_path / "cache", workers=2)
    assert {name for name, _ in cache.skipped} == {"bad.png", "tiny.png"} & {entry.name for entry in source._entries}
    assert len(cache) == len(source) - len(cache.skipped)
    assert not {"bad.png", "tiny.png"} & set(cache.names)
    for name, image in zip(cache.names, cache.images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "images" / name)))


def test_too_many_broken_files_are_an_error_that_names_them(tmp_path):
    files = {f"{i}.png": png(i) if i % 4 else b"broken%d" % i for i in range(40)}
    source = opened(write_folder(tmp_path / "images", files))["train"]
    with pytest.raises(UserError, match=r"more than the 10% allowed .*\d+\.png: is no image that Pillow knows"):
        build_cache(source, tmp_path / "cache", workers=2)
    assert os.listdir(tmp_path) == ["images"]


def test_a_corrupt_member_of_a_zip_is_skipped(tmp_path):
    path = write_zip(tmp_path / "images.zip", {f"{i:02}.png": png(i) for i in range(30)})
    data = bytearray(path.read_bytes())
    start = data.find(b"15.png") + 40
    data[start : start + 30] = bytes(30)
    path.write_bytes(data)
    source = opened(path, heldout_fraction=0.01)["train"]
    cache = build_cache(source, tmp_path / "cache", workers=1)
    assert [name for name, _ in cache.skipped] == ["15.png"]


def test_what_is_wrong_with_the_place_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_bytes(b"not a zip")
    write_folder(tmp_path / "single", {"a.png": png(0)})
    for place, said in [
        ("missing", "There is no"),
        ("empty", "holds no images"),
        ("file.zip", "neither a folder nor a zip"),
        ("single", "only one image"),
    ]:
        with pytest.raises(UserError, match=said):
            opened(tmp_path / place)


def test_a_folder_that_may_not_be_read_is_named_unless_it_is_hidden(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {f"{kind}/{i}.png": png(i) for i in range(6) for kind in ("open", "shut", ".trash")})
    scandir, shut = os.scandir, ["shut", ".trash"]

    def refuse(path):
        if os.path.basename(path) in shut:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"shut cannot be read \(Permission denied\)"):
        opened(root)
    shut.remove("shut")
    assert len(opened(root)["train"])


def test_names_and_values_are_checked():
    assert nearest("cifar", ("emoji", "folder", "cifar10")) == ", did you mean 'cifar10'?"
    with pytest.raises(UserError, match="did you mean 'folder'"):
        open_splits("folders", 32)
    with pytest.raises(UserError, match=r"needs data\.path"):
        open_splits("folder", 32)
    with pytest.raises(UserError, match=r"needs data\.n_heldout"):
        open_splits("emoji", 32, n_train=3)
    with pytest.raises(UserError, match="heldout_fraction"):
        open_splits("emoji", 32, n_train=3, n_heldout=3, heldout_fraction=1.0)


@pytest.mark.data
def test_photographs(shared_data, tmp_path):
    splits = opened(shared_data / "data" / "kodak.zip", resolution=64)
    assert len(splits["train"]) + len(splits["heldout"]) == 24
    assert len(splits["heldout"]) >= 2
    cache = build_cache(splits["heldout"], tmp_path / "cache", workers=2)
    with zipfile.ZipFile(shared_data / "data" / "kodak.zip") as archive:
        for name, image in zip(cache.names, cache.images, strict=True):
            photograph = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            side = min(photograph.size)
            left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
            centre = photograph.crop((left, top, left + side, top + side))
            whole = np.asarray(centre.resize((64, 64), Image.Resampling.LANCZOS), float)
            assert np.abs(whole - image).mean() < 1.0


@pytest.mark.long
@pytest.mark.data
def test_labelled_archive(shared_data):
    splits = open_splits("cifar10", 32, path=shared_data / "data" / "cifar10_train.zip")
    assert len(splits["train"]) + len(splits["heldout"]) == 20000
    assert abs(len(splits["heldout"]) - 2000) < 150
    item = splits["train"].item(9000)
    assert splits["train"].classes[item.label] == item.name.split("/")[0]


def test_files_that_hold_many_images_are_told_their_set(tmp_path):
    write_folder(tmp_path, {"a/0.tar": b"", "train.parquet": b""})
    with pytest.raises(UserError, match=r"1 \.tar, 1 \.parquet \(data=webdataset reads \.tar\) \(data=parquet reads"):
        opened(tmp_path)
