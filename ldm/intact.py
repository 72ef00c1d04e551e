"""Files that are written whole or not at all, and whose damage shows when they are read."""

import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from ldm.errors import UserError

TEMPORARY: Final = re.compile(r"\..+\.\d+")
"""Names of files that this program has not finished yet."""


MOST_INFLATED: Final = 200
"""An entry of a zip archive that inflates to more than this multiple of its size is not read."""

SMALL: Final = 64 << 20
"""Bytes up to which an entry may inflate to any multiple of its size, as one plain colour does."""


def inflates_too_far(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry of a zip archive would fill the memory from next to nothing."""
    return entry.file_size > max(SMALL, MOST_INFLATED * entry.compress_size)


def is_zip(path: Path) -> bool:
    """Whether a file says that it is a zip archive, which may be damaged; zipfile's own answer raises for some such."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def temporary_of(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def write_atomically(path: Path, save: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Writes a file so that a reader sees the whole file or none; `keep` is where the one before goes."""
    temporary = temporary_of(path)
    try:
        with open(temporary, "w+b") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str, remedy: str) -> None:
    """Checks the content of a file against its hash, once a process unless the file has changed since.

    Raises: UserError with the remedy where it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    stat = path.stat()
    if _hash_once(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) != expected:
        raise UserError(f"{path} is damaged, its content is not what was written; {remedy}")


@functools.lru_cache(maxsize=4096)
def _hash_once(path: Path, size: int, changed: int, inode: int) -> str:
    return file_hash(path)
