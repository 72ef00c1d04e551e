"""Places with files, whether a folder or an archive: what is there, what each file holds, and its bytes."""

import io
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from ldm.data.memo import ContentMemo, signature
from ldm.errors import UserError
from ldm.intact import inflates_too_far, is_zip
from ldm.records import is_store

READ_BLOCK = 1 << 20
HASHING_THREADS = 8

READ_ERRORS = (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a file may raise where the place is damaged."""


class Files(Protocol):
    """A place with files, named by their path in it."""

    @property
    def path(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]:
        """All visible files, sorted."""
        ...

    def identities(self, names: Sequence[str]) -> list[str]:
        """What identifies the content of these files: crc32 and size."""
        ...

    def signature(self, names: Sequence[str]) -> list[int]:
        """What shows, without reading them, that these files have not changed."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The file, to be read in part; raises one of `READ_ERRORS` where it cannot be had."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises as `open` does."""
        ...

    def __hash__(self) -> int: ...


def is_visible(name: str) -> bool:
    """Whether a relative path names no hidden file."""
    return not any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))


def _refuse(error: OSError) -> None:
    # A folder left out without a word would make another set of the same path.
    raise UserError(
        f"The folder {error.filename} cannot be read ({error.strerror}); give yourself the right to read it, or choose "
        "a folder without it."
    ) from error


class DirectoryFiles:
    """The files below a directory, through symbolic links as well; only those right in it where it is not `deep`."""

    def __init__(self, path: Path, memo: ContentMemo, deep: bool = True) -> None:
        self.path = path
        self._memo = memo
        self._deep = deep

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._walk()))

    def identities(self, names: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            identities = list(pool.map(self._identity, names))
        self._memo.save()
        return identities

    def signature(self, names: Sequence[str]) -> list[int]:
        return signature([self.path / name for name in names])

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def _walk(self) -> Iterator[str]:
        visited = set()
        for folder, folders, files in os.walk(self.path, onerror=_refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link back to a folder above
                folders.clear()
                continue
            visited.add(real)
            if not self._deep:
                folders.clear()
            # What this program wrote is no image of a set, wherever its store lies.
            folders[:] = [below for below in folders if is_visible(below) and not is_store(Path(folder, below))]
            folders.sort()  # so that of two ways to one folder the same is always taken
            below = os.path.relpath(folder, self.path).replace(os.sep, "/")
            for file in files:
                name = f"{below}/{file}" if below != "." else file
                if is_visible(name) and os.path.isfile(os.path.join(folder, file)):
                    yield name

    def _identity(self, name: str) -> str:
        path = self.path / name
        key, sign = os.path.abspath(path), signature([path])
        known = self._memo.recall(key, sign)
        if known is not None:
            return known
        crc, size = 0, 0
        with path.open("rb") as file:
            while block := file.read(READ_BLOCK):
                crc, size = zlib.crc32(block, crc), size + len(block)
        self._memo.keep(key, sign, identity(crc, size))
        return identity(crc, size)


class ZipFiles:
    """The files in a zip archive; identities come from its directory, without reading them.

    Archives made on Windows may hold backslashes between folders.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = zipfile.ZipFile(path)
        self._lock = threading.Lock()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self._entries if is_visible(name)))

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        found = {info.filename.replace("\\", "/"): info for info in self._archive.infolist()}
        return {name: info for name, info in found.items() if not name.endswith("/")}

    def identities(self, names: Sequence[str]) -> list[str]:
        infos = [self._entries[name] for name in names]
        return [identity(info.CRC, info.file_size) for info in infos]

    def signature(self, names: Sequence[str]) -> list[int]:
        return signature([self.path])

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        info = self._entries[name]
        if inflates_too_far(info):
            raise OSError(f"would inflate from {info.compress_size:,} to {info.file_size:,} bytes")
        with self._lock:
            return self._archive.read(info)


def identity(crc: int, size: int) -> str:
    """The content of a file in one word."""
    return f"{crc:08x}-{size}"


def open_files(path: Path, memo: ContentMemo) -> Files:
    """A folder or a zip archive.

    Raises: UserError where the path is missing or neither of them.
    """
    if not path.exists():
        raise UserError(f"There is no {path}; set data.path to a folder or a zip archive of images.")
    if path.is_dir():
        if is_store(path):
            raise UserError(
                f"{path} is a store of this program, whose pictures are no training images; give another data.path, or "
                "another store=DIR where it is meant to hold both."
            )
        return DirectoryFiles(path, memo)
    if is_zip(path):
        try:
            return ZipFiles(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"{path} is a damaged zip archive ({error}); fetch or pack it anew.") from error
    raise UserError(f"{path} is neither a folder nor a zip archive; set data.path to one that holds images.")
