"""What layouts of archives with many images each share: sides, the annotations that the user names, an option."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ldm.data.annotations.boxes import find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.label_maps import find_label_files, label_map_reader
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.archives import FilesIn
from ldm.data.contract import Split
from ldm.data.files import Files
from ldm.data.listing import AnnotationReader
from ldm.parts import option

IMAGE: Final = option(
    None, help="which images, where a sample or row holds several: their ending (webdataset) or column (parquet)"
)


def split_of(sides: Mapping[str, Split | None], archives: Mapping[str, FilesIn]) -> dict[str, Split | None]:
    """The side of each image: that of its archive."""
    return {name: sides[shard] for shard, archive in archives.items() for name in archive.names}


def taking_part(images: Iterable[str], split: Mapping[str, Split | None]) -> list[str]:
    """The images of either side; all where no archive has one."""
    return [name for name in images if split[name] is not None or not any(split.values())]


def named_annotations(
    files: Files, images: Sequence[str], places: AnnotationPlaces
) -> dict[str, AnnotationReader | None]:
    """What reads the annotations that the user named, by kind; None for the others, which archives hold themselves."""
    maps = find_label_files(files, places) if places.semantic is not None else None
    return {
        "captions": find_captions(files, images, places) if places.captions is not None else None,
        "boxes": find_boxes(files, images, places) if places.boxes is not None else None,
        "semantic": None if maps is None else label_map_reader(files, maps, images),
    }
