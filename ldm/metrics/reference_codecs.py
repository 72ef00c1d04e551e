"""JPEG, WebP, AVIF and PNG on the same images as the first stages: reference curves of rate and distortion.

Each image is coded by itself, as a first stage does. Small files are mostly header (620 bytes of tables and names in a
JPEG, 5 bits per pixel at 32 px), the same for every image of a size and quality. A first stage's counterpart, weights
and codebook, is not counted either, so two rates are given: `bits_per_pixel` without what a decoder knows beforehand,
which is fair beside the rates of first stages, and `bits_per_pixel_files`, what lies on the disk. Without headers are:
JPEG, the entropy-coded scan (with the standard Huffman tables, which do not depend on the image); WebP, the frame
without container, start code and size; AVIF, the coded frame
with its sequence header of some ten bytes (Pillow's encoder at speed 8); PNG, the compressed stream.

Coding many images in one large picture would spread the header as well, but interpolated chroma mixes neighbours:
on CIFAR-10 at quality 95 it raised JPEG's root mean square error from 1.4 to 2.0 grey levels.
"""

import functools
import io
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from ldm.metrics.reconstruction import ImageErrors, concatenate, image_errors
from ldm.records import LeftOut

Pixels = NDArray[np.uint8]

_JPEG_SCAN = 0xFFDA
_WEBP_LOSSY_HEADER = 7  # start code (3) and size (4) within the frame, RFC 6386 section 9.1
_WEBP_LOSSLESS_HEADER = 5  # signature (1) and size (4) within the chunk

ERROR_BATCH = 64
"""Images whose errors are computed at a time, which bounds memory at large resolutions."""

LOSSY = ("jpeg", "webp", "avif")
OPTIONAL_CODECS = {"webp": "WebP", "avif": "AVIF (Pillow has it from version 11.3 on)"}
"""Codecs that a build of Pillow may lack."""

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
    elif codec == "avif":
        image.save(buffer, "AVIF", quality=quality, speed=8, subsampling="4:2:0", max_threads=1)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=False, subsampling="4:2:0")
    return buffer.getvalue()


def _payload_bytes(data: bytes, codec: str) -> int:
    """Bytes of a file that depend on the image's pixels, see the module's text."""
    if codec == "jpeg":
        # Segments after the start marker: marker (2), length (2, counts itself). Entropy-coded data follow the scan's.
        position = 2
        while True:
            marker, length = struct.unpack_from(">HH", data, position)
            position += 2 + length
            if marker == _JPEG_SCAN:
                return len(data) - position - 2
    if codec == "png":
        position, size = 8, 0
        while position < len(data):
            length, name = struct.unpack_from(">I4s", data, position)
            size += length if name == b"IDAT" else 0
            position += 12 + length
        return size
    if codec == "avif":
        return _box_bytes(data, b"mdat")
    (chunk,) = struct.unpack_from("<I", data, 16)
    return chunk - (_WEBP_LOSSLESS_HEADER if codec == "webp_lossless" else _WEBP_LOSSY_HEADER)


def _box_bytes(data: bytes, wanted: bytes) -> int:
    """Bytes inside the top-level boxes of that name (ISO/IEC 14496-12): length (4, counts itself), name (4)."""
    position, size = 0, 0
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        size += length - 8 if name == wanted else 0
        position += length
    return size


def _decoded(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def _errors(images: Pixels, decoded: Pixels) -> ImageErrors:
    return image_errors(*(torch.tensor(x).permute(0, 3, 1, 2) for x in (images, decoded)))


def _point(images: Pixels, codec: str, quality: int | None) -> CodecPoint:
    payload = size = 0
    parts = []
    # Pillow codes WebP and AVIF, which take nearly all of the time, outside Python's lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(images), ERROR_BATCH):
            batch = images[start : start + ERROR_BATCH]
            files = list(pool.map(functools.partial(_encoded, codec=codec, quality=quality), batch))
            payload += sum(_payload_bytes(data, codec) for data in files)
            size += sum(len(data) for data in files)
            parts.append(_errors(batch, np.stack(list(pool.map(_decoded, files)))))
    errors = concatenate(parts)
    finite = errors.psnr[errors.mse > 0]
    pixels = images[..., 0].size
    return CodecPoint(
        codec=codec,
        quality=quality,
        bits_per_pixel=8 * payload / pixels,
        bits_per_pixel_files=8 * size / pixels,
        rmse255=float(np.sqrt(errors.mse.mean())),
        psnr=float(finite.mean()) if finite.size else None,
        ssim=None if errors.ssim is None else float(errors.ssim.mean()),
        n=len(images),
    )


def _measured(
    codecs: Sequence[str], points_of: Callable[[str], list[CodecPoint]]
) -> tuple[list[CodecPoint], list[LeftOut]]:
    points, left_out = [], []
    for codec in codecs:
        needed = codec.removesuffix("_lossless")
        if needed in OPTIONAL_CODECS and not features.check(needed):
            left_out.append(LeftOut(codec, f"This Pillow has no {OPTIONAL_CODECS[needed]}: install its own wheel."))
        else:
            points += points_of(codec)
    return points, left_out


def lossy_curves(
    images: Pixels, qualities: Sequence[int] = QUALITIES, codecs: Sequence[str] = LOSSY
) -> tuple[list[CodecPoint], list[LeftOut]]:
    """JPEG (4:2:0, standard tables), WebP and AVIF (4:2:0) over a grid of qualities, on uint8 images (N, H, W, 3)."""
    return _measured(codecs, lambda codec: [_point(images, codec, quality) for quality in qualities])


def lossless_sizes(
    images: Pixels, codecs: Sequence[str] = ("png", "webp_lossless")
) -> tuple[list[CodecPoint], list[LeftOut]]:
    """Measured sizes without loss, on uint8 images (N, H, W, 3)."""
    return _measured(codecs, lambda codec: [_point(images, codec, None)])
