"""Remembers what was computed from the content of files, as long as their sizes and times stay the same."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ldm.records import read_sealed, sealed, write_json


def signature(files: Sequence[Path]) -> list[int]:
    """Sizes and modification times: what shows, without reading them, that files have not changed."""
    stats = [file.stat() for file in files]
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]


class ContentMemo:
    """Values by key and signature, saved in one JSON file; without a file they last as long as the object."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._changed = False
        self._values: dict[str, tuple[list[int], str]] = {}
        if path is not None and path.exists():
            try:
                self._values = {key: (sign, value) for key, (sign, value) in read_sealed(path).items()}
            except (ValueError, AttributeError, TypeError):
                self._values = {}  # a damaged memo costs only time

    def recall(self, key: str, sign: list[int]) -> str | None:
        """The value saved for `key` under this signature."""
        kept = self._values.get(key)
        return kept[1] if kept is not None and kept[0] == sign else None

    def keep(self, key: str, sign: list[int], value: str) -> None:
        """Remembers a value; `save` writes it."""
        self._values[key] = (sign, value)
        self._changed = True

    def save(self) -> None:
        """Writes what is new, atomically; where that cannot be, a store that is only read among others, it is lost."""
        if self._path is not None and self._changed:
            with contextlib.suppress(OSError):
                write_json(self._path, sealed(self._values))
            self._changed = False
