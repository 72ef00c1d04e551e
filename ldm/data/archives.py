"""Archives in which large data sets are handed out, as places with files: tar archives of tar archives, and lmdb."""

import functools
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from ldm.data.files import Files, identity, is_visible
from ldm.data.memo import ContentMemo, signature
from ldm.errors import UserError

if TYPE_CHECKING:
    import lmdb


class TarFiles:
    """The files in an uncompressed tar archive; a tar archive within it is a folder of its files.

    The archive is read through once, and what it holds is remembered; then files are read where they lie.
    Raises: UserError where it is damaged or compressed.
    """

    def __init__(self, path: Path, memo: ContentMemo) -> None:
        self.path = path
        self._memo = memo

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._index)

    def identities(self, names: Sequence[str]) -> list[str]:
        return [self._index[name][2] for name in names]

    def signature(self, names: Sequence[str]) -> list[int]:
        return signature([self.path])

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        offset, size, _ = self._index[name]
        with self.path.open("rb") as file:  # a set may have more archives than a process may hold open
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise OSError(f"{self.path} ends within {name}")
        return data

    @cached_property
    def _index(self) -> dict[str, tuple[int, int, str]]:
        """Offset, size and identity by name."""
        key, sign = f"tar {os.path.abspath(self.path)}", signature([self.path])
        known = self._memo.recall(key, sign)
        if known is None:
            try:
                with tarfile.open(self.path, "r:") as archive:
                    found = list(_members(archive, 0, "", self.path.stat().st_size))
            except (tarfile.TarError, OSError, ValueError, RecursionError) as error:  # archives in archives without end
                raise UserError(
                    f"{self.path} cannot be read as an uncompressed tar archive ({error}); unpack or replace it."
                ) from error
            known = json.dumps(sorted(found))
            self._memo.keep(key, sign, known)
            self._memo.save()
        return {name: (offset, size, content) for name, offset, size, content in json.loads(known)}


def _members(archive: tarfile.TarFile, start: int, folder: str, length: int) -> Iterator[tuple[str, int, int, str]]:
    """Name, offset, size and identity of every file, `start` being the archive's own place in the outermost.

    Raises: tarfile.TarError where it is damaged, or its `length` bytes end within a header.
    """
    for member in archive:
        name = PurePosixPath(folder, member.name).as_posix()
        content = (
            archive.extractfile(member) if member.isfile() and not member.issparse() and is_visible(name) else None
        )
        if content is None:
            continue
        if name.endswith(".tar"):
            with tarfile.open(fileobj=content, mode="r:") as inner:
                yield from _members(inner, start + member.offset_data, name.removesuffix(".tar"), member.size)
        else:
            yield name, start + member.offset_data, member.size, identity(zlib.crc32(content.read()), member.size)
    if 0 < length - archive.offset < tarfile.BLOCKSIZE:  # where tarfile takes it for the end
        raise tarfile.ReadError("it ends within the header of a file")


class LmdbFiles:
    """The values of an lmdb database (a folder with data.mdb), named by their keys.

    Raises: UserError where the package lmdb is missing or the database cannot be opened.
    """

    def __init__(self, path: Path, memo: ContentMemo) -> None:
        self.path = path
        self._memo = memo
        self._database = _opened(path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._contents)

    def identities(self, names: Sequence[str]) -> list[str]:
        return [self._contents[name] for name in names]

    def signature(self, names: Sequence[str]) -> list[int]:
        return signature([self.path / "data.mdb"])

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        with self._database.begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise OSError(f"{self.path} has no key {name}")
        return bytes(value)

    @cached_property
    def _contents(self) -> dict[str, str]:
        """Identity by name; all values are read for it once."""
        key, sign = f"lmdb {os.path.abspath(self.path)}", self.signature(())
        known = self._memo.recall(key, sign)
        if known is None:
            with self._database.begin(buffers=True) as transaction:
                values = transaction.cursor()
                found = [(bytes(name).decode(), identity(zlib.crc32(value), len(value))) for name, value in values]
            known = json.dumps(found)
            self._memo.keep(key, sign, known)
            self._memo.save()
        return dict(json.loads(known))


@functools.cache
def _opened(path: Path) -> "lmdb.Environment":
    try:
        import lmdb
    except ImportError as error:
        raise UserError(f"{path} is an lmdb database; to read it: pip install lmdb.") from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(f"{path} cannot be opened as an lmdb database ({error}); download it again.") from error


class FilesIn:
    """The files of a place as if they lay in a folder of this name."""

    def __init__(self, folder: str, place: Files) -> None:
        self.path = place.path
        self._place = place
        self._start = f"{folder}/"

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._start + name for name in self._place.names)

    def identities(self, names: Sequence[str]) -> list[str]:
        return self._place.identities([name.removeprefix(self._start) for name in names])

    def signature(self, names: Sequence[str]) -> list[int]:
        return self._place.signature([name.removeprefix(self._start) for name in names])

    def open(self, name: str) -> BinaryIO:
        return self._place.open(name.removeprefix(self._start))

    def read(self, name: str) -> bytes:
        return self._place.read(name.removeprefix(self._start))


class UnionFiles:
    """Several places as one; a name that several of them have is the first one's."""

    def __init__(self, path: Path, places: Sequence[Files]) -> None:
        self.path = path
        self._place: Mapping[str, Files] = {name: place for place in reversed(places) for name in place.names}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._place))

    def identities(self, names: Sequence[str]) -> list[str]:
        found: dict[str, str] = {}
        for place, part in self._by_place(names):
            found.update(zip(part, place.identities(part), strict=True))
        return [found[name] for name in names]

    def signature(self, names: Sequence[str]) -> list[int]:
        return [number for place, part in self._by_place(names) for number in place.signature(part)]

    def open(self, name: str) -> BinaryIO:
        return self._place[name].open(name)

    def read(self, name: str) -> bytes:
        return self._place[name].read(name)

    def _by_place(self, names: Sequence[str]) -> list[tuple[Files, list[str]]]:
        parts: dict[int, tuple[Files, list[str]]] = {}
        for name in names:
            place = self._place[name]
            parts.setdefault(id(place), (place, []))[1].append(name)
        return list(parts.values())
