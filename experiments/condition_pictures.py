"""Pictures of conditions above the samples that were made from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from experiments.conditions import AskedConditions, chosen_conditions
from experiments.conditions.asked import GivenSample
from experiments.conditions.drawing import picture_of
from experiments.pictures import save_picture

COLUMNS = 10
SIDE = 128
"""Least height of a cell in pixels: room for a caption."""

GAP = 4


def save_condition_grid(path: Path, conditioning: Mapping[str, Any], asked: AskedConditions, samples: Tensor) -> None:
    """Writes one PNG: a column a sample, its conditions above it, below it the image whose conditions these were.

    Shapes: samples uint8 (N, 3, H, W), the first N that were asked for; at most COLUMNS are shown.
    """
    part = range(min(COLUMNS, len(samples)))
    fields, originals = asked.of(part), asked.originals(part)
    columns = []
    for item in part:
        shown = [_enlarged(picture_of(image)) for image in (samples[item], originals[item])]
        own = {name: field[item] for name, field in fields.items()}
        given = GivenSample(own, asked.fields.images, asked.indices[item])
        columns.append([*condition_pictures(conditioning, given, shown[0].size), *shown])
    save_picture(path, _arranged(columns))


def condition_pictures(conditioning: Mapping[str, Any], given: GivenSample, size: tuple[int, int]) -> list[Image.Image]:
    """What one sample was given, one picture of `size` (width, height) for each condition of the group."""
    return [kind.picture(given, size) for kind, _ in chosen_conditions(conditioning)]


def _enlarged(picture: Image.Image) -> Image.Image:
    zoom = max(1, SIDE // picture.height)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _arranged(columns: list[list[Image.Image]]) -> Image.Image:
    width, height = columns[0][0].size
    canvas = Image.new("RGB", (len(columns) * (width + GAP) - GAP, len(columns[0]) * (height + GAP) - GAP), "white")
    for across, column in enumerate(columns):
        for down, picture in enumerate(column):
            canvas.paste(picture, (across * (width + GAP), down * (height + GAP)))
    return canvas
