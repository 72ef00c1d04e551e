"""How regularisers, samplers and codecs are drawn: as is set here; others as lists say, in the order they appear in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.lines import Line2D

from analysis.style import MUTED, key

Look = TypeVar("Look")


@dataclass(frozen=True)
class Family:
    """How a regulariser is drawn."""

    name: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    size: float


@dataclass(frozen=True)
class Named:
    """How a sampler or codec is written, and its colour."""

    name: str
    colour: str


FAMILIES = {
    "kl": Family("KL", "o", "-", 6.5),
    "vq": Family("VQ", "s", (0, (4.0, 2.0)), 6.0),
    "fsq": Family("FSQ", "^", ":", 6.5),
    "lfq": Family("LFQ", "v", "-.", 6.5),
    "bsq": Family("BSQ", "P", (0, (6.0, 1.5)), 6.5),
    "identity": Family("pixels (f = 1)", "D", "-", 6.0),
}
MARKERS = "Xph*d<>8"
LINES: Sequence[str | tuple[int, tuple[float, ...]]] = (
    (0, (1.5, 1.5)),
    (0, (5.0, 1.5, 1.0, 1.5, 1.0, 1.5)),
    (0, (8.0, 1.5, 2.0, 1.5)),
    (0, (2.5, 1.0)),
    (0, (1.0, 2.5)),
)
# Okabe and Ito's colours, which are told apart under the common colour blindnesses, but for euler, which is ddim.
SAMPLERS = {
    "ddim": Named("DDIM", "#222222"),
    "ddpm": Named("DDPM", "#d55e00"),
    "plms": Named("PLMS", "#0072b2"),
    "dpmpp": Named("DPM++ 2M", "#009e73"),
    "heun": Named("Heun", "#cc79a7"),
    "euler": Named("Euler", "#8c8c8c"),
    "unipc": Named("UniPC", "#e69f00"),
}
CODECS = {
    "jpeg": Named("JPEG", "#7a6a58"),
    "webp": Named("WebP", "#5a7f8c"),
    "avif": Named("AVIF", "#8a6a9c"),
    "png": Named("PNG", MUTED),
    "webp_lossless": Named("WebP lossless", MUTED),
}
# Paul Tol's muted colours, apart from those above.
COLOURS = ("#332288", "#882255", "#999933", "#44aa99", "#aa4499", "#661100", "#88ccee", "#117733")


def families(regularisers: Iterable[str], titles: Mapping[str, str] = {}) -> dict[str, Family]:
    """How these regularisers are drawn, in the order of legends and panels; new ones are called by their titles."""
    found, new = _split(regularisers, FAMILIES)
    for index, name in enumerate(new):
        marker, line = MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]
        found[name] = Family(titles.get(name, name), marker, line, 6.5)
    return found


def samplers(names: Iterable[str], titles: Mapping[str, str] = {}) -> dict[str, Named]:
    """How these samplers are drawn; new ones are called by their titles."""
    return _coloured(names, SAMPLERS, titles)


def codecs(names: Iterable[str]) -> dict[str, Named]:
    """How these codecs are drawn, in the order of legends."""
    return _coloured(names, CODECS)


def _coloured(names: Iterable[str], known: Mapping[str, Named], titles: Mapping[str, str] = {}) -> dict[str, Named]:
    found, new = _split(names, known)
    return found | {
        name: Named(titles.get(name, name), COLOURS[index % len(COLOURS)]) for index, name in enumerate(new)
    }


def _split(names: Iterable[str], known: Mapping[str, Look]) -> tuple[dict[str, Look], list[str]]:
    """Those of the names whose look is set, in the order of the setting, and the others in that of appearance."""
    present = dict.fromkeys(name for name in names if name)
    return {name: look for name, look in known.items() if name in present}, [n for n in present if n not in known]


def family_keys(looks: Mapping[str, Family], present: Iterable[str]) -> list[Line2D]:
    """The legend entries of the regularisers that are present."""
    shown = set(present)
    return [
        key(
            look.name,
            marker=look.marker,
            color=MUTED,
            linestyle=look.line if name != "identity" else "",
            markersize=look.size,
        )
        for name, look in looks.items()
        if name in shown
    ]
