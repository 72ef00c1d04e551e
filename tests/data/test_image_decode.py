"""Encoded files of every kind to square RGB, compared with what their pixels mean."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.data.contract import UnusableImage
from ldm.data.decode import ORIENTATION_TAG, decode_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height=12, width=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(image, side, kind="PNG", **options):
    return decode_image(encoded(image, kind, **options), side, "x")


def test_an_image_of_the_right_size_is_unchanged():
    pixels = picture()
    np.testing.assert_array_equal(decoded(Image.fromarray(pixels), 12), pixels)


def test_the_centre_is_cropped():
    pixels = picture(12, 20)
    np.testing.assert_array_equal(decoded(Image.fromarray(pixels), 12), pixels[:, 4:16])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 144).round().astype(np.uint16).reshape(12, 12)
    grey = np.rint(values / 257.0).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(Image.fromarray(values), 12, kind), np.stack([grey] * 3, -1))


def test_grey_and_bilevel():
    grey = picture()[..., 0]
    np.testing.assert_array_equal(decoded(Image.fromarray(grey), 12), np.stack([grey] * 3, -1))
    black = np.stack([np.where(grey > 127, 255, 0).astype(np.uint8)] * 3, -1)
    np.testing.assert_array_equal(decoded(Image.fromarray(grey > 127), 12), black)


def test_palette_with_a_transparent_entry_lies_on_white():
    indices = np.arange(144, dtype=np.uint8).reshape(12, 12) % 3
    image = Image.fromarray(indices).convert("P")
    image = Image.frombytes("P", (12, 12), indices.tobytes())
    image.putpalette([10, 20, 30, 200, 100, 0, 7, 8, 9])
    colours = np.array([[10, 20, 30], [255, 255, 255], [7, 8, 9]], np.uint8)
    np.testing.assert_array_equal(decoded(image, 12, transparency=1), colours[indices])


def test_alpha_is_composited_on_white():
    pixels, alpha = picture(), picture(seed=1)[..., 0]
    share = alpha[..., None] / 255.0
    expected = pixels * share + 255 * (1 - share)
    got = decoded(Image.fromarray(np.dstack([pixels, alpha])), 12)
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "LA"])
def test_other_modes_decode_to_the_same_colours(mode):
    flat = Image.new("RGB", (16, 16), (90, 90, 90)).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(decoded(flat, 16, kind), np.full((16, 16, 3), 90))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    pixels = picture(12, 12)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    np.testing.assert_array_equal(decoded(Image.fromarray(pixels), 12, exif=exif), turned)


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    got = decoded(frames[0], 16, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(got, np.full((16, 16, 3), (255, 0, 0)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_fine_checkerboard_becomes_grey(kind):
    board = np.indices((512, 512)).sum(0) % 2 * np.uint8(255)
    got = decoded(Image.fromarray(board.astype(np.uint8)), 40, kind)
    assert np.abs(got.astype(int) - 127).max() <= 4


def test_a_smooth_image_keeps_its_values_when_reduced():
    ramp = np.linspace(0, 255, 600)
    image = np.broadcast_to(ramp, (600, 600)).round().astype(np.uint8)
    got = decoded(Image.fromarray(image), 24)[12, :, 0].astype(float)
    expected = ramp.reshape(24, 25).mean(1)
    assert np.abs(got - expected)[1:-1].max() <= 1.5


@pytest.mark.parametrize("side", [160, 768])
def test_reduced_jpeg_decoding_is_close_to_the_whole(side):
    """Decoding at a fraction of the size may not show: compared with plain Lanczos on all pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    photograph = coarse.resize((side, side), Image.Resampling.BICUBIC)
    data = encoded(photograph, "JPEG", quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS), float)
    assert np.abs(decode_image(data, 32, "x") - whole).mean() < 1.0


def test_broken_and_tiny_files_are_named():
    data = encoded(Image.fromarray(picture(64, 64)))
    for bad in (data[: len(data) // 2], b"no image", b""):
        with pytest.raises(UnusableImage, match=r"^a/b\.png: (cannot be read|is no image that Pillow knows)"):
            decode_image(bad, 32, "a/b.png")
    with pytest.raises(UnusableImage, match=r"x\.png: is 64x64, under half of 129 px"):
        decode_image(data, 129, "x.png")
    assert decode_image(data, 128, "x.png").shape == (128, 128, 3)


def test_values_of_unknown_range_are_refused():
    with pytest.raises(UnusableImage, match="unknown range"):
        decoded(Image.fromarray(np.full((16, 16), 0.5, np.float32)), 16, "TIFF")
