"""Pictures of conditions above the samples that were made from them."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.generate import AskedConditions
from experiments.pictures import save_picture, to_uint8

COLUMNS = 10
SIDE = 128
"""Least height of a cell in pixels: room for a caption."""

GAP = 4
GREY = (200, 200, 200)
FONT = ImageFont.load_default(11)


def save_condition_grid(path: Path, asked: AskedConditions, samples: Tensor) -> None:
    """Writes one PNG: a column a sample, its conditions above it, below it the image whose conditions these were.

    Shapes: samples uint8 (N, 3, H, W), the first N that were asked for; at most COLUMNS are shown.
    """
    part = range(min(COLUMNS, len(samples)))
    fields, originals = asked.of(part), asked.originals(part)
    columns = []
    for item in part:
        shown = [_enlarged(_picture(image)) for image in (samples[item], originals[item])]
        told = condition_pictures(asked, fields, item, shown[0].size)
        columns.append([*told, *shown])
    save_picture(path, _arranged(columns))


def condition_pictures(
    asked: AskedConditions, fields: Mapping[str, Tensor], item: int, size: tuple[int, int]
) -> list[Image.Image]:
    """What sample `item` was told, one picture of `size` (width, height) for each condition."""
    index, images = asked.indices[item], asked.fields.images
    pictures = []
    if "label" in fields:
        pictures.append(_written(images.classes[int(fields["label"][item])], size))
    if "tokens" in fields and images.captions is not None:
        pictures.append(_written(images.captions[index], size))
    if "boxes" in fields:
        pictures.append(_boxes(fields["boxes"][item], images.annotations["boxes"].names, size))
    if "semantic" in fields:
        classes = len(images.annotations["semantic"].names)
        pictures.append(_coloured(fields["semantic"][item], classes).resize(size, Image.Resampling.NEAREST))
    if "low_resolution" in fields:
        pictures.append(_picture(to_uint8(fields["low_resolution"][item])).resize(size, Image.Resampling.NEAREST))
    if "mask" in fields:
        known = torch.where(fields["mask"][item] > 0, torch.zeros(()), fields["image"][item])
        pictures.append(_picture(to_uint8(known)).resize(size, Image.Resampling.NEAREST))
    return pictures


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _enlarged(picture: Image.Image) -> Image.Image:
    zoom = max(1, SIDE // picture.height)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _written(text: str, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    letters = max(8, int(size[0] / pen.textlength("n", FONT)))
    pen.multiline_text((2, 2), textwrap.fill(text, letters), fill="black", font=FONT, spacing=2)
    return canvas


def _boxes(boxes: Tensor, names: tuple[str, ...], size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for label, *corners in boxes[boxes[:, 0] >= 0].tolist():
        x0, y0, x1, y1 = (round(at * (side - 1)) for at, side in zip(corners, (*size, *size), strict=True))
        colour = _colour(int(label))
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=2)
        pen.text((x0 + 4, y0 + 2), names[int(label)], fill=colour, font=FONT)
    return canvas


def _coloured(labels: Tensor, classes: int) -> Image.Image:
    """A label map in colours; 0, often the background, and what is unlabelled in greys."""
    palette = np.array([GREY, *(_colour(label - 1) for label in range(1, classes)), (90, 90, 90)], np.uint8)
    known = torch.where((labels >= 0) & (labels < classes), labels, classes)
    return Image.fromarray(palette[known.numpy()])


def _colour(label: int) -> tuple[int, int, int]:
    red, green, blue, _ = colormaps["tab20"]((2 * label + label // 10) % 20)
    return round(255 * red), round(255 * green), round(255 * blue)


def _arranged(columns: list[list[Image.Image]]) -> Image.Image:
    width, height = columns[0][0].size
    canvas = Image.new("RGB", (len(columns) * (width + GAP) - GAP, len(columns[0]) * (height + GAP) - GAP), "white")
    for across, column in enumerate(columns):
        for down, picture in enumerate(column):
            canvas.paste(picture, (across * (width + GAP), down * (height + GAP)))
    return canvas
