"""Records survive the way to disk and back, and are never read half written."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ldm import records
from ldm.records import (
    Cell,
    Choice,
    Cost,
    LeftOut,
    Protocol,
    ResultRow,
    StageRecord,
    Sweep,
    content_hash,
    read_record,
    write_json,
)

RECORD = StageRecord(
    stage="evaluation",
    identity="abc",
    config={"sampler": {"steps": 20, "eta": 0.1}, "f": 4},
    parents={"samples": "def"},
    facts={"shape": [4, 8, 8]},
    rows=(ResultRow("fd", 12.25, 500, "p1", 11.0, 13.5, 2000, 0), ResultRow("psnr", 0.1 + 0.2, 64)),
    left_out=(LeftOut("kd", "too few images"),),
    protocols={"p1": {"kind": "generation"}},
    cost=Cost(2.0, 500, 1e12, 123, {"denoise": 1.5}),
    environment={"torch": "2"},
    created="2024-01-01",
)
PROTOCOL = Protocol(
    "generation", 500, "heldout", "h", 400, 32, "bicubic", "lite2", 112, "w", "fp32", "uniform", 0, ("judge = loss",)
)


def test_a_record_comes_back_from_disk_as_it_was(tmp_path):
    write_json(tmp_path / "new" / "record.json", RECORD.to_json())
    assert read_record(tmp_path / "new") == RECORD


def test_an_unfinished_folder_has_no_record(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"part")
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "missing") is None


def test_a_sweep_comes_back_from_disk_as_it_was(tmp_path):
    cells = (Cell("c1", {"f": 4}, ("ae.f=4", "seed=1"), {"first_stage": "x"}), Cell("c2", {"f": 8}, (), {}))
    sweep = Sweep(
        "s1", "2024", "python run.py -m ae.f=4,8", cells, choices={"sampler": {"ddim": Choice("DDIM", ("eta",))}}
    )
    write_json(tmp_path / "s1.json", sweep.to_json())
    assert Sweep.from_json(json.loads((tmp_path / "s1.json").read_text())) == sweep


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"value": 2, "then": object()})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(records.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"value": 3})
    assert json.loads(path.read_text()) == {"value": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_hash_ignores_the_order_of_keys_and_nothing_else():
    value = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert content_hash(value) == content_hash({"b": {"d": None, "c": [1, 2]}, "a": 1})
    others = [
        {"a": 1.5, "b": {"c": [1, 2], "d": None}},
        {"a": 1, "b": {"c": [2, 1], "d": None}},
        {"a": 1, "b": {"c": [1, 2], "d": False}},
        {"a": "1", "b": {"c": [1, 2], "d": None}},
    ]
    assert len({content_hash(v) for v in [value, *others]}) == 5
    assert content_hash({"f": 4}) == "739919c4779b9938", "identities of existing stores must not change"
    assert len(content_hash(value, 10)) == 10


def test_every_field_of_a_protocol_tells_it_apart():
    ids = {PROTOCOL.id}
    for field in dataclasses.fields(Protocol):
        value = getattr(PROTOCOL, field.name)
        changed = value + 1 if isinstance(value, int) else (*value, "x") if isinstance(value, tuple) else value + "x"
        ids.add(dataclasses.replace(PROTOCOL, **{field.name: changed}).id)
    assert len(ids) == 1 + len(dataclasses.fields(Protocol))
    assert PROTOCOL.id == dataclasses.replace(PROTOCOL).id


def test_a_field_that_protocols_lacked_at_first_leaves_their_ids():
    fields = dataclasses.asdict(PROTOCOL)
    assert fields.pop("sampler") == ""
    assert PROTOCOL.id == content_hash(fields, 10)


def test_throughput_is_images_by_seconds_and_zero_where_nothing_was_timed():
    assert RECORD.cost.images_per_second == 250
    assert Cost(images=10).images_per_second == 0


def test_records_are_read_without_torch():
    code = "import sys, ldm, ldm.records, ldm.errors; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
