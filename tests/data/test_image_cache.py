"""The memory-mapped cache: equal to its source, whole or absent, safe beside another builder."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from ldm.data import Item, build_cache, open_cache, open_splits
from ldm.data.contract import Annotation
from ldm.data.fields import label
from ldm.errors import UserError
from ldm.records import read_sealed, sealed

N = 70


@dataclass
class Ramp:
    """Images whose every pixel tells index and place, slow enough to be killed where asked."""

    pause: float = 0.0
    classes: tuple = ("even", "odd")
    fingerprint: str = "ramp"
    resolution: int = 5
    size: tuple = (5, 5)
    max_skipped_fraction: float = 0.0
    annotations: Mapping[str, Annotation] = field(default_factory=dict)

    def __len__(self):
        return N

    def name(self, index):
        return f"image {index}"

    def annotation(self, kind, index):
        raise KeyError(kind)

    def item(self, index):
        time.sleep(self.pause)
        pixels = (np.arange(75).reshape(5, 5, 3) + 2 * index).astype(np.uint8)
        return Item(pixels, self.name(index), index % 2 if self.classes else None)


@pytest.fixture
def source():
    return open_splits("emoji", 24, n_train=N, n_heldout=N)["heldout"]


def test_everything_comes_back(source, tmp_path):
    seen = []
    build_cache(source, tmp_path / "cache", workers=2, report=lambda done, total: seen.append((done, total)))
    cache = open_cache(tmp_path / "cache")
    assert seen[-1] == (N, N)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert (cache.fingerprint, cache.resolution, cache.classes) == (source.fingerprint, 24, source.classes)
    assert isinstance(cache.images, np.memmap)
    for index in range(N):
        item = source.item(index)
        np.testing.assert_array_equal(cache.images[index], item.image)
        np.testing.assert_array_equal(cache.semantic[index], item.semantic)
        assert cache.names[index] == item.name
        assert cache.labels[index] == item.label
        assert cache.captions[index] == item.caption
        assert cache.boxes[index] == item.boxes
        assert cache.unseen_objects[index] == item.unseen_objects == (index % 10 == 9)


def test_batches_are_scaled_and_mirrored(tmp_path):
    cache = build_cache(Ramp(), tmp_path / "cache", workers=1)
    indices = [7, 3, 7]
    raw = cache.uint8(indices)
    assert raw.dtype == torch.uint8
    for row, index in enumerate(indices):
        np.testing.assert_array_equal(raw[row].permute(1, 2, 0).numpy(), Ramp().item(index).image)
    batch = cache.batch(torch.tensor(indices), flip=torch.tensor([True, False, False]))
    torch.testing.assert_close((batch + 1) * 127.5, torch.stack([raw[0].flip(-1), raw[1], raw[2]]).float())
    assert batch.min() >= -1 <= batch.max() <= 1
    assert torch.equal(label(cache, np.asarray(indices), None), torch.tensor([1, 1, 1]))
    assert torch.equal(label(cache, np.arange(4), None), torch.tensor([0, 1, 0, 1]))


def test_sets_without_annotations_say_so(tmp_path):
    cache = build_cache(Ramp(classes=()), tmp_path / "cache", workers=1)
    assert cache.labels.tolist() == [-1] * N
    assert set(cache.labels) == {-1}
    assert (cache.semantic, cache.captions, cache.boxes) == (None, None, None)


def test_a_second_build_opens_the_first(tmp_path):
    build_cache(Ramp(), tmp_path / "cache", workers=1)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    build_cache(Ramp(), tmp_path / "cache", workers=1, report=lambda *_: pytest.fail("decoded again"))
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == before
    with pytest.raises(UserError, match="another image set"):
        build_cache(Ramp(fingerprint="other"), tmp_path / "cache", workers=1)


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path):
    place = tmp_path / "cache"
    process = multiprocessing.get_context("fork").Process(target=build_cache, args=(Ramp(pause=0.05), place, 1))
    process.start()
    while not list(tmp_path.glob(".cache.*/images.npy")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not place.exists()
    with pytest.raises(UserError, match="no finished image cache"):
        open_cache(place)
    cache = build_cache(Ramp(), place, workers=2)
    np.testing.assert_array_equal(cache.images[-1], Ramp().item(N - 1).image)
    assert os.listdir(tmp_path) == ["cache"]  # what the killed builder left is gone


def test_the_name_is_given_by_one_rename_of_a_finished_folder(tmp_path, monkeypatch):
    def stopped(work, place):
        assert (work / "meta.json").exists()
        assert not place.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm.data.cache.os.rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_cache(Ramp(), tmp_path / "cache", workers=1)
    assert os.listdir(tmp_path) == []


def test_a_folder_without_meta_is_no_cache_and_is_replaced(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images.npy").write_bytes(b"half")
    with pytest.raises(UserError, match="no finished image cache"):
        open_cache(tmp_path / "cache")
    assert len(build_cache(Ramp(), tmp_path / "cache", workers=1)) == N


def test_builders_at_the_same_time_do_not_disturb_each_other(tmp_path):
    caches = []
    builders = [
        threading.Thread(target=lambda: caches.append(build_cache(Ramp(pause=0.002), tmp_path / "cache", 2)))
        for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    expected = np.stack([Ramp().item(i).image for i in range(N)])
    assert len(caches) == 3
    for cache in caches:
        np.testing.assert_array_equal(cache.images, expected)
    assert os.listdir(tmp_path) == ["cache"]


def test_a_cache_of_another_format_is_refused(tmp_path):
    build_cache(Ramp(), tmp_path / "cache", workers=1)
    meta = read_sealed(tmp_path / "cache" / "meta.json")
    (tmp_path / "cache" / "meta.json").write_text(json.dumps(sealed(meta | {"format": 0})))
    with pytest.raises(UserError, match="format 0"):
        open_cache(tmp_path / "cache")


def test_what_lies_beside_the_images_is_there_as_soon_as_they_are(tmp_path, monkeypatch):
    """A kill right behind the images' own files must not leave a cache that looks finished without it."""
    published = []

    def publish(work, folder):
        published.append({path.name for path in work.iterdir()})
        os.rename(work, folder)

    monkeypatch.setattr("ldm.data.cache._publish", publish)
    build_cache(Ramp(), tmp_path / "cache", 1, beside={"said.json": {"by": 1}})
    [files] = published
    assert {"said.json", "meta.json"} <= files
    assert json.loads((tmp_path / "cache" / "said.json").read_text()) == {"by": 1}


def test_what_a_killed_builder_left_goes_at_the_next_chance(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / f".other-cache.{socket.gethostname()}.{int(dead.stdout)}.abcdef01"
    left.mkdir()
    build_cache(Ramp(), tmp_path / "cache", workers=1)
    assert not left.exists()
