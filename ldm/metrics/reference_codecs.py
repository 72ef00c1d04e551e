"""JPEG, WebP and PNG on the same images as the first stages: reference curves of rate and distortion.

Small images are mostly file header (a JPEG of 32 px holds about 620 bytes of tables, 5 bits per pixel), which a learnt
first stage does not pay either: its weights and codebook are not counted. So the images are stacked into long strips,
one image wide, each image padded by its edge to a multiple of 16 so that no transform block holds two of them, and a
strip shares one header. `bits_per_pixel` counts the strips; `bits_per_pixel_files` one file an image, as on a disk.
Distortion is measured on the decoded strips, without the padding.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from ldm.metrics.reconstruction import ImageErrors, concatenate, image_errors
from ldm.records import LeftOut

Pixels = NDArray[np.uint8]

BLOCK = 16
"""Largest block of the codecs: a JPEG unit with halved chroma, a WebP macroblock."""

STRIP_HEIGHT = 16_000
"""Just under WebP's limit of 16,383 px a side."""

QUALITIES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)


@dataclass(frozen=True)
class CodecPoint:
    """A codec at one quality on n images; `quality` None = lossless.

    Units: bits per pixel, `rmse255` in grey levels, `psnr` the mean over images in dB (None where all are exact),
    `ssim` the mean over images (None where images are too small).
    """

    codec: str
    quality: int | None
    bits_per_pixel: float
    bits_per_pixel_files: float
    rmse255: float
    psnr: float | None
    ssim: float | None
    n: int


def _encoded(pixels: Pixels, codec: str, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if codec == "png":
        image.save(buffer, "PNG", optimize=True)
    elif quality is None:
        image.save(buffer, "WEBP", lossless=True, exact=True, quality=100, method=4)
    elif codec == "webp":
        image.save(buffer, "WEBP", quality=quality, method=4)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    return buffer.getvalue()


def _decoded(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _strips(images: Pixels) -> Iterator[tuple[Pixels, Pixels]]:
    """Runs of images with their strip: (n, H, W, 3) and (n * padded H, padded W, 3)."""
    height, width = images.shape[1:3]
    padding = ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK), (0, 0))
    run = max(1, STRIP_HEIGHT // (height + padding[1][1]))
    for start in range(0, len(images), run):
        part = images[start : start + run]
        padded = np.pad(part, padding, mode="edge")
        yield part, padded.reshape(-1, *padded.shape[2:])


def _errors(part: Pixels, strip: Pixels) -> ImageErrors:
    n, height, width = part.shape[:3]
    tiles = strip.reshape(n, -1, *strip.shape[1:])[:, :height, :width]
    return image_errors(*(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in (part, tiles)))


def _point(images: Pixels, codec: str, quality: int | None) -> CodecPoint:
    n, height, width = images.shape[:3]
    size, errors = 0, []
    for part, strip in _strips(images):
        data = _encoded(strip, codec, quality)
        size += len(data)
        errors.append(_errors(part, _decoded(data)))
    every = concatenate(errors)
    finite = every.psnr[every.mse > 0]
    return CodecPoint(
        codec=codec,
        quality=quality,
        bits_per_pixel=8 * size / (n * height * width),
        bits_per_pixel_files=8 * sum(len(_encoded(x, codec, quality)) for x in images) / (n * height * width),
        rmse255=float(np.sqrt(every.mse.mean())),
        psnr=float(finite.mean()) if finite.size else None,
        ssim=None if every.ssim is None else float(every.ssim.mean()),
        n=n,
    )


def _measured(
    codecs: Sequence[str], points_of: Callable[[str], list[CodecPoint]]
) -> tuple[list[CodecPoint], list[LeftOut]]:
    points, left_out = [], []
    for codec in codecs:
        if codec.startswith("webp") and not features.check("webp"):
            left_out.append(LeftOut(codec, "This build of Pillow has no WebP: install Pillow's own wheel."))
        else:
            points += points_of(codec)
    return points, left_out


def lossy_curves(
    images: Pixels, qualities: Sequence[int] = QUALITIES, codecs: Sequence[str] = ("jpeg", "webp")
) -> tuple[list[CodecPoint], list[LeftOut]]:
    """JPEG (4:2:0, optimised tables) and WebP over a grid of qualities, on uint8 images (N, H, W, 3)."""
    return _measured(codecs, lambda codec: [_point(images, codec, quality) for quality in qualities])


def lossless_sizes(
    images: Pixels, codecs: Sequence[str] = ("png", "webp_lossless")
) -> tuple[list[CodecPoint], list[LeftOut]]:
    """Measured sizes without loss, on uint8 images (N, H, W, 3)."""
    return _measured(codecs, lambda codec: [_point(images, codec, None)])
