"""Chunks of a stage's work: made once, whatever is killed."""

import time
from pathlib import Path

import numpy as np
import pytest

from experiments.chunks import Chunks
from ldm.intact import write_atomically


def test_a_later_try_finds_what_an_earlier_one_made(tmp_path: Path) -> None:
    """With the seconds that it took then."""

    def slowly() -> dict[str, np.ndarray]:
        time.sleep(0.05)
        return {"bits": np.arange(3.0), "none": np.zeros((2, 0), np.float32)}

    first = Chunks(tmp_path)
    made = first.chunk("0-3", slowly)
    assert first.seconds_before == 0
    second = Chunks(tmp_path)
    kept = second.chunk("0-3", lambda: pytest.fail("it was made already"))
    assert set(kept) == {"bits", "none"}
    assert all(kept[name].dtype == made[name].dtype for name in made)
    np.testing.assert_array_equal(kept["bits"], made["bits"])
    assert second.seconds_before >= 0.05


def test_a_damaged_chunk_is_made_again_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Chunks(tmp_path).chunk("0-3", lambda: {"bits": np.arange(300.0)})
    path = tmp_path / "parts" / "0-3.npz"
    whole = bytearray(path.read_bytes())
    for content in (whole[:50], whole[: len(whole) // 2], whole[:700] + bytes([whole[700] ^ 1]) + whole[701:]):
        path.write_bytes(content)
        again = Chunks(tmp_path)
        np.testing.assert_array_equal(again.chunk("0-3", lambda: {"bits": np.arange(300.0)})["bits"], made["bits"])
        assert again.seconds_before == 0
        assert "0-3.npz is damaged" in " ".join(capsys.readouterr().out.split())


def test_what_was_not_written_to_its_end_is_made_again(tmp_path: Path) -> None:
    """A half-written file has another name."""

    def broken(file) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    chunks = Chunks(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(chunks.folder / "x.npz", broken)
    assert chunks.chunk("x", lambda: {"value": np.ones(1)})["value"] == 1
