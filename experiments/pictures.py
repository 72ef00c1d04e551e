"""Small grids of images as PNG."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.metrics.reconstruction import to_uint8

__all__ = ["read_grid", "save_grid", "save_picture", "to_uint8"]


def save_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    picture.save(temporary, "PNG")
    os.replace(temporary, path)


def save_grid(path: Path, rows: list[Tensor], gap: int = 2, smallest_side: int = 64) -> None:
    """Writes rows of uint8 images (N, 3, H, W) as one PNG; small images are enlarged without smoothing."""
    height, width = rows[0].shape[2:]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            canvas[top : top + height, left : left + width] = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(canvas)
    zoom = _zoom(height, width, smallest_side)
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    save_picture(path, picture)


def read_grid(
    path: Path, n: int, columns: int, height: int, width: int, gap: int = 2, smallest_side: int = 64
) -> Tensor:
    """The first n images, uint8 (n, 3, height, width), of a grid that `save_grid` wrote in rows of `columns`."""
    zoom = _zoom(height, width, smallest_side)
    with Image.open(path) as picture:
        canvas = torch.from_numpy(np.asarray(picture.convert("RGB"))[::zoom, ::zoom].copy()).permute(2, 0, 1)
    places = [(i // columns * (height + gap), i % columns * (width + gap)) for i in range(n)]
    return torch.stack([canvas[:, top : top + height, left : left + width] for top, left in places])


def _zoom(height: int, width: int, smallest_side: int) -> int:
    return max(1, smallest_side // min(height, width))
