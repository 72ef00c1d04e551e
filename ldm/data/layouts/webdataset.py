"""WebDataset: uncompressed tar archives whose files with one name, up to the first dot, are a sample.

`000.jpg` is its image, `000.cls` its class (or "label", "class", "category" in `000.json`), `000.txt` its caption (or
"text", "caption" in `000.json`), as img2dataset and others write them. Folders inside archives mean nothing.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ldm.data.annotations.captions import COLUMNS, CaptionTable, sidecar_captions
from ldm.data.annotations.class_labels import LABEL_COLUMNS, classed
from ldm.data.annotations.lookup import AnnotationPlaces, parsed_json, read_text, shown
from ldm.data.archives import FilesIn, TarFiles, UnionFiles
from ldm.data.files import Files
from ldm.data.layouts.sharded import IMAGE, named_annotations, split_of, taking_part
from ldm.data.listing import AnnotationReader, Found, Listing, is_image_name, make_listing
from ldm.data.memo import ContentMemo, signature
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.data.picture_names import names_annotations
from ldm.data.shards import find_shards, sides_of
from ldm.errors import UserError

CLASS, CAPTION, DESCRIPTION = "cls", "txt", "json"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

Samples = Mapping[str, Mapping[str, str]]
"""By image the files of its sample, by what stands behind the first dot of their names."""


def list_webdataset(path: Path, places: AnnotationPlaces, memo: ContentMemo, image: str | None = None) -> Listing:
    """The images of all archives, with class and caption where their samples have them.

    `image` is the ending of the images, needed where samples hold several.
    Raises: UserError where archives are missing, damaged or compressed, or samples hold several images.
    """
    shards = find_shards(path, ".tar", PACKED)
    sides = sides_of(list(shards), path)
    archives = {name: FilesIn(name, TarFiles(file, memo)) for name, file in shards.items()}
    files = UnionFiles(path, list(archives.values()))
    samples, notes = _samples(files, image)
    split = split_of(sides, archives)
    part = taking_part(samples, split)

    key, sign = f"webdataset classes {path.absolute()} {image}", signature(list(shards.values()))
    known = memo.recall(key, sign)
    labels: dict[str, str] = json.loads(known) if known is not None else _labels(files, samples)
    if known is None:
        memo.keep(key, sign, json.dumps(labels))
        memo.save()
    classes, of_image, said = classed(labels, part)
    found = [Found(name, name, of_image.get(name), split[name]) for name in samples]
    annotations = named_annotations(files, part, places)
    annotations["captions"] = annotations["captions"] or _captions(files, {name: samples[name] for name in part})
    return make_listing(files, found, classes, annotations, (*notes, *said))


def _samples(files: Files, image: str | None) -> tuple[Samples, list[str]]:
    by_key: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files.names:
        folder, _, base = name.rpartition("/")
        key, dot, ending = base.partition(".")
        if dot:
            by_key[f"{folder}/{key}"][ending.lower()] = name
    found: dict[str, Mapping[str, str]] = {}
    for sample in by_key.values():
        images = [
            ending
            for ending, name in sample.items()
            if (
                is_image_name(name) and not any(map(names_annotations, ending.split(".")))
                if image is None
                else ending == image
            )
        ]
        if len(images) > 1:
            raise UserError(
                f"{files.path}: a sample holds several images, {', '.join(sample[ending] for ending in images)}; "
                f"choose one by its ending: data.image={' or '.join(images)}."
            )
        if images:
            found[sample[images[0]]] = sample
    if not found:
        wanted = f"with the ending .{image}" if image is not None else "that Pillow reads"
        there = ", ".join(sorted({f".{ending}" for sample in by_key.values() for ending in sample})) or "nothing"
        raise UserError(f"{files.path}: its archives hold no images {wanted}; there is {there}.")
    without = len(by_key) - len(found)
    return found, [f"{without:,} samples of the archives hold no image, and take no part"] if without else []


def _labels(files: Files, samples: Samples) -> dict[str, str]:
    """The class of each image whose sample has one."""
    found = {name: read_text(files, sample[CLASS]).strip() for name, sample in samples.items() if CLASS in sample}
    if found or not _has(files, samples, LABEL_COLUMNS):
        return {name: label for name, label in found.items() if label}
    rows = {name: _described(files, sample) for name, sample in samples.items()}
    given = {name: next((row[key] for key in LABEL_COLUMNS if key in row), None) for name, row in rows.items()}
    return {name: str(label) for name, label in given.items() if isinstance(label, str | int) and str(label).strip()}


def _captions(files: Files, samples: Samples) -> AnnotationReader | None:
    texts = {name: sample[CAPTION] for name, sample in samples.items() if CAPTION in sample}
    if texts:
        return sidecar_captions(files, texts)
    if not _has(files, samples, COLUMNS):
        return None
    sources = tuple(sample[DESCRIPTION] for sample in samples.values() if DESCRIPTION in sample)
    return AnnotationReader(files, sources, partial(_described_captions, files, samples))


def _described_captions(files: Files, samples: Samples) -> CaptionTable:
    rows = {name: _described(files, sample) for name, sample in samples.items()}
    given = {
        name: next((row[key] for key in COLUMNS if isinstance(row.get(key), str)), "") for name, row in rows.items()
    }
    return CaptionTable({name: caption.strip() for name, caption in given.items() if caption.strip()})


def _has(files: Files, samples: Samples, keys: Sequence[str]) -> bool:
    """Whether the description of the first sample that has one holds one of these keys."""
    first = next((sample for sample in samples.values() if DESCRIPTION in sample), {})
    return not _described(files, first).keys().isdisjoint(keys)


def _described(files: Files, sample: Mapping[str, str]) -> dict[str, Any]:
    if DESCRIPTION not in sample:
        return {}
    content = parsed_json(read_text(files, sample[DESCRIPTION]), shown(files, sample[DESCRIPTION]))
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True, kw_only=True)
class WebDataset(FileOptions):
    """Tar archives of samples."""

    title: ClassVar[str] = "data=webdataset"

    image: str | None = IMAGE

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_webdataset(self.path, self.places, memo, self.image), size, memo)
