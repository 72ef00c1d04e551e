"""Encoded image files to square uint8 RGB arrays."""

import contextlib
import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ldm.data.contract import UnusableImage

REDUCING_GAP = 3.0
"""Large images are first averaged over whole blocks, down to no less than this multiple of the final size."""

DECODE_CODE = 1
"""Raised by hand whenever a change here changes pixels; part of every fingerprint of decoded files."""

RESIZE_RULE = "central square of the short side, Lanczos with antialiasing (Pillow, reducing gap 3)"
"""How images come to the resolution; the text stands in fingerprints and protocols."""

with contextlib.suppress(ImportError):  # HEIC, where the package is installed
    import pillow_heif

    pillow_heif.register_heif_opener()
Image.init()

STUBS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by name and cannot decode, or not without another program."""

IMAGE_SUFFIXES = frozenset(
    suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in STUBS
)
"""Suffixes of files that Pillow can decode here."""

UNMISTAKABLE = ("AVIF", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
"""Formats that the first bytes of a file tell."""


def is_image_data(head: bytes) -> bool:
    """Whether a file that begins with these bytes (16 or more) is an image of one of the usual formats."""
    openers = (Image.OPEN[kind][1] for kind in UNMISTAKABLE if kind in Image.OPEN)
    # What an opener answers may be a reason why it cannot read the file.
    return any(accepts is not None and accepts(head) is True for accepts in openers)


ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF counts as none."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:
        return image
    return image.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else image


WHITE_16 = 65535
"""The 16-bit grey value that becomes white unless another is given."""


def brightest_16(data: bytes) -> int | None:
    """The largest value of an encoded image of 16-bit grey; None for any other image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(np.asarray(image).max()) if image.mode.startswith("I") else None
    except Exception:  # as in decode_image, which says what is wrong with it
        return None


def to_rgb(image: Image.Image, white: int = WHITE_16) -> Image.Image:
    """Any Pillow mode as 8-bit RGB: transparency over white, 16-bit grey scaled so that `white` and above are 255.

    Raises: ValueError for pixel values whose range is not known (floating point, 32-bit integers).
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
            raise ValueError("pixel values of unknown range (floating point or 32 bit)")
        grey = np.rint(values.astype(np.float32) / (white / 255)).clip(0, 255)
        image = Image.fromarray(grey.astype(np.uint8))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """The square that is cut out of an image: left, top, right, bottom in its pixels."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def square(image: Image.Image, resolution: int) -> Image.Image:
    """The central square of the image at the given side; see `RESIZE_RULE`."""
    box = central_square(*image.size)
    if min(image.size) == resolution:
        return image.crop(box)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)


def upright_size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height as the image will be seen, from its header; None where it cannot be read."""
    try:
        with Image.open(file) as image:
            turned = image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS
            return (image.height, image.width) if turned else image.size
    except Exception:  # as in decode_image, which says what is wrong with it
        return None


def decode_image(data: bytes, resolution: int, name: str, white: int = WHITE_16) -> NDArray[np.uint8]:
    """The first frame of an encoded image as uint8 (resolution, resolution, 3); colour profiles are not applied.

    `white` as in `to_rgb`.

    Raises: UnusableImage where the file is broken or its short side is under half the resolution.
    """
    try:
        image = Image.open(io.BytesIO(data))
        size = image.size
        if 2 * min(size) >= resolution:
            # A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is many times faster.
            image.draft(image.mode, (round(REDUCING_GAP * resolution),) * 2)
            return np.array(square(to_rgb(upright(image), white), resolution))
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise UnusableImage(name, "is no image that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds on damaged files
        raise UnusableImage(name, f"cannot be read ({str(error) or type(error).__name__})") from error
    raise UnusableImage(name, f"is {size[0]}x{size[1]}, under half of {resolution} px")
