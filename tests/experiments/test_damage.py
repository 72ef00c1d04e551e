"""Damaged files: a flipped byte anywhere in a store is named, and no number is made of it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import copy_of, rows, run

from experiments.commands.ledger import main, verify
from experiments.store import Store
from ldm.data.cache import open_cache
from ldm.data.memo import ContentMemo
from ldm.errors import UserError
from ldm.records import STORE_MARK, StageRecord, is_store, read_record, read_sealed, sealed, write_json

UNCHECKED = ("claims", "wandb", "analysis")


def flip(path: Path) -> bytes:
    """Turns one bit in the middle of a file, and gives what it held."""
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    return whole


def written(store: Path) -> Iterator[Path]:
    for path in sorted(store.rglob("*")):
        parts = path.relative_to(store).parts
        if path.is_file() and parts[0] not in UNCHECKED and parts != (STORE_MARK,) and path.stat().st_size:
            yield path


@pytest.mark.long
@pytest.mark.parametrize("kept", ["one of each", pytest.param("all", marks=pytest.mark.slow)])
def test_a_flipped_byte_in_any_file_is_found_and_named(
    kept: str, swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one artifact of each stage and one image cache, or of all."""
    store = copy_of(swept_store, tmp_path)
    assert verify(Store(store)) == 0
    assert "none is damaged" in capsys.readouterr().out
    paths = [path for path in written(store) if path.name != "checksums.json"]
    if kept == "one of each":
        paths = list({(path.relative_to(store).parts[0], path.name): path for path in paths}.values())
    kinds = {path.suffix for path in paths}
    assert {".json", ".npy", ".npz", ".png", ".safetensors"} <= kinds
    for path in paths:
        whole = flip(path)
        code, said = verify(Store(store)), " ".join(capsys.readouterr().out.split())
        path.write_bytes(whole)
        assert code == 1, path
        assert str(path) in said or str(path.parent) in said, path
        assert "1 damaged" in said, path
    assert main(["--store", str(store), "--verify"]) == 0


def test_stages_and_caches_refuse_damaged_files_with_the_remedy(swept_store: Path, tmp_path: Path) -> None:
    store = copy_of(swept_store, tmp_path)
    records = [record for path in store.glob("*/*/record.json") if (record := read_record(path.parent))]
    assert len(records) > 10
    for record in records:
        for name in record.files or ():
            path = store / record.stage / record.identity / name
            whole = flip(path)
            with pytest.raises(UserError, match=f"{name} is damaged.*remove the folder .*{record.identity}"):
                Store(store).file(record, name)
            path.write_bytes(whole)
    [cache] = store.glob("data/train-*")
    for name in ("images.npy", "labels.npy", "unseen.npy", "names.json", "meta.json", "hashes.json"):
        whole = flip(cache / name)
        with pytest.raises(UserError, match=f"{name} .*(is damaged|cannot be read).*remove the folder"):
            open_cache(cache)
        (cache / name).write_bytes(whole)
    open_cache(cache)


@pytest.mark.long
def test_a_run_stops_at_damaged_weights_and_measures_nothing_of_them(swept_store: Path, tmp_path: Path) -> None:
    store = copy_of(swept_store, tmp_path)
    before = rows(store)
    for path in store.glob("diffusion/*/weights.safetensors"):
        flip(path)
    done = run(store, "-m", "ae=vq", "ae.f=4", "sampler.steps=3", "trainer.milestones=[1.0]", "precision=fp32")
    assert done.returncode == 1
    assert "weights.safetensors is damaged" in done.stdout
    assert "remove the folder" in done.stdout
    assert rows(store) == before


def test_records_of_before_the_hashes_are_read_and_said_to_be_unverifiable(
    swept_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = copy_of(swept_store, tmp_path)
    [path, *_] = sorted(store.glob("samples/*/record.json"))
    plain = read_sealed(path)
    del plain["files"]
    write_json(path, plain)
    assert read_record(path.parent) is not None
    assert verify(Store(store)) == 0
    assert "1 were written before files had hashes" in capsys.readouterr().out


def test_a_seal_holds_whatever_json_makes_of_a_value(tmp_path: Path) -> None:
    value = {"numbers": {10: 0.1, 9: (1, 2)}, "none": None, "text": "\u2028"}
    write_json(tmp_path / "a.json", sealed(value))
    assert read_sealed(tmp_path / "a.json")["numbers"] == {"10": 0.1, "9": [1, 2]}
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text().replace("0.1", "0.2"))
    with pytest.raises(ValueError, match="damaged"):
        read_sealed(tmp_path / "b.json")


def test_only_the_programs_own_temporaries_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin("samples", "abc")
    folder = store.folder("samples", "abc")
    (folder / ".ipynb_checkpoints").mkdir()
    for name in (".nfs0000abcd", ".hidden", ".features.npz.1234"):
        (folder / name).write_text("x")
    store.begin("samples", "abc")
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", ".ipynb_checkpoints", ".nfs0000abcd"]


def test_chunks_stay_until_the_record_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, record = Store(tmp_path), StageRecord("samples", "abc", {}, {})
    (store.folder("samples", "abc") / "parts").mkdir(parents=True)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("experiments.store.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            store.finish(record)
    assert (store.folder("samples", "abc") / "parts").exists()
    store.finish(record)
    assert not (store.folder("samples", "abc") / "parts").exists()


def test_files_have_the_rights_that_the_user_asked_for(swept_store: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    wrong = [path for path in written(swept_store) if stat.S_IMODE(path.stat().st_mode) != 0o666 & ~mask]
    assert wrong == []


def test_a_memo_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memo = ContentMemo(tmp_path / "file" / "checksums.json")
    memo.keep("image", [1, 2], "hash")
    memo.save()
    assert memo.recall("image", [1, 2]) == "hash"


def test_a_store_is_known_by_its_mark_and_old_ones_by_their_folders(tmp_path: Path) -> None:
    assert not is_store(tmp_path)
    Store(tmp_path / "new")
    assert is_store(tmp_path / "new")
    for name in ("claims", "sweeps"):
        (tmp_path / "old" / name).mkdir(parents=True)
    assert is_store(tmp_path / "old")
