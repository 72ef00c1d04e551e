"""Images of other sizes: pixels, label maps and boxes go the same way."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm.data.cache import build_cache
from ldm.data.larger import LargerImages
from ldm.data.sources import open_splits
from ldm.errors import UserError

N = 12


def scenes(**options):
    return open_splits("emoji", 32, n_train=N, n_heldout=N, **options)["heldout"]


def test_scenes_stand_side_by_side_and_the_middle_is_cut():
    squares, wide = scenes(), scenes(size=(48, 80))
    assert isinstance(wide, LargerImages)
    assert (wide.grid, wide.size, wide.resolution, len(wide)) == ((2, 3), (48, 80), 32, N)
    item, parts = wide.item(10), [squares.item(index % N) for index in range(10, 16)]
    for kind in ("image", "semantic"):
        squares_of_kind = [getattr(part, kind) for part in parts]
        whole = np.vstack([np.hstack(squares_of_kind[:3]), np.hstack(squares_of_kind[3:])])
        np.testing.assert_array_equal(getattr(item, kind), whole[8:56, 8:88])
    assert (item.name, item.label, item.caption) == (parts[0].name, parts[0].label, parts[0].caption)


def test_boxes_enclose_in_the_cut_what_they_enclosed():
    """Against the label map: a box that is left lies on pixels of its class, up to its edges."""
    wide, checked = scenes(size=(48, 80)), 0
    for index in range(N):
        item = wide.item(index)
        assert [box.area for box in item.boxes] == sorted((box.area for box in item.boxes), reverse=True)
        for box in item.boxes:
            columns, rows = (slice(round(low), round(high)) for low, high in
                             ((box.x0 * 80, box.x1 * 80), (box.y0 * 48, box.y1 * 48)))  # fmt: skip
            mine = item.semantic[rows, columns] == 1 + box.label
            assert mine.any(0).mean() > 0.5
            assert mine.any(1).mean() > 0.5
            checked += 1
    assert checked > 2 * N


def test_areas_are_shares_of_the_whole():
    wide = scenes(size=(64, 96))
    for index in range(3):
        item = wide.item(index)
        assert sum(box.area for box in item.boxes) == pytest.approx((item.semantic > 0).mean())


def test_the_size_of_a_square_gives_the_square():
    squares, same = scenes(), scenes(size=(32, 32))
    one, other = squares.item(3), same.item(3)
    np.testing.assert_array_equal(one.image, other.image)
    assert [box.x0 for box in one.boxes] == pytest.approx([box.x0 for box in other.boxes])
    assert [box.area for box in one.boxes] == pytest.approx([box.area for box in other.boxes])


def test_every_size_has_fingerprints_of_its_own():
    sources = [scenes(), scenes(size=(32, 64)), scenes(size=(64, 32))]
    assert len({source.fingerprint for source in sources}) == 3
    assert len({source.annotations["semantic"].fingerprint for source in sources}) == 3
    assert sources[1].annotations["semantic"].names == sources[0].annotations["semantic"].names
    assert set(sources[1].annotations) == {"captions", "boxes", "semantic"}


def test_a_cache_holds_images_of_any_shape_with_their_annotations(tmp_path):
    source = scenes(size=(32, 72))
    cache = build_cache(source, tmp_path / "cache", workers=2, annotations=("semantic",))
    assert cache.images.shape == (N, 32, 72, 3)
    assert cache.semantic.shape == (N, 32, 72)
    np.testing.assert_array_equal(cache.semantic[5], source.annotation("semantic", 5))
    np.testing.assert_array_equal(cache.images[5], source.item(5).image)
    assert cache.boxes[5] == source.annotation("boxes", 5)


@pytest.fixture
def photographs(tmp_path):
    """Four photographs of 60 x 40 px with label maps that repeat their red channel."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    columns = np.arange(60, dtype=np.uint8)[None].repeat(40, 0)
    for n in range(4):
        pixels = np.stack([columns // 6, columns, np.full_like(columns, n)], 2)
        for folder, array in (("images", pixels), ("labels", columns // 6)):
            data = io.BytesIO()
            Image.fromarray(array).save(data, "PNG")
            (tmp_path / folder / f"{n}.png").write_bytes(data.getvalue())
    return tmp_path


def test_files_are_decoded_at_the_longer_side_and_cut(photographs):
    """The central square of 40 px, not resized at side 40, so that its middle 16 rows are those of the file."""
    source = open_splits("folder", 16, size=(16, 40), path=photographs)["train"]
    assert (source.grid, source.resolution) == ((1, 1), 40)
    item = source.item(0)
    assert item.image.shape == (16, 40, 3)
    np.testing.assert_array_equal(item.image[..., 1], np.arange(10, 50)[None].repeat(16, 0))
    np.testing.assert_array_equal(source.annotation("semantic", 0), item.image[..., 0])


def test_files_too_small_for_the_longer_side_are_named(photographs, tmp_path):
    source = open_splits("folder", 16, size=(16, 96), path=photographs)["train"]
    with pytest.raises(UserError, match="under half of 96 px"):
        build_cache(source, tmp_path / "cache", workers=1)
