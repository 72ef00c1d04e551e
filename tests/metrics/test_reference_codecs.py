import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, features

from ldm.metrics.reference_codecs import lossless_sizes, lossy_curves


def pictures(n=6, height=32, width=32, seed=0):
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (n, height, width, 3)), (0, 2, 2, 0)) * 3 - 250
    return smooth.clip(0, 255).astype(np.uint8)


def test_better_quality_costs_more_and_errs_less():
    points, left_out = lossy_curves(pictures(), qualities=(10, 40, 70, 95))
    assert not left_out
    for codec in ("jpeg", "webp", "avif"):
        curve = [point for point in points if point.codec == codec]
        rate, error = [p.bits_per_pixel for p in curve], [p.rmse255 for p in curve]
        assert len(curve) == 4
        assert (np.diff(rate) > 0).all()
        assert (np.diff(error) < 0).all()
        assert (np.diff([p.psnr for p in curve]) > 0).all()
        assert (np.diff([p.ssim for p in curve]) > 0).all()


def test_lossless_codecs_give_back_the_images():
    points, _ = lossless_sizes(pictures(height=24, width=40))
    assert {(p.codec, p.rmse255, p.psnr, p.quality) for p in points} == {
        ("png", 0, None, None),
        ("webp_lossless", 0, None, None),
    }
    assert all(0 < p.bits_per_pixel < 24 for p in points)


def test_noise_cannot_be_compressed():
    noise = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    for point in lossless_sizes(noise)[0]:
        assert 24 <= point.bits_per_pixel < 24.5


PILLOWS = {
    "jpeg": {"subsampling": "4:2:0"},
    "webp": {"method": 4},
    "avif": {"speed": 8, "subsampling": "4:2:0", "max_threads": 1},
}


@pytest.mark.parametrize("codec", PILLOWS)
def test_points_are_pillows_files(codec):
    images = pictures(n=3, height=24, width=40)
    size, squared = 0, 0.0
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, codec, quality=60, **PILLOWS[codec])
        size += len(buffer.getvalue())
        squared += np.mean((np.asarray(Image.open(buffer)).astype(float) - image) ** 2) / 3
    (point,), _ = lossy_curves(images, qualities=(60,), codecs=(codec,))
    assert point.bits_per_pixel_files == 8 * size / (3 * 24 * 40)
    assert point.rmse255 == pytest.approx(np.sqrt(squared), rel=1e-12)
    assert point.n == 3


def encoded_bytes(codec, quality, pixels):
    buffer = io.BytesIO()
    options = {
        "jpeg": {"quality": quality, "subsampling": "4:2:0"},
        "webp": {"quality": quality},
        "avif": {"quality": quality, **PILLOWS["avif"]},
        "webp_lossless": {"lossless": True, "exact": True},
        "png": {"optimize": True},
    }
    Image.fromarray(pixels).save(buffer, codec.removesuffix("_lossless"), **options[codec])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("codec", "quality", "known"),
    [("jpeg", 50, 625), ("webp", 50, 27), ("avif", 50, 275), ("webp_lossless", None, 25), ("png", None, 57)],
)
def test_the_header_left_out_is_known_beforehand(codec, quality, known):
    """The left-out bytes before the payload are equal in files of different images, up to sizes and checksums."""
    images = pictures(n=2)
    measure = lossy_curves if quality else lossless_sizes
    arguments = ((quality,), (codec,)) if quality else ((codec,),)
    (point,), _ = measure(images, *arguments)
    header = (point.bits_per_pixel_files - point.bits_per_pixel) * 32 * 32 / 8
    # WebP pads a chunk of odd length by one byte.
    assert known <= round(header, 6) <= known + 1
    first, second = (encoded_bytes(codec, quality, image) for image in images)
    if codec == "jpeg":
        start = first.index(bytes.fromhex("ffda")) + 14
        assert first[:start] == second[:start]
        assert first[start:] != second[start:]
        assert known == start + 2
    if codec == "avif":  # up to the length of the frame, which two boxes say
        pairs = zip(first[: known - 8], second[: known - 8], strict=True)
        assert sum(a != b for a, b in pairs) <= 4


def test_images_count_by_themselves():
    images = pictures(n=4)
    (whole,), _ = lossy_curves(images, qualities=(80,), codecs=("webp",))
    alone = [lossy_curves(images[i : i + 1], qualities=(80,), codecs=("webp",))[0][0] for i in (2, 0, 3, 1)]
    assert whole.bits_per_pixel == pytest.approx(np.mean([p.bits_per_pixel for p in alone]))
    assert whole.rmse255 == pytest.approx(np.sqrt(np.mean([p.rmse255**2 for p in alone])))
    assert whole.psnr == pytest.approx(np.mean([p.psnr for p in alone]))


def test_a_codec_that_pillow_lacks_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    points, left_out = lossy_curves(pictures(n=1), qualities=(50,))
    assert {point.codec for point in points} == {"jpeg"}
    assert [item.metric for item in left_out] == ["webp", "avif"]
    assert all("Pillow" in item.reason for item in left_out)
