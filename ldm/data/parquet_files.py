"""Columns of parquet files, and the images that a column holds as a place with files."""

import bisect
import contextlib
import io
import itertools
import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ldm.data.files import identity
from ldm.data.memo import ContentMemo, signature
from ldm.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile


class ParquetTable:
    """One parquet file: its columns, and what Hugging Face's datasets says of them.

    Raises: UserError where the package pyarrow is missing, or the file is damaged or none of parquet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path), _opened(path) as file:
            self.schema: pyarrow.Schema = file.schema_arrow
            metadata = file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.ends = list(itertools.accumulate(groups))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @cached_property
    def _features(self) -> Any:
        try:
            return json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
        except (KeyError, TypeError, ValueError):
            return {}

    def feature(self, column: str) -> Mapping[str, Any]:
        """What datasets says of a column; empty where it did not write the file."""
        said = self._features.get(column) if isinstance(self._features, dict) else None
        return said if isinstance(said, dict) else {}

    @property
    def image_columns(self) -> list[str]:
        """Columns of encoded images: bytes, or objects with "bytes"."""
        import pyarrow

        kinds = pyarrow.types
        return [
            field.name
            for field in self.schema
            if kinds.is_binary(field.type)
            or kinds.is_large_binary(field.type)
            or (kinds.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        ]

    def column(self, name: str, group: int | None = None) -> list[Any]:
        """The values of a column, of one row group or all. Raises: UserError where they cannot be read."""
        with _reading(self.path):
            with _opened(self.path) as file:
                table = file.read([name]) if group is None else file.read_row_group(group, [name])
            return list(table.column(name).to_pylist())


class ParquetImages:
    """The images of a column as files, named by the number of their row; a row group is read at a time."""

    def __init__(self, table: ParquetTable, column: str, memo: ContentMemo) -> None:
        self.path = table.path
        self._table = table
        self._column = column
        self._memo = memo
        self._lock = threading.Lock()
        self._group: tuple[int, list[bytes]] = (-1, [])

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{row:08d}" for row in range(len(self._table)))

    def identities(self, names: Sequence[str]) -> list[str]:
        return [self._contents[int(name)] for name in names]

    def signature(self, names: Sequence[str]) -> list[int]:
        return signature([self.path])

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        row = int(name)
        group = bisect.bisect_right(self._table.ends, row)
        with self._lock:
            if self._group[0] != group:
                try:
                    self._group = group, self._images(group)
                except UserError as error:
                    raise OSError(str(error)) from error
            return self._group[1][row - (self._table.ends[group - 1] if group else 0)]

    def _images(self, group: int) -> list[bytes]:
        values = self._table.column(self._column, group)
        images = [value.get("bytes") if isinstance(value, dict) else value for value in values]
        named = next((value["path"] for value in values if isinstance(value, dict) and value.get("path")), None)
        if named is not None and not any(images):
            raise UserError(
                f"{self.path}: column {self._column} names files ({named}) and does not hold them; save the set with "
                "its images inside, or use data=folder where they lie."
            )
        return [image or b"" for image in images]

    @cached_property
    def _contents(self) -> list[str]:
        """Identities by row; all images are read for it once."""
        key, sign = f"parquet {self.path.absolute()} {self._column}", self.signature(())
        known = self._memo.recall(key, sign)
        if known is None:
            images = (image for group in range(len(self._table.ends)) for image in self._images(group))
            known = json.dumps([identity(zlib.crc32(image), len(image)) for image in images])
            self._memo.keep(key, sign, known)
            self._memo.save()
        found: list[str] = json.loads(known)
        return found


def _opened(path: Path) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{path} is a parquet file; to read it: pip install pyarrow.") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as parquet ({str(error).strip()}); download it again (a file of some hundred bytes "
            "is a pointer of git lfs: git lfs pull)."
        ) from error
