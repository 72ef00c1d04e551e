"""Captions from the files in which people keep them, and what is said where they are wrong."""

import json
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest
from image_places import opened, png, write_folder, write_zip

from ldm.data import build_cache
from ldm.errors import UserError

N = 12
IMAGES = {f"deep/{i:02}.png": png(i) for i in range(N)}


def caption(name):
    return f"picture {int(name.split('/')[-1][:-4])}, größer"


def metadata(kind, column="text", folder="deep", named=lambda name: name.split("/")[-1]):
    rows = [{"file_name": named(name), column: caption(name), "other": 1} for name in IMAGES]
    if kind == "jsonl":
        return {f"{folder}/metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()}
    lines = [f"other,file_name,{column}", *(f'1,{row["file_name"]},"{row[column]}"' for row in rows)]
    return {f"{folder}/metadata.csv": "\r\n".join(lines).encode("utf-8-sig")}


def sidecars(folder="deep/"):
    return {f"{folder}{i:02}.txt": f"\n {caption(f'{i:02}.png')} \nsecond line".encode() for i in range(N)}


def coco():
    images = [{"id": 10 + i, "file_name": name.split("/")[-1]} for i, name in enumerate(IMAGES)]
    captions = [{"image_id": 10 + i, "caption": caption(name)} for i, name in enumerate(IMAGES)]
    later = [{"image_id": 10, "caption": "a second one"}]
    return {"notes/captions.json": json.dumps({"images": images, "annotations": captions + later}).encode()}


KEPT_AS = {
    "sidecars": (sidecars(), {}),
    "jsonl": (metadata("jsonl"), {}),
    "csv": (metadata("csv", "caption"), {}),
    "from the top": (metadata("jsonl", folder=".", named=lambda name: name), {}),
    "explicit": ({"notes/all.jsonl": metadata("jsonl")["deep/metadata.jsonl"]}, {"captions": "notes/all.jsonl"}),
    "COCO": (coco(), {"captions": "notes/captions.json"}),
    "a folder of text": (sidecars("words/"), {"captions": "words"}),
}


def captions_of(source):
    assert source.annotations["captions"].fingerprint
    return {source.name(i): source.annotation("captions", i) for i in range(len(source))}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("how", KEPT_AS)
def test_every_way_of_keeping_captions_gives_the_same(tmp_path, how, packed):
    files, settings = KEPT_AS[how]
    plain = opened(write_folder(tmp_path / "plain", IMAGES | sidecars()))
    write = write_zip if packed else write_folder
    other = opened(write(tmp_path / "other.zip", IMAGES | files), **settings)
    for split in ("train", "heldout"):
        assert captions_of(other[split]) == {name: caption(name) for name in captions_of(plain[split])}
        assert other[split].annotations["captions"] == plain[split].annotations["captions"]
        assert other[split].fingerprint == plain[split].fingerprint


def test_captions_elsewhere_on_the_machine(tmp_path):
    images = write_folder(tmp_path / "images", IMAGES)
    write_folder(tmp_path / "notes", sidecars("") | {"all.csv": metadata("csv")["deep/metadata.csv"]})
    write_zip(tmp_path / "notes.zip", sidecars())
    found = [
        captions_of(opened(images, captions=tmp_path / place)["train"])
        for place in ("notes", "notes.zip", "notes/all.csv")
    ]
    assert found[0] == found[1] == found[2]
    assert all(value == caption(name) for name, value in found[0].items())


def test_images_alone_have_no_captions_and_their_fingerprint_never_changes(tmp_path):
    bare = opened(write_folder(tmp_path / "a", IMAGES))["train"]
    assert "captions" not in bare.annotations
    assert dict(bare.annotations) == {}
    with pytest.raises(KeyError):
        bare.annotations["captions"]
    described = opened(write_folder(tmp_path / "b", IMAGES | sidecars()))["train"]
    write_folder(tmp_path / "c", IMAGES | sidecars() | {f"deep/{described.name(0)[5:7]}.txt": b"other"})
    changed = opened(tmp_path / "c")["train"]
    assert bare.fingerprint == described.fingerprint == changed.fingerprint
    assert described.annotations["captions"] != changed.annotations["captions"]


def test_captions_are_read_when_they_are_asked_for_and_checked_once(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "a", IMAGES | {"deep/metadata.jsonl": b"no JSON"})
    source = opened(root)["train"]  # nothing said
    assert list(source.annotations) == ["captions"]
    with pytest.raises(UserError, match=r"deep/metadata\.jsonl, line 1: is not JSON"):
        source.annotations["captions"]
    write_folder(root, metadata("jsonl"))
    memo = tmp_path / "memo.json"
    first = opened(root, memo=memo)["train"].annotations["captions"]
    monkeypatch.setattr("ldm.data.annotations.captions._listed", lambda *_: pytest.fail("read again"))
    assert opened(root, memo=memo)["train"].annotations["captions"] == first
    (root / "deep" / "metadata.jsonl").write_bytes(b"")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        opened(root, memo=memo)["train"].annotations["captions"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"metadata.jsonl": b'{"file_name": "a.png", "text": "x"}\n[1]'}, r"metadata\.jsonl, line 2: a JSON object"),
        ({"metadata.jsonl": b'{"text": "x"}'}, r"line 1: has no file_name; expected file_name and text .* is text"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "label": 3}'}, r"has no text \(or caption\); .* file_name, label"),
        ({"metadata.jsonl": b'{"file_name": "a.png", "text": 3}'}, r"line 1: has no text \(or caption\)"),
        ({"metadata.csv": b"image,text\n1.png,x"}, r"metadata\.csv, line 2: has no file_name; .* image, text"),
        ({"metadata.csv": "file_name,text\n1.png,größer".encode("latin1")}, r"metadata\.csv is not UTF-8 text"),
        ({"metadata.csv": b"file_name,text\nelse.png,x"}, r"no file name in it is that of one image.*'else\.png'"),
        ({"metadata.csv": b"file_name,text\n"}, r"images in .* have no captions, more than the 10% allowed"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(tmp_path, files, said):
    source = opened(write_folder(tmp_path, IMAGES | {f"deep/{name}": data for name, data in files.items()}))["train"]
    with pytest.raises(UserError, match=said):
        source.annotations["captions"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nothing.csv", r"data\.captions=nothing\.csv is neither in .* nor a path on this machine"),
        ("deep", r"data\.captions=.*deep holds no \.txt file named as an image"),
        ("deep/00.png", r"data\.captions=deep/00\.png is no \.jsonl, \.csv or \.json file and no folder"),
    ],
)
def test_a_setting_that_names_nothing_is_refused_at_once(tmp_path, given, said):
    with pytest.raises(UserError, match=said):
        opened(write_folder(tmp_path, IMAGES), captions=given)


def test_one_text_for_two_images_is_refused(tmp_path):
    write_folder(tmp_path, {f"{kind}/0.png": png(ord(kind)) for kind in "ab"} | {"words/0.txt": b"which?"})
    with pytest.raises(UserError, match=r"words/0\.txt could belong to a/0\.png and to b/0\.png"):
        opened(tmp_path, captions="words")


def test_images_without_a_caption_are_named_and_have_an_empty_one(tmp_path, caplog):
    few = {name: data for name, data in sidecars().items() if name != "deep/05.txt"} | {"deep/06.txt": b" \n"}
    write_folder(tmp_path, IMAGES | few)
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path, max_skipped_fraction=0.2, heldout_fraction=1e-9)["train"]
        found = captions_of(source)
    lacking = sorted({"deep/05.png", "deep/06.png"} & set(found))
    assert lacking
    assert all((found[name] == "") == (name in lacking) for name in found)
    assert f"{len(lacking)} of {len(found)} images" in caplog.text
    assert ", ".join(lacking) in caplog.text
    with pytest.raises(UserError, match=r"have no captions, more than the 0% allowed .*deep/0[56]\.png"):
        opened(tmp_path, max_skipped_fraction=0.0, heldout_fraction=1e-9)["train"].annotations["captions"]


def test_the_cache_stores_captions_beside_the_images_without_decoding_these_again(tmp_path, monkeypatch):
    files = IMAGES | {"deep/00broken.png": b"no image", "deep/00broken.txt": b"x"}
    root = write_folder(tmp_path / "images", files | sidecars())
    options = {"heldout_fraction": 1e-9, "max_skipped_fraction": 0.2}
    cache = build_cache(opened(root, **options)["train"], tmp_path / "cache", workers=2)
    assert (cache.captions, dict(cache.annotations)) == (None, {})
    monkeypatch.setattr("ldm.data.listing.decode_image", lambda *_: pytest.fail("decoded again"))
    again = build_cache(opened(root, **options)["train"], tmp_path / "cache", workers=2, annotations=["captions"])
    np.testing.assert_array_equal(again.images, cache.images)
    assert again.captions == tuple(caption(name) for name in cache.names)
    write_folder(root, {f"deep/{i:02}.txt": b"new" for i in range(N)})
    other = build_cache(opened(root, **options)["train"], tmp_path / "cache", workers=2, annotations=["captions"])
    assert set(other.captions) == {"new"}
    assert again.annotations["captions"] != other.annotations["captions"]
    assert len(list((tmp_path / "cache").glob("captions-*.json"))) == 2
    monkeypatch.setattr("ldm.data.listing.FileImages.annotation", lambda *_: pytest.fail("read again"))
    assert build_cache(opened(root, **options)["train"], tmp_path / "cache", 1, annotations=["captions"]).captions


ABOUT_CLASSES = {
    "deep/metadata.csv": "\n".join(["file_name,label", *(f"{i:02}.png,{i % 2}" for i in range(N))]).encode()
}


@pytest.mark.parametrize(
    "captions", [sidecars(), metadata("jsonl"), {"captions_val.json": coco()["notes/captions.json"]}]
)
def test_captions_join_metadata_about_something_else(tmp_path, captions):
    source = opened(write_folder(tmp_path, IMAGES | ABOUT_CLASSES | captions))["train"]
    assert source.classes == ("0", "1")
    found = captions_of(source)
    assert found == {name: caption(name) for name in found}


def test_metadata_about_something_else_alone_is_said(tmp_path):
    source = opened(write_folder(tmp_path, IMAGES | {"deep/metadata.csv": b"file_name,licence\n00.png,free\n"}))[
        "train"
    ]
    with pytest.raises(UserError, match=r"has no text \(or caption\); .* there is file_name, licence"):
        source.annotations["captions"]


def test_files_that_disagree_on_a_caption_are_refused(tmp_path):
    other = {"deep/metadata.csv": metadata("csv")["deep/metadata.csv"].replace(b"picture 7", b"picture of a cat")}
    source = opened(write_folder(tmp_path, IMAGES | metadata("jsonl") | other))["train"]
    with pytest.raises(
        UserError, match=r"metadata.jsonl: deep/07.png has the caption 'picture 7, .* 'picture of a cat"
    ):
        source.annotations["captions"]
    assert len(captions_of(opened(tmp_path, captions="deep/metadata.csv")["train"])) == len(source)


def test_metadata_that_cannot_be_read_is_no_set_without_classes_in_silence(tmp_path):
    table = ABOUT_CLASSES["deep/metadata.csv"]
    for content, said in ((table.decode().encode("utf-16"), "is not UTF-8"), (table + b"x" * 200_000, "as CSV")):
        source = opened(write_folder(tmp_path, IMAGES | {"deep/metadata.csv": content}))["train"]
        assert source.classes == ()
        assert any("no classes are read" in note and said in note for note in source.notes)


@dataclass
class SlowCaptions:
    """A source whose captions take long enough for a builder to be killed between them."""

    inner: object
    pause: float

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def annotation(self, kind, index):
        time.sleep(self.pause)
        return self.inner.annotation(kind, index)


def test_a_killed_annotation_is_made_again(tmp_path):
    source = opened(write_folder(tmp_path / "images", IMAGES | sidecars()))["train"]
    place = tmp_path / "cache"
    images = build_cache(source, place, workers=1).images
    slow = SlowCaptions(source, pause=0.5)
    arguments = (slow, place, 1, None, ["captions"])
    process = multiprocessing.get_context("fork").Process(target=build_cache, args=arguments)
    process.start()
    while not list(tmp_path.glob(".cache.*")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(place.glob("captions-*"))
    cache = build_cache(source, place, workers=1, annotations=["captions"])
    assert len(cache.captions) == len(images)
    assert sorted(os.listdir(tmp_path)) == ["cache", "images"]  # what the killed builder left is gone


def test_an_interrupted_annotation_leaves_nothing(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "images", IMAGES | sidecars())
    source = opened(root)["train"]
    build_cache(source, tmp_path / "cache", workers=1)
    before = sorted(file.name for file in (tmp_path / "cache").iterdir())

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ldm.data.cache.os.replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_cache(source, tmp_path / "cache", workers=1, annotations=["captions"])
    assert sorted(file.name for file in (tmp_path / "cache").iterdir()) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cache", "images"]
    assert build_cache(source, tmp_path / "cache", workers=1, annotations=["captions"]).captions
