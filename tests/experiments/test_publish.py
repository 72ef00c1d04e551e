"""python -m experiments.publish: the records of a store without its files, for others to read."""

import dataclasses
import json
from pathlib import Path

import pytest
from program import copy_of

from analysis.collect import read_study
from experiments.commands import timing
from experiments.commands.publish import main, without_names
from experiments.store import Store
from ldm.records import SHORTLISTS, Shortlist


@pytest.mark.long
def test_what_is_published_gives_the_same_table_and_names_no_folder_and_no_machine(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    into = tmp_path / "published"
    assert main([str(swept_store), "--into", str(into)]) == 0
    assert f"1 sweeps, {len(Store(swept_store).records())} records" in " ".join(capsys.readouterr().out.split())
    files = [path for path in into.rglob("*") if path.is_file() and path.name != ".ldm-store"]
    assert {path.suffix for path in files} == {".json"}
    for path in files:
        assert str(swept_store) not in path.read_text(), path
    records = [json.loads(path.read_text()) for path in into.glob("*/*/record.json")]
    assert not any("host" in record["environment"] for record in records)
    assert {record["environment"]["config"]["store"] for record in records} == {"store"}
    own, published = read_study(swept_store), read_study(into)
    assert own.frame.drop(columns="deviations").equals(published.frame.drop(columns="deviations"))
    before = {path: path.read_bytes() for path in files}
    assert main([str(swept_store), "--into", str(into)]) == 0
    assert before == {path: path.read_bytes() for path in files}


def test_only_a_store_is_read_and_only_what_was_published_is_written_over(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "one.png").touch()
    store = copy_of(swept_store, tmp_path)
    (store / "claims").mkdir(exist_ok=True)
    for arguments, said in (
        ([str(photographs), "--into", str(tmp_path / "new")], "holds no sweeps"),
        ([str(swept_store), "--into", str(photographs)], "is a folder of other things"),
        ([str(swept_store), "--into", str(store)], "is a folder of other things"),
        ([str(swept_store), "--into", str(tmp_path / "new"), "--sweep", "none"], "none"),
    ):
        assert main(arguments) == 2
        assert said in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in photographs.iterdir()] == ["one.png"]
    assert not (tmp_path / "new").exists()


def test_names_are_left_out_at_every_depth() -> None:
    value = {"host": "h", "store": "/a/b", "cells": [{"overrides": ["ae.f=4", "store=/a/b"]}], "n": 1}
    expected = {"store": "store", "cells": [{"overrides": ["ae.f=4", "store=store"]}], "n": 1}
    assert without_names(value, {"/a/b"}) == expected
    assert without_names("run.py 'store=/a/b c' -m", {"/a/b c", "/a/b"}) == "run.py 'store=store' -m"
    assert without_names("run.py store=/a/bc x.restore=/a/b", {"/a/b"}) == "run.py store=/a/bc x.restore=/a/b"


def test_timings_of_its_samples_and_shortlists_come_along(swept_store: Path, tmp_path: Path) -> None:
    store = Store(copy_of(swept_store, tmp_path))
    samples = next(store.record("samples", path.parent.name) for path in store.records("samples"))
    machine, speed = timing.Machine("cpu", "fast", 1), timing.Speed((1.0,), (1.0,), (1.0,), 0.0)
    of_others = dataclasses.replace(samples, identity="0123456789abcdef")
    for key, sampled in (("aaaa", samples), ("bbbb", of_others)):
        store.finish(timing.timing_record(key, sampled, machine, 8, speed))
    choice = Shortlist("chosen", "2026-01-01T00:00:00+00:00", "psnr", False, 0, {"one": 1.0}, ("one",), ())
    store.write_shortlist(choice)
    into = tmp_path / "published"
    assert main([str(store.root), "--into", str(into)]) == 0
    assert [path.parent.name for path in into.glob("timing/*/record.json")] == ["aaaa"]
    assert (into / SHORTLISTS / "chosen.json").read_bytes() == (store.root / SHORTLISTS / "chosen.json").read_bytes()
    assert len(read_study(into).timings) == 1
