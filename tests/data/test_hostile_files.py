"""Files that mean harm, or are made of chance: read, or refused in a sentence, and nothing else."""

import contextlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostile import fuzzed, on_another_disk
from hypothesis import strategies as st
from image_places import opened, png, write_folder, write_zip

from ldm.data import build_cache
from ldm.data.annotations.box_files import READERS
from ldm.data.annotations.boxes import find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.class_labels import class_labels
from ldm.data.annotations.label_maps import find_label_files, label_map_reader
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.archives import TarFiles
from ldm.data.contract import UnusableImage
from ldm.data.decode import decode_image, upright_size
from ldm.data.memo import ContentMemo
from ldm.errors import UserError

IMAGES = {f"images/{i}.png": png(i) for i in range(3)}


class Held:
    """Files in memory."""

    path = Path("set")

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents
        self.names = tuple(sorted(contents))

    def identities(self, names: Sequence[str]) -> list[str]:
        return [str(zlib.crc32(self.contents[name])) for name in names]

    def signature(self, names: Sequence[str]) -> list[int]:
        return [0]

    def open(self, name: str) -> Any:
        return io.BytesIO(self.contents[name])

    def read(self, name: str) -> bytes:
        return self.contents[name]


def read_everything(contents: Mapping[str, bytes]) -> None:
    """Reads all kinds of annotations that a set with these files has."""
    files, images = Held({**IMAGES, **contents}), list(IMAGES)
    places = AnnotationPlaces()

    def captions() -> None:
        if reader := find_captions(files, images, places):
            values = [reader.load().value(name, 16) for name in images]
            assert all(isinstance(value, str) for value in values)

    def boxes() -> None:
        if reader := find_boxes(files, images, places):
            found = [box for name in images for box in reader.load().value(name, 16)]
            assert all(0 <= side <= 1 for box in found for side in (box.x0, box.y0, box.x1, box.y1))

    def maps() -> None:
        if found := find_label_files(files, places):
            reader = label_map_reader(files, found, images)
            assert all(reader.load().value(name, 16).shape == (16, 16) for name in images)

    def classes() -> None:
        found, _ = class_labels(files, images)
        assert set(found) <= set(images)

    for read in (captions, boxes, maps, classes):
        with contextlib.suppress(UserError):
            read()


NUMBERS = st.one_of(
    st.integers(-3, 100), st.sampled_from([0, 1, 10**30, -1.5, 1e300, float("nan"), float("inf"), -float("inf")])
)
TEXTS = st.one_of(
    st.sampled_from(["0.png", "images/1.png", "../../passwd", "a\nb", "\ud800", "", "cat", "NaN", "1e999", "\x1b[2"]),
    st.text(st.characters(), max_size=6),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
KEYS = (
    "images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "bbox", "name", "width",
    "height", "iscrowd", "caption", "text", "label", "class", "labels", "names",
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
        st.lists(NUMBERS, max_size=5),
    ),
    max_leaves=12,
)
COCO = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries(
                {"id": SCALARS, "file_name": TEXTS, "width": NUMBERS, "height": NUMBERS}, optional={"extra": VALUES}
            ),
            max_size=3,
        ),
        "categories": st.lists(st.fixed_dictionaries({"id": SCALARS, "name": SCALARS}), max_size=2),
        "annotations": st.lists(
            st.fixed_dictionaries(
                {"image_id": SCALARS, "category_id": SCALARS, "bbox": st.lists(NUMBERS, max_size=5), "caption": SCALARS}
            ),
            max_size=3,
        ),
    }
)
AS_JSON = st.one_of(VALUES, COCO).map(lambda value: json.dumps(value).encode())
ROWS = st.lists(st.lists(st.one_of(TEXTS, NUMBERS.map(str)), max_size=6), max_size=4)
COLUMNS = ("file_name", "text", "label", "ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
AS_CSV = st.tuples(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=8), ROWS).map(
    lambda table: "\n".join(",".join(row) for row in [table[0], *table[1]]).encode("utf-8", "surrogatepass")
)
AS_LINES = st.lists(st.lists(st.one_of(TEXTS, NUMBERS.map(str)), max_size=5).map(" ".join), max_size=4).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)
TAGS = ("annotation", "size", "width", "height", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax")
AS_XML = st.recursive(
    st.one_of(TEXTS, NUMBERS.map(str)),
    lambda inner: st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=5)).map(
        lambda node: f"<{node[0]}>{''.join(node[1])}</{node[0]}>"
    ),
    max_leaves=15,
).map(lambda text: text.encode("utf-8", "surrogatepass"))
BYTES = st.binary(max_size=60)
FILES = {
    "images/metadata.jsonl": st.lists(AS_JSON, max_size=3).map(b"\n".join),
    "images/metadata.csv": AS_CSV,
    "labels.csv": AS_CSV,
    "dataset.json": AS_JSON,
    "captions_a.json": AS_JSON,
    "instances_a.json": AS_JSON,
    "boxes/0.txt": AS_LINES,
    "labels/0.txt": AS_LINES,
    "images/0.txt": AS_LINES,
    "annotations/0.xml": AS_XML,
    "labels/0.png": st.one_of(BYTES, st.integers(0, 3).map(png), BYTES.map(lambda tail: png(0)[:40] + tail)),
    "labels/palette.json": AS_JSON,
    "labels/palette.txt": AS_LINES,
    "labels/classes.json": AS_JSON,
    "labels/classes.txt": AS_LINES,
    "data.yaml": st.one_of(AS_JSON, AS_LINES, AS_LINES.map(lambda text: b"names: " + text)),
}
SETS = st.lists(st.sampled_from(sorted(FILES)), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.one_of(FILES[name], BYTES) for name in names})
)


@pytest.mark.long
@fuzzed(contents=SETS)
def test_annotations_of_chance_are_read_or_refused(contents: Mapping[str, bytes]) -> None:
    read_everything(contents)


DEEP = b"[" * 100_000
NAMES_WITHOUT_END = b"a: &a [x, x, x]\n" + b"".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n".encode()
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)


@pytest.mark.parametrize(
    "contents",
    [
        {"images/metadata.jsonl": DEEP},
        {"captions_a.json": DEEP},
        {"instances_a.json": DEEP},
        {"dataset.json": DEEP},
        {"images/labels/0.png": png(0), "labels/palette.json": DEEP},
        {"labels/0.txt": b"0 0.5 0.5 0.1 0.1", "data.yaml": DEEP[:1_000]},
        {"labels/0.txt": b"0 0.5 0.5 0.1 0.1", "data.yaml": NAMES_WITHOUT_END + b"names: [*m]"},
        {"labels/0.txt": b"0 0.5 0.5 0.1 0.1", "data.yaml": b"names: {a: cat}"},
        {"labels/0.txt": b"0 0.5 0.5 0.1 0.1", "data.yaml": b"names: !!python/object/apply:os.system [exit]"},
    ],
)
def test_nests_without_end_and_yaml_that_calls_are_refused(contents: Mapping[str, bytes]) -> None:
    read_everything(contents)


def instances(**changes: Any) -> dict[str, bytes]:
    image = {"id": 1, "file_name": "0.png", "width": 16, "height": 16}
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    parts = {"images": image, "categories": {"id": 1, "name": "cat"}, "annotations": box}
    changed = {part: [{**one, **changes.get(part, {})}] for part, one in parts.items()}
    return {"instances_a.json": json.dumps(changed).encode()}


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (instances(images={"id": [1]}), r"images\[0\]: \[1\] is no id"),
        (instances(images={"width": float("inf")}), r"images\[0\]: inf is no size"),
        (instances(categories={"id": float("inf")}), r"categories\[0\]"),
        (instances(annotations={"bbox": [1, 1, float("inf"), 4]}), "lies outside"),
        ({"boxes-bbox.csv": b"ImageID,LabelName,XMin,XMax,YMin,YMax\n,cat,0,1,0,1\n"}, "row 1: has no ImageID"),
    ],
)
def test_boxes_that_have_no_place_are_refused(contents: Mapping[str, bytes], told: str) -> None:
    [name] = contents
    files = Held({**IMAGES, **contents})
    with pytest.raises(UserError, match=told):
        READERS[Path(name).suffix](files, name)


def test_captions_that_are_no_texts_are_refused() -> None:
    content = {"images": [{"id": 1, "file_name": 7}], "annotations": [{"image_id": 1, "caption": None}]}
    files = Held({**IMAGES, "captions_a.json": json.dumps(content).encode()})
    reader = find_captions(files, list(IMAGES), AnnotationPlaces())
    with pytest.raises(UserError, match=r"captions_a\.json"):
        reader.load()


def huge_png(side: int) -> bytes:
    """A PNG of a few hundred bytes that says it is so large."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    bomb = huge_png(60_000)
    with pytest.raises(UnusableImage, match="cannot be read"):
        decode_image(bomb, 16, "bomb.png")
    assert upright_size(io.BytesIO(bomb)) is None
    files = Held({**IMAGES, "labels/0.png": bomb})
    found = find_label_files(files, AnnotationPlaces())
    assert found
    with pytest.raises(UserError, match=r"labels/0\.png cannot be read as a label map"):
        label_map_reader(files, found, list(IMAGES)).load()


def test_what_leaves_an_archive_is_not_looked_at_and_nothing_is_written(tmp_path: Path) -> None:
    inside = {f"{i}.png": png(i) for i in range(20)}
    outside = {"../out.png": png(50), "a/../../out.png": png(51), "..\\out.png": png(52), "./..//out.png": png(53)}
    (tmp_path / "a").mkdir()
    splits = opened(write_zip(tmp_path / "a" / "set.zip", inside | outside))
    names = [source.name(index) for source in splits.values() for index in range(len(source))]
    assert sorted(names) == sorted(inside)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "set.zip"]


def test_links_in_circles_end(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {f"{i}.png": png(i) for i in range(20)})
    (root / "itself").symlink_to(root / "itself")
    (root / "above").symlink_to(root)
    (root / "one").symlink_to(root / "two")
    (root / "two").symlink_to(root / "one")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert sum(len(source) for source in opened(root).values()) == 20
    with pytest.raises(UserError, match="There is no"):
        opened(root / "itself")


NAMES = (
    "new\nline", "tab\tand\x1b[31mcolour", "[bold]markup[", "日本語", "العربية", "emoji 🎉", "quote'\"", "$(id)", "a;b",
    "-rf",
)  # fmt: skip


def test_names_in_any_script_are_names(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{name} {i}.png").write_bytes(png(10 * number + i))
    odd = os.fsencode(root) + b"/odd \xff\xfe.png"  # no UTF-8
    Path(os.fsdecode(odd)).write_bytes(png(99))
    splits = opened(root)
    for split, source in splits.items():
        cache = build_cache(source, tmp_path / "cache" / split, workers=1)
        assert len(cache) == len(source)
    assert sum(len(source) for source in splits.values()) == 4 * len(NAMES) + 1


@pytest.mark.long
def test_archives_in_archives_without_end_are_refused(tmp_path: Path) -> None:
    headers = []
    for depth in range(3000):
        entry = tarfile.TarInfo(f"{depth}.tar")
        entry.size = tarfile.BLOCKSIZE * depth
        headers.append(entry.tobuf(tarfile.USTAR_FORMAT))
    path = tmp_path / "set.tar"
    path.write_bytes(b"".join(reversed(headers)))
    with pytest.raises(UserError, match="cannot be read as an uncompressed tar archive"):
        _ = TarFiles(path, ContentMemo(None)).names


def test_a_zip_whose_directory_lies_is_an_unreadable_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {f"{i}.png": png(i) for i in range(20)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.infolist()[3].header_offset
    data[offset : offset + 4] = b"none"
    path.write_bytes(bytes(data))
    splits = opened(path)
    built = [build_cache(source, tmp_path / split, workers=1) for split, source in splits.items()]
    assert sum(map(len, built)) == 19
    assert [name for cache in built for name, _ in cache.skipped] == ["3.png"]


def test_a_zip_of_several_disks_is_damaged(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {f"{i}.png": png(i) for i in range(3)})
    path.write_bytes(on_another_disk(path.read_bytes()))
    with pytest.raises(UserError, match="is a damaged zip archive"):
        opened(path)
