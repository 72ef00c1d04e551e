"""Parquet files of images as Hugging Face distributes them: `train-00000-of-00002.parquet`, `validation-...` and so on.

A column holds the encoded images ("image", or the only one there is), "label", "class" or "category" their classes, as
numbers that the file names or as text, "text", "caption" or "captions" their captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ldm.data.annotations.captions import COLUMNS, CaptionTable
from ldm.data.annotations.class_labels import LABEL_COLUMNS, classed
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.archives import FilesIn, UnionFiles
from ldm.data.files import Files
from ldm.data.layouts.sharded import IMAGE, named_annotations, split_of, taking_part
from ldm.data.listing import AnnotationReader, Found, Listing, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.data.parquet_files import ParquetImages, ParquetTable
from ldm.data.picture_names import names_annotations
from ldm.data.shards import find_shards, sides_of
from ldm.errors import UserError, nearest
from ldm.parts import option

CAPTION_COLUMNS = (*COLUMNS, "captions")


def list_parquet(
    path: Path, places: AnnotationPlaces, memo: ContentMemo, image: str | None = None, label: str | None = None
) -> Listing:
    """The images of all parquet files, with class and caption where columns hold them.

    `image` and `label` name columns, needed where it is not clear which.
    Raises: UserError where files are missing or damaged, or columns cannot be told.
    """
    shards = find_shards(path, ".parquet")
    sides = sides_of(list(shards), path)
    tables = {name: ParquetTable(file) for name, file in shards.items()}
    images = {name: ParquetImages(table, _image_column(table, image), memo) for name, table in tables.items()}
    archives = {name: FilesIn(name, place) for name, place in images.items()}
    files = UnionFiles(path, list(archives.values()))
    split = split_of(sides, archives)
    part = taking_part(files.names, split)

    labels, names = dict[str, str](), dict[str, None]()
    for shard, table in tables.items():
        column = _label_column(table, label)
        if column is not None:
            declared = table.feature(column).get("names") or ()
            labels |= _labels(archives[shard].names, table.column(column), declared)
            names |= dict.fromkeys(map(str, declared))
    classes, of_image, notes = classed(labels, part, list(names))
    found = [Found(name, name, of_image.get(name), split[name]) for name in files.names]
    annotations = named_annotations(files, part, places)
    annotations["captions"] = annotations["captions"] or _captions(files, tables, archives)
    return make_listing(files, found, classes, annotations, notes)


def _image_column(table: ParquetTable, given: str | None) -> str:
    there = table.image_columns
    if given is not None:
        if given not in there:
            raise UserError(
                f"data.image={given} is no column of images in {table.path}{nearest(given, there)} (there are "
                f"{', '.join(there) or 'none'})."
            )
        return given
    usual = [name for name in there if not names_annotations(name)]
    if len(usual) != 1:
        seen = f"several columns of images; choose one: data.image={' or '.join(usual)}"
        none = f"no column of images (bytes); its columns are {', '.join(table.schema.names) or 'none'}"
        raise UserError(f"{table.path} holds {seen if usual else none}.")
    return usual[0]


def _label_column(table: ParquetTable, given: str | None) -> str | None:
    there = table.schema.names
    if given is not None:
        if given not in there:
            raise UserError(f"data.label={given} is no column of {table.path}{nearest(given, there)}.")
        return given
    named = [name for name in there if table.feature(name).get("_type") == "ClassLabel"]
    return next((name for name in LABEL_COLUMNS if name in there), named[0] if len(named) == 1 else None)


def _labels(names: Sequence[str], values: Sequence[Any], declared: Sequence[str]) -> dict[str, str]:
    """The class of each row that has one; a negative number stands for none."""
    found = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, int) and value >= 0:
            found[name] = str(declared[value]) if value < len(declared) else str(value)
        elif isinstance(value, str) and value.strip():
            found[name] = value.strip()
    return found


def _captions(
    files: Files, tables: Mapping[str, ParquetTable], archives: Mapping[str, FilesIn]
) -> AnnotationReader | None:
    columns = {
        shard: column
        for shard, table in tables.items()
        if len(table) and (column := next((name for name in CAPTION_COLUMNS if name in table.schema.names), None))
    }
    if not columns:
        return None
    sources = tuple(archives[shard].names[0] for shard in columns)
    return AnnotationReader(files, sources, partial(_caption_table, columns, tables, archives))


def _caption_table(
    columns: Mapping[str, str], tables: Mapping[str, ParquetTable], archives: Mapping[str, FilesIn]
) -> CaptionTable:
    """The captions of all rows, of several of one image the first."""
    found = {}
    for shard, column in columns.items():
        for name, value in zip(archives[shard].names, tables[shard].column(column), strict=True):
            first = next(iter(value), None) if isinstance(value, list) else value
            if isinstance(first, str) and first.strip():
                found[name] = first.strip()
    return CaptionTable(found)


@dataclass(frozen=True, kw_only=True)
class Parquet(FileOptions):
    """Parquet files of images."""

    title: ClassVar[str] = "data=parquet"

    image: str | None = IMAGE
    label: str | None = option(None, help="column of the classes; null: label, class or category")

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_parquet(self.path, self.places, memo, self.image, self.label), size, memo)
