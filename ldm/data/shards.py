"""Large files that hold many images each: which there are below a path, and the side that their names say."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ldm.data.contract import Split
from ldm.data.files import DirectoryFiles
from ldm.data.memo import ContentMemo
from ldm.data.picture_names import HELDOUT, TRAIN, words_of
from ldm.errors import UserError


def find_shards(path: Path, suffix: str, packed: Sequence[str] = ()) -> dict[str, Path]:
    """The files with that suffix, by their path below without it; `path` may be one of them.

    Raises: UserError where there are none, or some are `packed` in a way that cannot be read in part.
    """
    if not path.exists():
        raise UserError(f"There is no {path}; set data.path to a folder of {suffix} files.")
    below = (
        {path.name: path} if path.is_file() else {n: path / n for n in DirectoryFiles(path, ContentMemo(None)).names}
    )
    compressed = next((name for name in below if name.lower().endswith(tuple(packed))), None)
    if compressed is not None:
        raise UserError(f"{below[compressed]} is compressed, so no image in it can be read by itself; unpack it first.")
    found = {name[: -len(suffix)]: file for name, file in below.items() if name.lower().endswith(suffix)}
    if not found:
        raise UserError(f"{path} holds no {suffix} files; for a folder of images use data=folder.")
    return found


def sides_of(shards: Sequence[str], path: Path) -> dict[str, Split | None]:
    """The side of each shard; None for all where their names do not give both, and for those that take no part.

    The last part of a path that says "train", "validation", "test" or the like counts. Of several held-out sides the
    first in the usual order is taken, as of folders.
    Raises: UserError where names of some give a side and names of others none.
    """
    said = {shard: _word(shard) for shard in shards}
    without = [shard for shard, word in said.items() if word is None]
    if len(without) == len(said):
        return dict.fromkeys(shards)
    if without:
        split = next(shard for shard, word in said.items() if word is not None)
        raise UserError(
            f"{path}: the name of {split} says its split, that of {without[0]} does not; name all of them so "
            "(train, validation, test), or none, and a share is held out of all."
        )
    heldout = next((word for word in HELDOUT if word in said.values()), None)
    if heldout is None or not set(TRAIN) & set(said.values()):
        return dict.fromkeys(shards)
    sides: dict[str | None, Split] = {**dict.fromkeys(TRAIN, "train"), heldout: "heldout"}
    return {shard: sides.get(word) for shard, word in said.items()}


def _word(shard: str) -> str | None:
    for part in reversed(PurePosixPath(shard).parts):
        words = [word for word in words_of(part) if word in (*TRAIN, *HELDOUT)]
        if len(words) == 1:
            return words[0]
    return None
