"""Image codecs on the held-out images of a study, as the reference stage measured them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from analysis.collect import Study


@dataclass(frozen=True)
class Codec:
    """One point of a codec's curve on the held-out images, headers shared; `psnr` is None where it is lossless.

    `images`: whose they are, e.g. "emoji 32 px".
    """

    codec: str
    quality: int | None
    bits_per_pixel: float
    rmse255: float
    psnr: float | None
    n: int
    images: str = ""


def codecs(study: Study) -> tuple[Codec, ...]:
    """The points of each set of images with its name; with its fingerprint where two sets bear one name."""
    found: dict[tuple[Codec, ...], tuple[str, str]] = {}
    for one in study.finished:
        if points := tuple(_codec(point) for point in one.record.facts.get("codecs", ())):
            images = f"{one.cell.axes.get('data')} {one.cell.axes.get('resolution')} px"
            found.setdefault(points, (images, str(one.record.facts.get("reference_fingerprint", ""))[:8]))
    names = [name for name, _ in found.values()]
    named: list[Codec] = []
    for points, (name, fingerprint) in found.items():
        images = name if names.count(name) == 1 else f"{name}, {fingerprint}, n = {points[0].n:,}"
        named += [replace(point, images=images) for point in points]
    return tuple(named)


def _codec(point: Mapping[str, Any]) -> Codec:
    return Codec(**{item.name: point[item.name] for item in fields(Codec) if item.name != "images"})


def codec_curves(points: Iterable[Codec]) -> dict[tuple[str, str], list[Codec]]:
    """Points by codec and images, in the order of their rates."""
    curves: dict[tuple[str, str], list[Codec]] = {}
    for point in sorted(points, key=lambda point: point.bits_per_pixel):
        curves.setdefault((point.codec, point.images), []).append(point)
    return curves


def codec_marks(curves: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By image set what marks its curves where there are several: " A", " B", ...; names are too long for labels."""
    images = list(dict.fromkeys(name for _, name in curves))
    return {name: f" {chr(ord('A') + index)}" if len(images) > 1 else "" for index, name in enumerate(images)}


def codec_note(curves: Mapping[tuple[str, str], Sequence[Codec]]) -> list[str]:
    """Which images the codec curves of a figure are of; nothing where there are none."""
    counts = {images: points[0].n for (_, images), points in curves.items()}
    named = [f"{mark.strip()} = {name}" if mark else name for name, mark in codec_marks(curves).items()]
    spelled = [name if "n = " in name else f"{name}, n = {n:,}" for name, n in zip(named, counts.values(), strict=True)]
    return [f"Codecs on held-out images: {'; '.join(spelled)}."] if spelled else []
