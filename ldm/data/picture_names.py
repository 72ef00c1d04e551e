"""What names of folders and files say: which split images belong to, and that a picture annotates another one."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ldm.data.contract import Split

TRAIN: Final = ("train", "training", "trainset")
HELDOUT: Final = ("heldout", "holdout", "val", "validation", "valid", "test", "testing", "testset")
"""Held-out folders, the first that is there before the others."""

ABBREVIATED_TRAIN: Final = ("trn", "tr")
ABBREVIATED_HELDOUT: Final = ("vl", "dev", "eval", "evaluation", "tst", "ts", "te")
"""Read as splits where all folders are some; alone they may be the name of a class."""

NO_PART: Final = ("unlabeled", "unlabelled", "unannotated", "extra")
"""Folders beside splits whose images take no part."""

# fmt: off
FILLING: Final = frozenset((
    "set", "sets", "data", "dataset", "split", "image", "images", "imgs", "img", "photos", "pictures", "pics", "files",
    "folder", "jpg", "jpeg", "png", "rgb",
))
"""Words that stand beside others in names of folders and say nothing of split and class."""

ANNOTATION_WORDS: Final = frozenset((
    "label", "labels", "labelmap", "labelmaps", "mask", "masks", "annot", "annotation", "annotations", "seg", "segs",
    "segmap", "segmaps", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "semantic",
    "semantics", "instance", "instances", "panoptic", "groundtruth", "gt", "gtfine", "gtcoarse", "trimap", "trimaps",
    "depth", "depths", "disparity", "normals", "conditioning", "condition", "conditions", "canny", "hed", "parsing",
    "stuffthingmaps", "matte", "mattes", "edge", "edges", "annots", "anno", "annos", "lbl", "lbls", "alpha", "alphas",
))
"""What folders are called that hold pictures about other pictures."""
# fmt: on

# fmt: off
PAIRS: Final = tuple(map(frozenset, (
    ("query", "gallery"), ("input", "target"), ("input", "output"), ("inputs", "targets"), ("source", "target"),
    ("lr", "hr"), ("low", "high"), ("noisy", "clean"), ("blur", "sharp"), ("blurred", "sharp"), ("hazy", "clear"),
    ("before", "after"), ("rain", "clean"), ("degraded", "clean"),
)))
"""What folders are called that hold two pictures of each thing."""
# fmt: on

ANNOTATION_ENDING: Final = re.compile(
    r"[-_. ](?:labels?|labelids|labeltrainids|instanceids|color|colou?r_?mask|masks?|seg|segs|segmentation|gt|"
    r"groundtruth|gtfine|gtcoarse|polygons|depth|disparity|normals?|trimap|matte|instances?|panoptic|canny|hed|edges?|"
    r"alpha|annot?|annotations?)(?:[-_ ]?\d+)?$",
    re.IGNORECASE,
)
"""What a picture about another picture has behind the name of that one."""

IMAGE_ENDING: Final = re.compile(r"[-_](?:leftimg8bit|rgb|image|img)$", re.IGNORECASE)
"""What the other one may have itself."""


def words_of(folder: str) -> list[str]:
    """The words of a folder's name, in lower case and without numbers: "trainImages2017" -> ["train", "images"]."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)
    return [word for word in re.split(r"[^a-z]+", apart.lower()) if word]


def without_words(folder: str, words: Collection[str]) -> str:
    """A folder's name without these words, as long as something is left of it."""
    left = [word for word in words_of(folder) if word not in words]
    return " ".join(left) if left else folder


def side_of(folder: str, is_certain: bool = False) -> tuple[Split | None, int] | None:
    """The side that a folder's name says, None for images that take no part, with its rank; None where it says none.

    `is_certain` leaves out abbreviations, which may as well be the name of a class.
    """
    words = words_of(folder)
    if "".join(words) in (*TRAIN, *HELDOUT):
        words = ["".join(words)]
    said = [word for word in words if word not in FILLING] if len(words) > 1 else words
    if len(said) != 1:
        return None
    [word] = said
    train, heldout = (TRAIN, HELDOUT) if is_certain else (TRAIN + ABBREVIATED_TRAIN, HELDOUT + ABBREVIATED_HELDOUT)
    if word in train:
        return "train", 0
    if word in heldout:
        return "heldout", heldout.index(word)
    return (None, len(heldout)) if word in NO_PART else None


def names_annotations(folder: str) -> bool:
    """Whether a folder is called as one of annotations: "masks", "train_labels", "gtFine", "conditioning_images"."""
    words = words_of(folder)
    joined = "".join(words)
    if joined in ANNOTATION_WORDS:
        return True
    left = [word for word in words if word not in FILLING]
    return bool(left) and all(word in ANNOTATION_WORDS for word in left)


def annotated_stem(stem: str) -> str | None:
    """The name of the picture that one of this name annotates; None where the name says nothing of the kind."""
    shorter, found = stem, None
    while match := ANNOTATION_ENDING.search(shorter):
        shorter = found = shorter[: match.start()]
    return found


def image_stem(name: str) -> str:
    """A file's name without folders, suffix and an ending that only says that it is an image."""
    return IMAGE_ENDING.sub("", posixpath.splitext(posixpath.basename(name))[0])


def looks_like_split(folder: str) -> bool:
    """Whether a folder is called as splits are, alone or with one letter or so behind ("trainA")."""
    words = [word for word in words_of(folder) if len(word) > 1]
    return bool(words) and side_of(" ".join(words), is_certain=True) not in (None, (None, len(HELDOUT)))


def is_paired(stems: Mapping[str, Collection[str]]) -> bool:
    """Whether folders are called as the two of a pair are, and most names of files in one are in the other, too.

    `stems`: the names of files without suffix, by folder. Query and gallery are a pair whatever is in them.
    """
    called = frozenset(" ".join(words_of(folder)) for folder in stems)
    if len(stems) != 2 or called not in PAIRS:
        return False
    one, other = (set(names) for names in stems.values())
    return "query" in called or 2 * len(one & other) >= min(len(one), len(other))


def split_within(folders: Collection[str]) -> bool:
    """Whether names of classes and of splits stand together in names of folders: "cats_train" beside "cats_test".

    Some names have to be alike but for the split; a "bullet_train" without a "bullet_test" is a class.
    """
    sides = {*TRAIN, *HELDOUT}
    apart = Counter(
        tuple(word for word in words_of(folder) if word not in sides)
        for folder in folders
        if len(words_of(folder)) > 1 and not sides.isdisjoint(words_of(folder))
    )
    return any(rest and count > 1 for rest, count in apart.items())


def annotating(paths: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The pictures that annotate others among them, by what they and their folders are called.

    `paths` are the parts of the path of each picture, by its name. A picture in a folder that is called as annotations
    are is one where at least half of the pictures there are named as one elsewhere; a picture beside another one is
    where its name is that one's with an ending such as "_mask".
    """
    inside = {name for name, parts in paths.items() if any(map(_may_annotate, parts[:-1]))}
    elsewhere = {image_stem(name) for name in paths if name not in inside}
    named = {name for name in inside if {image_stem(name), annotated_stem(image_stem(name))} & elsewhere}
    by_folder: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in inside:
        parts = paths[name]
        depth = next(level for level, part in enumerate(parts) if _may_annotate(part))
        by_folder[tuple(parts[: depth + 1])].append(name)
    found = {
        name
        for pictures in by_folder.values()
        if 2 * sum(picture in named for picture in pictures) >= len(pictures)
        for name in pictures
    }
    beside: dict[str, set[str]] = defaultdict(set)
    for name in paths.keys() - found:
        beside[posixpath.dirname(name)].add(image_stem(name))
    for name in paths.keys() - found:
        whole = annotated_stem(image_stem(name))
        if whole is not None and whole in beside[posixpath.dirname(name)]:
            found.add(name)
    return frozenset(found)


def _may_annotate(folder: str) -> bool:
    """Whether a word of a folder's name is that of annotations; whether its pictures are some, their names say."""
    return names_annotations(folder) or not ANNOTATION_WORDS.isdisjoint(words_of(folder))
