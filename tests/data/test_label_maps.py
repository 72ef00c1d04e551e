"""Label maps: where they are found, what their values become, and that they lie on their images."""

import io
import json

import numpy as np
import pytest
from image_places import opened, png, write_folder, write_zip
from PIL import Image

from ldm.data import build_cache
from ldm.errors import UserError

N = 12


def encoded(array, kind="PNG", mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def regions(seed, values, shape=(24, 36), block=6):
    """A map of square blocks of these values, uint8."""
    chosen = np.random.default_rng(seed).choice(values, (shape[0] // block, shape[1] // block))
    return np.kron(chosen, np.ones((block, block))).astype(np.uint8)


def painted(labels):
    """An image that tells each pixel's value in its red channel."""
    return encoded(np.stack([labels, labels, labels], -1))


def scenes(values=(0, 1, 2, 5, 255), image="images/{}.png", label="labels/{}.png"):
    maps = {f"{i:02}": regions(i, values) for i in range(N)}
    return {image.format(name): painted(labels) for name, labels in maps.items()} | {
        label.format(name): encoded(labels) for name, labels in maps.items()
    }


LAYOUTS = {
    "beside": {},
    "split": {"image": "all/train/images/{}.png", "label": "all/train/labels/{}.png"},
    "split below": {"image": "images/training/{}.png", "label": "annotations/training/{}.png"},
    "ending": {"image": "Images/{}.png", "label": "Labels/{}_L.png"},
}


def check_overlay(source):
    """Where the image is flat, its red channel is the value of the label map."""
    names = source.annotations["semantic"].names
    value = {name: 255 if name == "void" else int(name.removeprefix("class ")) for name in names}
    table = np.array([value[name] for name in names])
    for index in range(len(source)):
        red = source.item(index).image[..., 0].astype(int)
        labels = table[source.annotation("semantic", index)]
        assert (np.abs(red - labels) <= 1).mean() > 0.5
        inside = np.zeros_like(red, bool)
        inside[1:-1, 1:-1] = True
        for axis in (0, 1):
            for step in (-1, 1):
                inside &= np.roll(labels, step, axis) == labels
        assert inside.any()
        away = np.abs(red - labels)[inside]
        assert np.median(away) <= 1


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_beside_the_images_are_found_and_are_no_images(tmp_path, layout, packed):
    files = scenes(**LAYOUTS[layout])
    if "split" in layout:
        files |= {
            name.replace("training", "validation").replace("train/", "val/"): data for name, data in files.items()
        }
    splits = opened((write_zip if packed else write_folder)(tmp_path / "set.zip", files), resolution=24)
    sizes = (N, N) if "split" in layout else None
    assert sizes is None or (len(splits["train"]), len(splits["heldout"])) == sizes
    assert sizes or len(splits["train"]) + len(splits["heldout"]) == N
    for source in splits.values():
        assert source.classes == ()
        assert source.annotations["semantic"].names == ("class 0", "class 1", "class 2", "class 5", "void")
        check_overlay(source)


@pytest.mark.parametrize("resolution", [24, 12, 17])
def test_maps_go_through_the_crop_and_resize_of_their_image(tmp_path, resolution):
    """At the image's own size exactly its central square; at others the pixel nearest to each centre."""
    files = scenes(values=range(7))
    source = opened(write_folder(tmp_path, files), resolution=resolution)["train"]
    assert source.annotations["semantic"].names == tuple(f"class {value}" for value in range(7))
    for index in range(len(source)):
        whole = regions(int(source.name(index)[-6:-4]), range(7))
        middle = whole[:, 6:30]
        nearest = np.floor((np.arange(resolution) + 0.5) * 24 / resolution).astype(int)
        np.testing.assert_array_equal(source.annotation("semantic", index), middle[np.ix_(nearest, nearest)])
    check_overlay(source)


def test_maps_may_have_another_scale_but_no_other_shape(tmp_path):
    half = {f"labels/{i:02}.png": encoded(regions(i, range(3))[::2, ::2]) for i in range(N)}
    source = opened(write_folder(tmp_path, scenes(values=range(3)) | half), resolution=24)["train"]
    check_overlay(source)
    (tmp_path / "labels" / "03.png").write_bytes(encoded(regions(3, range(3)).T))
    with pytest.raises(
        UserError, match=r"labels/03\.png is 24x36; expected is the shape of its image .*03\.png, 36x24"
    ):
        opened(tmp_path)["train"].annotations["semantic"]


def test_maps_fit_images_that_exif_turns(tmp_path):
    files = scenes(values=range(3), image="images/{}.jpg")
    for i in range(N):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        labels = regions(i, range(3))
        lying = np.rot90(np.stack([labels] * 3, -1))
        files[f"images/{i:02}.jpg"] = encoded(np.ascontiguousarray(lying), "JPEG", exif=exif, quality=95)
    source = opened(write_folder(tmp_path, files), resolution=24)["train"]
    assert source.annotations["semantic"].names == ("class 0", "class 1", "class 2")


def test_values_are_the_same_in_both_splits(tmp_path):
    files = {name.replace("images", "train/images"): data for name, data in scenes(values=(3, 9)).items()}
    files = {name.replace("labels", "train/labels"): data for name, data in files.items()}
    other = scenes(values=(4, 9), image="val/images/{}.png", label="val/labels/{}.png")
    splits = opened(write_folder(tmp_path, files | other))
    for split, values in (("train", (3, 9)), ("heldout", (4, 9))):
        source = splits[split]
        names = source.annotations["semantic"].names
        assert names == ("class 3", "class 4", "class 9")
        found = set(np.unique([source.annotation("semantic", i) for i in range(len(source))]))
        assert {names[value] for value in found} == {f"class {value}" for value in values}
    assert splits["train"].annotations["semantic"].fingerprint != splits["heldout"].annotations["semantic"].fingerprint


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("classes.txt", "sky\nroad\ncar\n", ("sky", "road", "car", "void")),
        ("classes.json", '["sky", "road", "car"]', ("sky", "road", "car", "void")),
        ("labels/classes.json", '{"2": "car", "0": "sky"}', ("sky", "car", "void")),
    ],
)
def test_named_classes(tmp_path, file, content, names):
    write_folder(tmp_path, scenes(values=(0, 1, 2, 255)) | {file: content.encode()})
    source = opened(tmp_path, resolution=24)["train"]
    assert source.annotations["semantic"].names == names
    value = {"sky": 0, "road": 1, "car": 2}
    for index in range(len(source)):
        whole = regions(int(source.name(index)[-6:-4]), (0, 1, 2, 255))[:, 6:30]
        for number, name in enumerate(names):
            there = source.annotation("semantic", index) == number
            known = [value[other] for other in names[:-1]]
            np.testing.assert_array_equal(there, ~np.isin(whole, known) if name == "void" else whole == value[name])


def test_maps_elsewhere(tmp_path):
    files = scenes(values=range(3))
    images = {f"deep/{name}": data for name, data in files.items() if name.startswith("images")}
    labels = {name.removeprefix("labels/"): data for name, data in files.items() if name.startswith("labels")}
    expected = opened(write_folder(tmp_path / "a", files))["train"].annotations["semantic"]
    write_folder(tmp_path / "b", images | {f"truth/{name}": data for name, data in labels.items()})
    inside = opened(tmp_path / "b", semantic="truth")["train"]
    write_folder(tmp_path / "c", images)
    write_zip(tmp_path / "truth.zip", {f"images/{name}": data for name, data in labels.items()})
    outside = opened(tmp_path / "c", semantic=tmp_path / "truth.zip")["train"]
    assert expected == inside.annotations["semantic"] == outside.annotations["semantic"]
    assert "semantic" not in opened(tmp_path / "c")["train"].annotations
    assert inside.fingerprint == outside.fingerprint == opened(tmp_path / "c")["train"].fingerprint


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (encoded(np.zeros((24, 36, 3), np.uint8)), r"labels/03\.png has mode RGB; expected is one channel"),
        (encoded(np.full((24, 36), 256, np.uint16)), r"labels/03\.png holds the value 256; expected are .* 0 to 255"),
        (b"no image", r"labels/03\.png cannot be read as a label map"),
        (encoded(regions(0, [7])), r"classes\.txt names the values 0 to 2, but label maps hold 7"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, labels, said):
    write_folder(tmp_path, scenes(values=range(3)) | {"labels/03.png": labels, "classes.txt": b"a\nb\nc"})
    with pytest.raises(UserError, match=said):
        opened(tmp_path)["heldout"].annotations["semantic"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("images/00.png", "is a file; expected is a folder"),
        ("extra", "holds no label map .* named as an image is"),
    ],
)
def test_a_setting_that_holds_no_maps_is_refused(tmp_path, given, said):
    write_folder(tmp_path, scenes() | {"extra/else.png": png(0)})
    with pytest.raises(UserError, match=said):
        opened(tmp_path, semantic=given)


@pytest.mark.parametrize("content", ["[1]", "{", '{"255": "void"}', '{"sky": 0}', "3"])
def test_wrong_class_lists_are_said(tmp_path, content):
    write_folder(tmp_path, scenes(values=range(3)) | {"classes.json": content.encode()})
    said = " is not JSON" if content == "{" else ": expected is a list of names, or an object from value"
    with pytest.raises(UserError, match=rf"classes\.json{said}"):
        opened(tmp_path)["train"].annotations["semantic"]


def test_images_without_a_map_are_void(tmp_path):
    files = scenes(values=range(3))
    del files["labels/04.png"]
    splits = opened(write_folder(tmp_path, files), max_skipped_fraction=0.6)
    for source in splits.values():
        assert source.annotations["semantic"].names == ("class 0", "class 1", "class 2", "void")
        for index in range(len(source)):
            is_missing = source.name(index) == "images/04.png"
            assert ((source.annotation("semantic", index) == 3) == is_missing).all()


def test_palettes_are_read_as_values(tmp_path):
    files = scenes(values=range(3))
    for i in range(N):
        image = Image.fromarray(regions(i, range(3)))
        image.putpalette(np.random.default_rng(i).integers(0, 256, 768, dtype=np.uint8).tobytes())
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files[f"labels/{i:02}.png"] = buffer.getvalue()
    plain = opened(write_folder(tmp_path / "a", scenes(values=range(3))))["train"]
    coloured = opened(write_folder(tmp_path / "b", files))["train"]
    for index in range(len(plain)):
        np.testing.assert_array_equal(plain.annotation("semantic", index), coloured.annotation("semantic", index))


def test_the_cache_stores_maps_later_and_in_the_order_of_its_images(tmp_path):
    files = scenes(values=range(3)) | {"images/00broken.png": b"no image", "labels/00broken.png": png(0)}
    files["labels/00broken.png"] = encoded(regions(0, range(3)))
    root = write_folder(tmp_path / "images", files)
    options = {"heldout_fraction": 1e-9, "max_skipped_fraction": 0.2, "resolution": 24}
    source = opened(root, **options)["train"]
    first = build_cache(source, tmp_path / "cache", workers=2)
    assert first.semantic is None
    cache = build_cache(source, tmp_path / "cache", workers=2, annotations=["semantic"])
    assert isinstance(cache.semantic, np.memmap)
    assert len(cache) == len(cache.semantic) == len(source) - len(cache.skipped)
    for name, labels in zip(cache.names, cache.semantic, strict=True):
        np.testing.assert_array_equal(labels, regions(int(name[-6:-4]), range(3))[:, 6:30])
    assert json.loads((tmp_path / "cache" / "meta.json").read_text())["n"] == len(cache)


@pytest.mark.long
@pytest.mark.data
def test_street_scenes(shared_data, tmp_path):
    splits = opened(shared_data / "data" / "camvid256.zip", resolution=64)
    assert (len(splits["train"]), len(splits["heldout"])) == (367, 101)
    names = splits["heldout"].annotations["semantic"].names
    assert names == tuple(f"class {value}" for value in range(12))
    cache = build_cache(splits["heldout"], tmp_path / "cache", workers=2, annotations=["semantic"])
    road = cache.semantic[:, 48:, 16:48]
    assert (road == 3).mean() > 0.6  # below the middle lies road, above it sky
    assert (cache.semantic[:, :4, 24:40] == 0).mean() > 0.3
