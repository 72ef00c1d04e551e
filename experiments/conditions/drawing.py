"""How conditions are drawn."""

import textwrap

from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT = ImageFont.load_default(11)


def picture_of(image: Tensor) -> Image.Image:
    """A picture of an image, uint8 (3, H, W)."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def written(text: str, size: tuple[int, int]) -> Image.Image:
    """A text in black on a white picture of (width, height)."""
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    letters = max(8, int(size[0] / pen.textlength("n", FONT)))
    pen.multiline_text((2, 2), textwrap.fill(text, letters), fill="black", font=FONT, spacing=2)
    return canvas


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, in grey levels of red, green and blue."""
    red, green, blue, _ = colormaps["tab20"]((2 * label + label // 10) % 20)
    return round(255 * red), round(255 * green), round(255 * blue)
