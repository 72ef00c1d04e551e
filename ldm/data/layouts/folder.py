"""Any folder or zip archive of images as a labelled or unlabelled image set.

Hidden files, `__MACOSX` and files that are no images are ignored, as are folders that merely wrap all the others.
Pictures that annotate others (`masks/`, `image_mask.png`; see `ldm.data.picture_names`) are no images of the set.
Where everything lies in folders that are called as splits are (`train/` and `val/` or `test/`, at the top or below the
classes), that is the split; else an image is held out by a hash of its content, so that equal files share a side. Where
every image then lies in one of two or more subfolders, those are the classes. What does not fit is refused.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from ldm.data.annotations.boxes import find_boxes
from ldm.data.annotations.captions import find_captions
from ldm.data.annotations.class_labels import class_labels, in_order, is_sharded
from ldm.data.annotations.label_maps import find_label_files, label_map_reader
from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.contract import Split
from ldm.data.files import Files, open_files
from ldm.data.listing import Found, Listing, image_names, make_listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed
from ldm.data.picture_names import (
    annotating,
    image_stem,
    is_paired,
    looks_like_split,
    names_annotations,
    side_of,
    split_within,
    without_words,
    words_of,
)
from ldm.errors import UserError
from ldm.parts import option

AUTO, CLASSES, NONE = "auto", "classes", "none"
FOLDERS: Final = (AUTO, CLASSES, NONE)
"""What folders mean: what their names say; classes, whatever they are called; splits at most."""

REMEDY: Final = (
    "put them into train/ and test/, each with the same classes, or say that they are none: data.folders=classes reads "
    "every top folder as a class, whatever it is called, data.folders=none none of them, with a share held out of all"
)
MOST_NAMED: Final = 5

Paths = Sequence[tuple[str, ...]]


def list_folder(path: Path, places: AnnotationPlaces, memo: ContentMemo, folders: str = AUTO) -> Listing:
    """Finds the images, their classes, the split the folders give, if any, and what annotates them.

    `folders` is one of `FOLDERS`. Raises: UserError where there are no images, or names of folders do not fit together.
    """
    files = open_files(path, memo)
    labels = find_label_files(files, places)
    apart = labels.apart if labels is not None else frozenset()
    names, notes = [name for name in image_names(files) if name not in apart], list[str]()
    if folders != CLASSES:
        names, notes = _without_annotations(files, names)
        notes += [f"{len(apart):,} pictures beside the images are read as label maps, not as images"] if apart else []
    inner = unwrapped([tuple(name.split("/")) for name in names])
    splits: list[Split | None] = [None] * len(names)
    if folders != CLASSES:
        splits, inner, said = given_split(inner)
        notes += said
        if (mixed := _mixed(inner)) and not any(splits):
            if folders == AUTO:
                raise UserError(f"{files.path} holds {mixed}: {REMEDY}.")
            notes.append(f"{mixed}; they are read as no split, so a share of all images is held out")
        if folders == AUTO and not any(splits):
            _check_pairs(files, inner)
    part = [name for name, split in zip(names, splits, strict=True) if split is not None or not any(splits)]
    classes, of_image, said = _classes(files, dict(zip(names, inner, strict=True)), part, folders)
    notes += said
    index = {name: number for number, name in enumerate(classes)}
    found = [
        Found(name, "/".join(parts), index.get(of_image.get(name, "")), split)
        for name, parts, split in zip(names, inner, splits, strict=True)
    ]
    annotations = {
        "captions": find_captions(files, part, places),
        "boxes": find_boxes(files, part, places),
        "semantic": None if labels is None else label_map_reader(files, labels, part),
    }
    listing = make_listing(files, found, classes, annotations)
    return dataclasses.replace(listing, notes=(*notes, *listing.notes))


def _classes(
    files: Files, inner: Mapping[str, tuple[str, ...]], part: Sequence[str], folders: str
) -> tuple[tuple[str, ...], Mapping[str, str], list[str]]:
    """The classes of the images that take part, the class of each, and notes: of files that say it, else of folders."""
    if folders == NONE:
        return (), {}, []
    named, notes = class_labels(files, part) if folders == AUTO else ({}, [])
    without = [name for name in part if name not in named]
    if named and not without:
        return in_order([named[name] for name in part]), named, notes
    if named:
        notes.append(f"files name the classes of {len(named):,} images, but none of {_some(without)}")
    tops = {inner[name][0] for name in part if len(inner[name]) > 1}
    loose = ["/".join(inner[name]) for name in part if len(inner[name]) == 1]
    if len(tops) < 2 or is_sharded(files):
        return (), {}, notes
    if loose:
        notes.append(
            f"no classes: {len(loose):,} of {len(part):,} images lie in none of the {len(tops)} folders "
            f"{_some(sorted(tops))}: {_some(loose)}; without these the folders are classes"
        )
        return (), {}, notes
    return tuple(sorted(tops)), {name: parts[0] for name, parts in inner.items()}, notes


def list_plain(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """As `list_folder`, but folders that are no split mean nothing."""
    return dataclasses.replace(list_folder(path, places, memo, NONE), notes=())


def unwrapped(paths: Paths) -> list[tuple[str, ...]]:
    """The paths without the leading folders that all of them share."""
    depth = 0
    for level in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return [path[depth:] for path in paths]


def _without_annotations(files: Files, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images without the pictures that annotate others, and what is said of these.

    Raises: UserError for a folder that is called as annotations are, and whose pictures annotate none of the images.
    """
    inner = dict(zip(names, unwrapped([tuple(name.split("/")) for name in names]), strict=True))
    apart = annotating(inner)
    notes = []
    if apart:
        places = Counter(name.rpartition("/")[0] + "/" for name in sorted(apart))
        notes.append(
            f"{len(apart):,} pictures are no images of the set, since their names say that they annotate others: "
            f"{_counted(places)} (e.g. {sorted(apart)[0]}); data.semantic=FOLDER reads label maps"
        )
    images = [name for name in names if name not in apart]
    strange = Counter(
        folder for name in images for folder in inner[name][:-1] if names_annotations(folder) and len(images) > 1
    )
    if strange:
        raise UserError(
            f"{files.path}: {_counted(strange)} {'has' if len(strange) == 1 else 'have'} the name of annotations, but "
            "no images with the same names lie beside: move these files, or say that they are images, with "
            "data.folders=classes (every top folder is a class)."
        )
    return images, notes


def given_split(paths: Paths) -> tuple[list[Split | None], list[tuple[str, ...]], list[str]]:
    """The side each path is given by its folders, the paths below, and notes; no side where the folders give none.

    Files in a held-out folder of lower rank (`test` beside `val`) take no part.
    """
    tops = Counter(path[0] if len(path) > 1 else "" for path in paths)
    sides, others = _sides_of(list(tops))
    if sides is not None:
        notes = [f"{_counted(Counter({top: tops[top] for top in others}))} takes no part"] if others else []
        inner = unwrapped([path[1:] for path in paths])
        if all(len(path) > 1 for path in inner) and _sides_of(sorted({path[0] for path in inner}))[0] is not None:
            inner = [path[1:] for path in inner]  # unpacked into a folder of its own name: seg_train/seg_train/
        return [sides.get(path[0]) for path in paths], inner, notes
    if "" not in tops and all(len(path) > 2 for path in paths):
        below, _ = _sides_of(sorted({path[1] for path in paths}))
        if below is not None:  # the classes lie above the splits
            return [below.get(path[1]) for path in paths], [(path[0], *path[2:]) for path in paths], []
    return [None] * len(paths), list(paths), []


def _check_pairs(files: Files, paths: Paths) -> None:
    """Raises: UserError where the two top folders hold two pictures of each thing, which are no two classes."""
    stems: dict[str, list[str]] = {}
    for path in paths:
        stems.setdefault(path[0] if len(path) > 1 else "", []).append(image_stem(path[-1]))
    if is_paired(stems):
        seen = _counted(Counter({f"{top}/": len(names) for top, names in stems.items()}))
        raise UserError(
            f"{files.path} holds two pictures of each thing, {seen}: give one of these folders as data.path, or say "
            "that they are classes, with data.folders=classes."
        )


def _mixed(paths: Paths) -> str:
    """What is seen where some top folders are called as splits are and the others do not fit; "" where it is not so."""
    tops = Counter(path[0] if len(path) > 1 else "" for path in paths)
    certain = [top for top in tops if looks_like_split(top)]
    if not certain and split_within(tops):
        seen = _counted(Counter({f"{top}/": count for top, count in tops.items()}))
        return f"classes and splits in the names of its folders, {seen}"
    if not certain or len(tops) < 2:
        return ""
    rest = Counter({f"{top}/" if top else "files in no folder": tops[top] for top in tops if top not in certain})
    seen = _counted(Counter({f"{top}/": tops[top] for top in certain}))
    beside = f"beside {_counted(rest)}" if rest else "but no pair of training and held-out folders"
    return f"what looks like splits, {seen}, {beside}"


def _sides_of(folders: Sequence[str]) -> tuple[dict[str, Split] | None, list[str]]:
    """By folder its side, and the folders that take no part; None where they are not all splits, or not of both sides.

    Of several held-out folders that of the first rank is taken.
    """
    common = set.intersection(*(set(words_of(folder)) for folder in folders)) if folders else set()
    said = {folder: side_of(without_words(folder, common)) for folder in folders}
    known = {folder: found for folder, found in said.items() if found is not None}
    ranks = [rank for side, rank in known.values() if side == "heldout"]
    if len(known) < len(said) or not ranks or all(side != "train" for side, _ in known.values()):
        return None, []
    sides: dict[str, Split] = {
        folder: side
        for folder, (side, rank) in known.items()
        if side == "train" or (side == "heldout" and rank == min(ranks))
    }
    return sides, [folder for folder in folders if folder not in sides]


def _counted(places: "Counter[str]") -> str:
    return _some([f"{place} ({count:,} images)" for place, count in sorted(places.items())])


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(FileOptions):
    """Any folder or zip archive of images."""

    title: ClassVar[str] = "data=folder"

    folders: str = option(AUTO, choices=FOLDERS, help="what folders mean: as their names say, classes, or nothing")
    white: int | None = option(None, low=1, high=65535, help="value of 16-bit images that is shown as white")

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_folder(self.path, self.places, memo, self.folders), size, memo, self.white)
