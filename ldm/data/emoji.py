"""The embedded image set: scenes composed from Microsoft's Fluent emoji renders (MIT) over varied backgrounds.

Scene i of a split is a function of (seed, split, i) and the resolution alone. Training scenes show nine tenths of the
emoji. Of the held-out scenes nine in ten show those same emoji in new scenes, and every tenth (i % 10 == 9) only the
emoji that no training scene shows; categories are drawn evenly in both, so that class frequencies agree.
"""

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldm.data.backgrounds import Background, Colour, draw_background, paint
from ldm.data.captions import noun_phrase, scene_caption
from ldm.data.contract import SPLITS, Annotation, AnnotationValue, Box, ImageSource, Item, Split, carried
from ldm.data.larger import at_size
from ldm.data.memo import ContentMemo
from ldm.errors import UserError
from ldm.parts import option
from ldm.records import content_hash

EMOJI_CODE = 1
"""Raised by hand whenever a change here or in backgrounds or captions changes a scene."""

ARCHIVE = "fluent_emoji_128.zip"
RENDER_SIDE = 128
MOST_SHRINK = 16
LEAST_RESOLUTION, MOST_RESOLUTION = 16, 256
UNSEEN_EVERY = 10
"""One emoji in so many, and one held-out scene in so many, belong to the objects training never shows."""

FULLEST = 0.87
"""Longest side of the largest object, as a fraction of the image's side."""

OPAQUE = 8
"""Alpha (of 255) from which a pixel counts for the extent of a render."""

MIRRORABLE = frozenset({"Animals & Nature", "Food & Drink", "People & Body", "Smileys & Emotion", "Travel & Places"})
UPRIGHT = frozenset({"Flags", "Symbols"})


@dataclass(frozen=True)
class Emoji:
    """One render: its file in the archive, names, and the index of its category."""

    file: str
    name: str
    phrase: str
    label: int
    unseen: bool
    mirrorable: bool
    most_turn: float  # degrees


@dataclass(frozen=True)
class Placement:
    """One object of a scene: its longest side and centre in fractions of the image's side, mirrored, then turned."""

    emoji: Emoji
    side: float
    x: float
    y: float
    mirrored: bool
    turn: float  # degrees


@dataclass(frozen=True)
class Scene:
    """A composition before it is drawn; later objects lie before earlier ones."""

    background: Background
    objects: tuple[Placement, ...]
    unseen_objects: bool


class Renders:
    """The archive of renders: its list, and its pictures decoded on demand and stored at the requested sizes."""

    def __init__(self, archive: bytes) -> None:
        self.hash = hashlib.blake2b(archive, digest_size=16).hexdigest()
        files = zipfile.ZipFile(io.BytesIO(archive))
        listing = json.loads(files.read("manifest.json"))
        self._encoded = {entry["file"]: files.read(entry["file"]) for entry in listing}
        self.classes = tuple(sorted({entry["category"] for entry in listing}))
        emoji = [_emoji(entry, self.classes) for entry in sorted(listing, key=lambda entry: entry["file"])]
        self.pools: Mapping[bool, tuple[tuple[Emoji, ...], ...]] = {
            unseen: tuple(
                tuple(e for e in emoji if e.label == label and e.unseen is unseen) for label in range(len(self.classes))
            )
            for unseen in (False, True)
        }
        self._sides: dict[str, int] = {}
        self._levels: dict[tuple[str, int], Image.Image] = {}
        self._colours: dict[str, Colour] = {}

    def at_least(self, file: str, side: int) -> Image.Image:
        """The render in premultiplied RGBA, halved as often as leaves the object's longer side at `side` or more."""
        if file not in self._sides:
            left, top, right, bottom = extent(self._decode(file))
            self._sides[file] = max(right - left, bottom - top)
        shrink = 1
        while self._sides[file] // (2 * shrink) >= side and shrink < MOST_SHRINK:
            shrink *= 2
        key = (file, shrink)
        if key not in self._levels:
            full = self._decode(file)
            self._levels[key] = full.reduce(shrink) if shrink > 1 else full
        return self._levels[key]

    def _decode(self, file: str) -> Image.Image:
        return Image.open(io.BytesIO(self._encoded[file])).convert("RGBA").convert("RGBa")

    def mean_colour(self, file: str) -> Colour:
        """The mean RGB of the opaque part of a render."""
        if file not in self._colours:
            pixels = np.asarray(self.at_least(file, 32), np.float32).reshape(-1, 4).sum(0)
            r, g, b = 255 * pixels[:3] / max(float(pixels[3]), 1.0)
            self._colours[file] = (float(r), float(g), float(b))
        return self._colours[file]


def _emoji(entry: Mapping[str, str], classes: tuple[str, ...]) -> Emoji:
    digest = hashlib.blake2b(entry["file"].encode(), digest_size=8).digest()
    name, category, subcategory = entry["caption"], entry["category"], entry["subcategory"]
    sided = "left" in name or "right" in name or subcategory == "time"
    return Emoji(
        file=entry["file"],
        name=name,
        phrase=noun_phrase(name, subcategory),
        label=classes.index(category),
        unseen=int.from_bytes(digest, "little") % UNSEEN_EVERY == 0,
        mirrorable=category in MIRRORABLE and not sided,
        most_turn=6.0 if category in UPRIGHT or sided else 16.0,
    )


def extent(image: Image.Image) -> tuple[int, int, int, int]:
    """The bounding box of what is not transparent: left, top, right, bottom."""
    solid = np.asarray(image)[..., 3] >= OPAQUE
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@functools.lru_cache(maxsize=1)
def embedded_renders() -> Renders:
    """The renders shipped with the package, read once a process."""
    return Renders(resources.files("ldm.data").joinpath("assets").joinpath(ARCHIVE).read_bytes())


class EmojiScenes:
    """The embedded scenes of one split as an `ImageSource`; nothing is drawn larger than its render.

    Raises: UserError where the resolution is not within 16 to 256 or the split is empty.
    """

    max_skipped_fraction = 0.0

    def __init__(self, split: Split, resolution: int, n: int, seed: int) -> None:
        if not LEAST_RESOLUTION <= resolution <= MOST_RESOLUTION:
            raise UserError(
                f"data=emoji offers resolutions from {LEAST_RESOLUTION} to {MOST_RESOLUTION}, not {resolution}; "
                "change data.resolution."
            )
        if n < 1:
            raise UserError(f"data=emoji needs at least one {split} scene, not {n}; raise data.n_{split}.")
        self.split: Split = split
        self.resolution = resolution
        self.size = (resolution, resolution)
        self.seed = seed
        self._n = n
        self._renders = embedded_renders()
        self.classes = self._renders.classes

    def __len__(self) -> int:
        return self._n

    @property
    def fingerprint(self) -> str:
        """A hash of code version, renders, seed, split, number and resolution."""
        parts = (EMOJI_CODE, self._renders.hash, self.seed, self.split, self._n, self.resolution)
        return content_hash(["emoji", *parts])

    @property
    def annotations(self) -> dict[str, Annotation]:
        """All kinds; they change with the scenes alone."""
        names = {"captions": (), "boxes": self.classes, "semantic": ("background", *self.classes)}
        return {kind: Annotation(self.fingerprint, of_kind) for kind, of_kind in names.items()}

    def name(self, index: int) -> str:
        """The name of scene `index`."""
        return f"{self.split}-{index:06d}"

    def annotation(self, kind: str, index: int) -> AnnotationValue:
        """One of the annotations that scene `index` carries."""
        return carried(self.item(index))[kind]

    def scene(self, index: int) -> Scene:
        """The composition of scene `index`."""
        rng = np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(self.split), index]))
        unseen = self.split == "heldout" and index % UNSEEN_EVERY == UNSEEN_EVERY - 1
        pools = self._renders.pools[unseen]
        largest = min(1.0, RENDER_SIDE / (FULLEST * self.resolution))
        roomy = largest < 0.8  # no render fills the image: more objects, all near their own size
        count = 1 + int(np.searchsorted((0.15, 0.45, 0.75) if roomy else (0.45, 0.75, 0.9), rng.random()))
        least = 0.7 if roomy else 0.55 if count == 1 else 0.45
        main_side = largest * _between(rng, least, FULLEST if roomy or count == 1 else 0.68)
        main = _draw_object(rng, pools, main_side, taken=())
        placed: list[Placement] = [main]
        behind: list[Placement] = []
        for _ in range(count - 1):
            side = main.side * (_between(rng, 0.6, 0.95) if roomy else _between(rng, 0.38, 0.8))
            drawn = _draw_object(rng, pools, side, taken=(*placed, *behind))
            free = _least_covered(rng, drawn, (*placed, *behind))
            if free is not None:
                (placed if rng.random() < 0.5 else behind).append(free)
        colour = self._renders.mean_colour(main.emoji.file)
        background = draw_background(rng, self.resolution, avoid=colour)
        return Scene(background, (*behind, *placed), unseen)

    def item(self, index: int) -> Item:
        """Scene `index` with all its annotations."""
        scene = self.scene(index)
        side = self.resolution
        image = paint(scene.background, side)
        visible = np.zeros((1 + len(scene.objects), side, side), np.float32)
        visible[0] = 1.0
        for number, placement in enumerate(scene.objects, start=1):
            patch, left, top = self._patch(placement)
            rows, columns = slice(top, top + patch.shape[0]), slice(left, left + patch.shape[1])
            alpha = patch[..., 3] / 255.0
            image[rows, columns] *= 1.0 - alpha[..., None]
            image[rows, columns] += patch[..., :3]
            visible[:, rows, columns] *= 1.0 - alpha
            visible[number, rows, columns] = alpha
        owner = visible.argmax(0)
        boxes = _boxes(owner, scene.objects)
        labels = np.array([0, *(1 + placement.emoji.label for placement in scene.objects)], np.uint8)
        return Item(
            image=np.rint(np.clip(image, 0, 255)).astype(np.uint8),
            name=self.name(index),
            label=boxes[0][1].label,
            caption=scene_caption(
                [placement.emoji.phrase for placement, _ in boxes],
                [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for _, box in boxes],
                scene.background.phrase,
            ),
            boxes=tuple(box for _, box in boxes),
            semantic=labels[owner],
            unseen_objects=scene.unseen_objects,
        )

    def _patch(self, placement: Placement) -> tuple[NDArray[np.float32], int, int]:
        """The object's pixels, premultiplied RGBA float32 (h, w, 4) in [0, 255], and its left and top pixel."""
        wanted = max(3, round(placement.side * self.resolution))
        # Twice the size or more: then turning by interpolation costs no visible sharpness.
        image = self._renders.at_least(placement.emoji.file, 2 * wanted)
        if placement.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if placement.turn:
            image = image.rotate(placement.turn, Image.Resampling.BICUBIC, expand=True)
        left, top, right, bottom = extent(image)
        width, height = right - left, bottom - top
        scale = min(1.0, wanted / max(width, height), RENDER_SIDE / max(width, height))
        size = max(1, round(scale * width)), max(1, round(scale * height))
        drawn = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))
        x = round(placement.x * self.resolution - size[0] / 2)
        y = round(placement.y * self.resolution - size[1] / 2)
        x, y = (int(np.clip(v, 0, self.resolution - s)) for v, s in zip((x, y), size, strict=True))
        return np.asarray(drawn, np.float32), x, y


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _draw_object(
    rng: np.random.Generator, pools: tuple[tuple[Emoji, ...], ...], side: float, taken: tuple[Placement, ...]
) -> Placement:
    """An object with a category drawn evenly, then an emoji evenly; its centre leans towards the middle."""
    used = {placement.emoji.file for placement in taken}
    while True:
        pool = pools[int(rng.integers(len(pools)))]
        emoji = pool[int(rng.integers(len(pool)))]
        if emoji.file not in used:
            break
    turn = emoji.most_turn * _between(rng, -1, 1) if rng.random() < 0.6 else 0.0
    mirrored = emoji.mirrorable and rng.random() < 0.5
    room = 1.0 - side
    x, y = (0.5 + room * (float(rng.random()) + float(rng.random()) - 1.0) / 2 for _ in range(2))
    return Placement(emoji, side, x, y, mirrored, turn)


def _least_covered(
    rng: np.random.Generator, drawn: Placement, others: tuple[Placement, ...], tries: int = 12, most: float = 0.25
) -> Placement | None:
    """The object moved to the random place that overlaps the others least; None where all overlap too much."""
    best, best_cover = None, most
    for _ in range(tries):
        x, y = (_between(rng, drawn.side / 2, 1 - drawn.side / 2) for _ in range(2))
        moved = Placement(drawn.emoji, drawn.side, x, y, drawn.mirrored, drawn.turn)
        cover = max(_cover(moved, other) for other in others)
        if cover < best_cover:
            best, best_cover = moved, cover
        if cover < 0.1:
            break
    return best


def _cover(a: Placement, b: Placement) -> float:
    """The overlap of two objects' squares as a fraction of the smaller one."""
    reach = (a.side + b.side) / 2
    wide, high = (max(0.0, min(reach - abs(d), a.side, b.side)) for d in (a.x - b.x, a.y - b.y))
    return wide * high / min(a.side, b.side) ** 2


def _boxes(owner: NDArray[np.intp], objects: tuple[Placement, ...]) -> list[tuple[Placement, Box]]:
    """The visible objects with their boxes, largest visible area first (of equals, the frontmost)."""
    side = owner.shape[0]
    found = []
    for number in range(len(objects), 0, -1):
        mine = owner == number
        rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        if not len(rows):
            continue
        placement = objects[number - 1]
        extent = (columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side)
        x0, y0, x1, y1 = map(float, extent)
        area = float(mine.sum()) / side**2
        found.append((placement, Box(placement.emoji.label, placement.emoji.name, x0, y0, x1, y1, area)))
    return sorted(found, key=lambda pair: -pair[1].area)


@dataclass(frozen=True, kw_only=True)
class EmojiSet:
    """The embedded scenes, drawn on demand."""

    title: ClassVar[str] = "data=emoji"

    resolution: int = option(low=1, high=2**15, unit="pixels", help="side of the training images")
    n_train: int = option(low=1, high=10**7, unit="scenes", help="number of training scenes; of files the most")
    n_heldout: int = option(low=1, high=10**7, unit="scenes", help="number of held-out scenes; of files the most")
    seed: int = option(0, low=0, help="which scenes are drawn")

    def open(self, size: tuple[int, int] | None, memo: ContentMemo) -> dict[Split, ImageSource]:
        """Both splits; see `ldm.data.contract.DataSource`."""
        counts: dict[Split, int] = {"train": self.n_train, "heldout": self.n_heldout}
        scenes = {split: EmojiScenes(split, self.resolution, n, self.seed) for split, n in counts.items()}
        return at_size(scenes, size)
