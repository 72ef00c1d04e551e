"""Samples and reconstructions of all cells below each other: of the same images, and from the same noise."""

import base64
import html
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.collect import Finished, Study

MOST = 24
"""Pictures of a kind that the page holds; the others lie beside it."""

IMAGES_WIDE = 16
"""Square images in a row of a grid of samples (`experiments.stages.samples`)."""

ROWS_SHOWN = 2
"""Rows of a grid of samples that are shown until it is opened."""


@dataclass(frozen=True)
class Kind:
    """Pictures of one file name: what the section says of them, and how one is shown."""

    title: str
    said: str
    shown: Callable[[Finished, Path], str]


def sections(study: Study) -> dict[str, str]:
    """By title, the body of a section of each kind of picture that the study's artifacts have."""
    found: dict[str, list[tuple[Finished, Path]]] = {}
    for one in study.finished:
        for path in sorted(one.folder.glob("*.png")):
            found.setdefault(path.name, []).append((one, path))
    known = [name for name in KINDS if name in found]
    return {KINDS[name].title: _section(KINDS[name], found[name]) for name in known}


def _section(kind: Kind, pictures: Sequence[tuple[Finished, Path]]) -> str:
    strips = [
        f'<figure class="strip"><figcaption>{html.escape(one.label)}</figcaption>{kind.shown(one, path)}</figure>'
        for one, path in pictures[:MOST]
    ]
    left = len(pictures) - len(strips)
    more = f"<p>{left} more lie in <code>pictures/</code> beside this page.</p>" if left else ""
    return f'{kind.said}<div class="strips"><div>{"".join(strips)}</div></div>{more}'


def data_uri(content: bytes, kind: str) -> str:
    """Content as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def size(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def _plain(one: Finished, path: Path) -> str:
    return _image(path.read_bytes(), f"{path.stem} of {one.label}")


def _image(picture: bytes, said: str, style: str = "") -> str:
    width, height = size(picture)
    styled = f' style="{style}"' if style else ""
    address = data_uri(picture, "image/png")
    return f'<img alt="{html.escape(said)}" width="{width}" height="{height}"{styled} src="{address}">'


def _samples(one: Finished, path: Path) -> str:
    """A grid of samples, of which the first rows are shown until it is opened."""
    picture = path.read_bytes()
    width, height = size(picture)
    ratio = float(one.cell.axes.get("height") or 1) / float(one.cell.axes.get("width") or 1)
    columns = max(1, round(IMAGES_WIDE * math.sqrt(ratio)))
    rows = max(1, round(height / (width / columns * ratio)))
    image = _image(picture, f"samples of {one.label}")
    if rows <= ROWS_SHOWN:
        return image
    return (
        f'<label class="crop" style="--shown:{width}/{height * ROWS_SHOWN // rows}" title="show all">'
        f'<input type="checkbox" aria-label="show all samples of {html.escape(one.label)}">{image}</label>'
    )


def _pair(one: Finished, path: Path) -> str:
    """Originals over their reconstructions; the page's slider says how far they are faded in."""
    picture = path.read_bytes()
    width, height = size(picture)
    said = html.escape(f"reconstructions of {one.label}, the originals over them")
    return (
        f'<div class="pair" role="img" aria-label="{said}" style="aspect-ratio:{width}/{height / 2:g};'
        f'--picture:url({data_uri(picture, "image/png")})"><div></div><div class="original"></div></div>'
    )


SLIDER = (
    "<p>The same held-out images through each first stage.</p>"
    '<p class="slider"><label>reconstruction <input type="range" min="0" max="100" value="0" id="fade" '
    'aria-label="from reconstruction to original"> original</label></p>'
)

KINDS: Mapping[str, Kind] = {
    "grid.png": Kind(
        "Samples",
        "<p>Each column starts from the same noise where latents have the same shape, and is asked for the same "
        "condition. The first rows of each cell; click them for all.</p>",
        _samples,
    ),
    "reconstructions.png": Kind("Reconstructions", SLIDER, _pair),
    "nearest.png": Kind(
        "Nearest training images",
        "<p>Above the samples that lie nearest to a training image, below them the training image nearest in features, "
        "and the one nearest in pixels. A cell that copies shows the same image three times.</p>",
        _plain,
    ),
    "conditions.png": Kind("Conditions", "<p>What samples were asked to be, and the samples.</p>", _plain),
    "gaussian.png": Kind(
        "Decoded draws of a Gaussian, no network",
        "<p>Above one Gaussian of the training latents, below one of each class, where there are classes.</p>",
        _plain,
    ),
}
"""By file name, in the order of the page."""
