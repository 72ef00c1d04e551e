"""Files of weights and checkpoints that mean harm, or are damaged by chance: read, or refused, and nothing is run."""

import contextlib
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import fuzzed, on_another_disk
from hypothesis import strategies as st
from safetensors.torch import save

from ldm.errors import UserError
from ldm.interop.tensors import read_tensors
from ldm.pretrained.weight_files import contents
from ldm.training.checkpoint import load_checkpoint, save_checkpoint

W = {"encoder.a": torch.arange(3.0), "decoder.b": torch.ones(2, 2)}
RUN: list[str] = []


def run(command: str) -> None:
    """What no file may call."""
    RUN.append(command)


def saved(**options: Any) -> bytes:
    written = io.BytesIO()
    torch.save(W, written, **options)
    return written.getvalue()


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def harmful() -> list[bytes]:
    """Files that run something where they are unpickled without care."""
    called = [Calls(run, "me"), Calls(os.system, "exit"), Calls(eval, "run('me')")]
    files = [pickle.dumps(call, protocol) for call in called for protocol in (0, 2, 4)]
    for call in called:
        written = io.BytesIO()
        torch.save({"w": torch.ones(2), "x": call}, written)
        files.append(written.getvalue())
    return files


WHOLE = [saved(), saved(_use_new_zipfile_serialization=False), save(W), pickle.dumps({"a": 1}), *harmful()]


def damaged(content: bytes, place: int, put: bytes, kind: str) -> bytes:
    place %= len(content) + 1
    return {
        "cut": content[:place],
        "overwrite": content[:place] + put + content[place + len(put) :],
        "insert": content[:place] + put + content[place:],
        "remove": content[:place] + content[place + len(put) :],
    }[kind]


CONTENTS = st.one_of(
    st.binary(max_size=100),
    st.builds(
        damaged,
        st.sampled_from(WHOLE),
        st.integers(0, 10_000),
        st.binary(max_size=8),
        st.sampled_from(["cut", "overwrite", "insert", "remove"]),
    ),
)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of all examples, one after another."""
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("hostile")
    return FOLDER


FOLDER = Path()


@fuzzed(content=CONTENTS, suffix=st.sampled_from([".safetensors", ".pt", ".ckpt", ".bin"]))
def test_weights_of_chance_are_read_or_refused(content: bytes, suffix: str) -> None:
    path = FOLDER / f"weights{suffix}"
    path.write_bytes(content)
    for read in (contents, read_tensors):
        with contextlib.suppress(UserError):
            read(path)
    assert RUN == []


@fuzzed(content=CONTENTS, is_hashed=st.booleans())
def test_checkpoints_of_chance_are_read_or_discarded(content: bytes, is_hashed: bool) -> None:
    """Also where their hash is right."""
    path = FOLDER / "checkpoint.pt"
    save_checkpoint(FOLDER / "checkpoint.previous.pt", {"step": 1})
    path.write_bytes(content + hashlib.sha256(content).digest() if is_hashed else content)
    assert isinstance(load_checkpoint(path), dict)
    assert RUN == []


@pytest.mark.parametrize("content", harmful())
def test_what_would_be_run_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError):
        contents(path)
    assert RUN == []


def test_the_harmful_files_do_harm() -> None:
    pickle.loads(harmful()[0])
    assert RUN.pop() == "me"


@pytest.mark.long
def test_an_archive_that_inflates_without_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (70 << 20))
    with pytest.raises(UserError, match="would inflate to hundreds of times its size"):
        contents(path)


def test_an_archive_of_several_disks_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save(W, path)
    path.write_bytes(on_another_disk(path.read_bytes()))
    with pytest.raises(UserError, match="is a damaged zip archive"):
        contents(path)
