"""Fields: what conditionings read of images, random ones by image and not by batch."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data import build_cache, fields, open_splits
from ldm.data.degradation import Degradation, downsampled
from ldm.data.fields import Boxes, Fields, LowResolution, Masks, WordPieces
from ldm.data.masks import MASK_KINDS, draw_mask
from ldm.randomness import numpy_generator


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    source = open_splits("emoji", 32, n_train=12, n_heldout=8)["train"]
    return build_cache(source, tmp_path_factory.mktemp("scenes") / "cache", workers=1)


def draws(step):
    return lambda item: numpy_generator(0, "fields", step, item)


def test_every_field_is_of_its_images_and_on_their_side_of_the_batch(scenes):
    asked = Fields(
        scenes,
        {
            "label": fields.label,
            "tokens": WordPieces(lambda captions: torch.tensor([[len(caption)] for caption in captions])),
            "boxes": Boxes(2),
            "semantic": fields.semantic,
            "image": fields.image,
        },
    )
    found = asked([7, 2, 7], draws(0))
    assert found["label"].tolist() == [scenes.labels[i] for i in (7, 2, 7)]
    assert found["tokens"][:, 0].tolist() == [len(scenes.captions[i]) for i in (7, 2, 7)]
    assert torch.equal(found["semantic"][1], torch.from_numpy(scenes.semantic[2].astype(np.int64)))
    assert torch.equal(found["image"], scenes.batch([7, 2, 7]))
    for row, index in zip(found["boxes"], (7, 2, 7), strict=True):
        largest = max(scenes.boxes[index], key=lambda box: box.area)
        assert row[0].tolist() == pytest.approx([largest.label, largest.x0, largest.y0, largest.x1, largest.y1])
        assert row[0, 0] == scenes.labels[index], "the class of a scene is that of its largest object"
        assert (row[len(scenes.boxes[index]) :] == -1).all()


@pytest.mark.parametrize("maker", [Masks(), LowResolution(Degradation("blur_noise_jpeg", 4))])
def test_what_is_random_hangs_on_the_image_not_on_the_batch(scenes, maker):
    whole = maker(scenes, np.array([1, 2, 3]), draws(0))
    assert torch.equal(whole[:2], maker(scenes, np.array([1, 2]), draws(0)))
    last = maker(scenes, np.array([3]), lambda item: draws(0)(item + 2))
    assert torch.equal(whole[2:], last)
    assert not torch.equal(whole, maker(scenes, np.array([1, 2, 3]), draws(1)))


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 96), (256, 128)])
def test_masks_cover_something_and_leave_something(kind, height, width):
    rng = np.random.default_rng(0)
    masks = np.stack([draw_mask(rng, height, width, [kind]) for _ in range(40)])
    assert masks.shape == (40, height, width)
    assert set(np.unique(masks)) == {0.0, 1.0}
    shares = masks.mean((1, 2))
    assert shares.min() > 0
    assert shares.max() <= 0.7
    assert shares.std() > 0.01


def test_thicker_strokes_cover_more():
    rng = np.random.default_rng(0)
    shares = [np.mean([draw_mask(rng, 64, 64, [kind]).mean() for _ in range(60)]) for kind in MASK_KINDS[:3]]
    assert shares[0] < shares[1] < shares[2]


def test_bicubic_is_pillows():
    """Pillow shrinks with the same antialiased kernel, in whole grey levels."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    ours = downsampled(image.permute(2, 0, 1)[None].float() / 127.5 - 1, 4)[0]
    theirs = np.asarray(Image.fromarray(image.numpy()).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.abs((ours.permute(1, 2, 0).numpy() + 1) * 127.5 - theirs).max() < 1.01


def test_blur_noise_and_jpeg_degrade_more_than_shrinking(scenes):
    image = scenes.batch(range(12))
    bicubic = downsampled(image, 4)
    worse = LowResolution(Degradation("blur_noise_jpeg", 4))(scenes, np.arange(12), draws(0))
    assert worse.shape == bicubic.shape
    error = (worse - bicubic).square().mean((1, 2, 3)).sqrt() * 127.5
    assert error.min() > 2
    assert error.max() < 60
    with pytest.raises(ValueError, match="no degradation 'nearest'"):
        Degradation("nearest", 4)(image[0], lambda: np.random.default_rng(0))


def test_jpeg_is_on_the_way():
    """Of a flat image only noise and JPEG are left; its values lie on the grey levels a decoder gives."""
    flat = torch.zeros(3, 32, 32)
    out = Degradation("blur_noise_jpeg", 2)(flat, lambda: np.random.default_rng(1))
    levels = (out + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    buffer = io.BytesIO()
    Image.fromarray(levels.round().byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 100
