"""Tar archives of samples, as img2dataset and others write them, and what is said where they are something else."""

import io
import json
import tarfile

import numpy as np
import pytest
from image_places import png
from PIL import Image

from ldm.data import open_splits
from ldm.data.archives import TarFiles
from ldm.data.memo import ContentMemo
from ldm.errors import UserError

N = 8


def shard(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def samples(first=0, folder="./", **endings):
    """Files of N samples; each ending with what makes its content of a sample's number."""
    made = {"jpg": png, **endings}
    numbers = range(first, first + N)
    return {f"{folder}{i:03}.{ending.replace('__', '.')}": make(i) for i in numbers for ending, make in made.items()}


def write(root, **shards):
    for name, data in shards.items():
        (root / f"{name}.tar").write_bytes(data if isinstance(data, bytes) else shard(data))
    return root


def opened(root, **options):
    return open_splits("webdataset", 16, path=root, **options)


def cls(i):
    return b"%d\n" % (i % 3 * 5)


def text(i):
    return f"picture\u2028{i}\nsecond".encode()


def description(i):
    return json.dumps({"caption": f"picture\u2028{i}", "label": f"kind {i % 2}", "url": "x"}).encode()


def test_samples_have_images_classes_and_captions(tmp_path):
    root = write(tmp_path, **{"set-train-0": samples(cls=cls, txt=text), "set-train-1": samples(8, cls=cls, txt=text)})
    write(root, **{"set-val-0": samples(16, cls=cls, txt=text), "set-test-0": samples(24, cls=cls, txt=text)})
    splits = opened(root)
    train, heldout = splits["train"], splits["heldout"]
    assert (len(train), len(heldout)) == (2 * N, N)
    assert train.classes == ("0", "5", "10")
    assert [train.item(i).label for i in range(4)] == [0, 1, 2, 0]
    assert heldout.name(0) == "set-val-0/016.jpg"
    assert heldout.annotation("captions", 0) == "picture\u202816"
    assert (train.item(9).image == np.array(Image.open(io.BytesIO(png(9))))).all()


def test_descriptions_have_captions_and_classes(tmp_path):
    splits = opened(write(tmp_path, **{"00000": samples(json=description, folder="")}))
    train, heldout = splits["train"], splits["heldout"]
    assert (len(train) + len(heldout), train.classes) == (N, ("kind 0", "kind 1"))
    captions = {train.name(i): train.annotation("captions", i) for i in range(len(train))}
    assert captions == {name: f"picture\u2028{int(name[-7:-4])}" for name in captions}


def test_one_archive_is_a_set_and_without_classes_or_captions_too(tmp_path):
    splits = opened(write(tmp_path, **{"00000": samples()}) / "00000.tar")
    assert len(splits["train"]) + len(splits["heldout"]) == N
    assert splits["train"].classes == ()
    assert not splits["train"].annotations


def test_some_images_without_a_class_are_said(tmp_path):
    files = samples(cls=cls)
    del files["./003.cls"]
    train = opened(write(tmp_path, **{"00000": files}))["train"]
    assert train.classes == ()
    assert train.notes == (f"no classes: {N - 1} of {N} images have one, but not 00000/003.jpg",)


def test_pictures_about_pictures_are_no_images_and_of_several_one_is_chosen(tmp_path):
    root = write(tmp_path, **{"00000": samples(mask__png=lambda i: png(i + 50))})
    assert opened(root)["train"].name(0).endswith(".jpg")
    write(root, **{"00000": samples(left__png=lambda i: png(i + 50))})
    with pytest.raises(UserError, match=r"00000/000\.jpg, 00000/000\.left\.png; .* data\.image=jpg or left\.png"):
        opened(root)
    assert opened(root, image="left.png")["train"].name(0).endswith(".left.png")


GOOD = shard(samples())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"holds no \.tar files; for a folder of images use data=folder"),
        ({"a.tar.gz": b""}, r"a\.tar\.gz is compressed, so no image in it can be read by itself"),
        ({"a.tar": shard(samples(), "w:gz")}, r"a\.tar cannot be read as an uncompressed tar archive"),
        ({"a.tar": GOOD[:5000]}, r"a\.tar cannot be read as an uncompressed tar archive"),
        ({"a.tar": shard({"0.wav": b"", "0.txt": b""})}, r"hold no images that Pillow reads; there is \.txt, \.wav"),
        ({"a-train-0.tar": GOOD, "b.tar": GOOD}, "name of a-train-0 says its split, that of b does not"),
        ({"a.tar": shard(samples(cls=lambda _: b"\xff"))}, r"000\.cls is not UTF-8"),
        ({"a.tar": shard(samples(json=lambda _: b"{"))}, r"000\.json is not JSON"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, files, said):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        opened(tmp_path)


def test_more_archives_than_a_process_may_hold_open(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(40):
        write(tmp_path, **{f"{number:05}": {f"{number}.png": png(number)}})
    # The limit is on the number of a descriptor, and the process that runs the tests has some open.
    with open(tmp_path / "00000.tar", "rb") as newest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (newest.fileno() + 16, hard))
    try:
        train = opened(tmp_path)["train"]
        assert all(train.item(i).image.shape == (16, 16, 3) for i in range(len(train)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_classes_are_read_once(tmp_path, monkeypatch):
    root, memo = write(tmp_path, **{"00000": samples(cls=cls)}), tmp_path / "memo.json"
    first = opened(root, memo=memo)["train"]
    monkeypatch.setattr(TarFiles, "read", lambda *_: pytest.fail("read again"))
    again = opened(root, memo=memo)["train"]
    assert (again.fingerprint, again.classes) == (first.fingerprint, first.classes)


def test_a_sparse_member_is_not_inflated(tmp_path):
    data = shard({"0.png": png(0)})
    sparse = bytearray(tarfile.TarInfo("1.png").tobuf(tarfile.GNU_FORMAT))
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    sparse[386:410] = b"00000000000\0" * 2
    sparse[483:495] = b"77777777777\0"
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    (tmp_path / "a.tar").write_bytes(bytes(sparse) + data)
    assert TarFiles(tmp_path / "a.tar", ContentMemo(None)).names == ("0.png",)
