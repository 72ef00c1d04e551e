"""Boxes from COCO's JSON and OpenImages' CSV: where they lie after crop and resize, and what is said of wrong ones."""

import io
import json

import numpy as np
import pytest
from image_places import opened, write_folder, write_zip
from PIL import Image

from ldm.data import build_cache
from ldm.errors import UserError

N = 12
NAMES = {3: "cat", 7: "dog", 90: "tree"}


def scene(seed):
    """Pixels of an image of random shape with three rectangles, and these: category, x, y, width, height."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(40, 100, 2))
    pixels = np.zeros((height, width, 3), np.uint8)
    boxes = []
    for channel, category in enumerate(NAMES):
        w, h = int(rng.integers(8, width // 2)), int(rng.integers(8, height // 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        pixels[y : y + h, x : x + w, channel] = 255
        boxes.append((category, x, y, w, h))
    return pixels, boxes


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(folder="images"):
    return {f"{folder}/{i:02}.png": encoded(scene(i)[0]) for i in range(N)}


def coco(seeds=range(N), **changes):
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": n} for k, n in reversed(NAMES.items())],
    }
    for i in seeds:
        pixels, boxes = scene(i)
        content["images"].append(
            {"id": 100 - i, "file_name": f"{i:02}.png", "width": pixels.shape[1], "height": pixels.shape[0]}
        )
        content["annotations"] += [{"image_id": 100 - i, "category_id": c, "bbox": box} for c, *box in boxes]
    return content | changes


def openimages(suffix=".jpg"):
    rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"]
    for i in range(N):
        pixels, boxes = scene(i)
        height, width = pixels.shape[:2]
        rows += [
            f"{i:02},x,/m/{c},1,{x / width},{(x + w) / width},{y / height},{(y + h) / height},0"
            for c, x, y, w, h in boxes
        ]
        rows.append(f"{i:02},x,/m/3,1,0,1,0,1,1")
    return "\n".join(rows).encode()


def dumped(content):
    return json.dumps(content).encode()


@pytest.mark.parametrize("resolution", [16, 64])
def test_boxes_lie_on_what_they_enclose(tmp_path, resolution):
    """Each rectangle is painted in a channel of its own, so the cropped and resized image tells where its box is."""
    source = opened(write_folder(tmp_path, images() | {"instances.json": dumped(coco())}), resolution)["train"]
    assert source.annotations["boxes"].names == ("cat", "dog", "tree")
    total = 0
    for index in range(len(source)):
        pixels, boxes = source.item(index).image, source.annotation("boxes", index)
        assert [box.area for box in boxes] == sorted((box.area for box in boxes), reverse=True)
        for box in boxes:
            assert box.name == ("cat", "dog", "tree")[box.label]
            lit = pixels[..., box.label] > 127
            rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
            painted = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            np.testing.assert_allclose(np.array([box.x0, box.y0, box.x1, box.y1]) * resolution, painted, atol=0.75)
            assert box.area == pytest.approx((box.x1 - box.x0) * (box.y1 - box.y0))
        total += len(boxes)
        cropped_away = 3 - len(boxes)
        whole, listed = scene(int(source.name(index)[-6:-4]))
        side = min(whole.shape[:2])
        left, top = (whole.shape[1] - side) // 2, (whole.shape[0] - side) // 2
        lost = 0
        for _, x, y, w, h in listed:
            wide, high = (max(0, min(a + s, o + side) - max(a, o)) for a, s, o in ((x, w, left), (y, h, top)))
            lost += wide * high < w * h / 4 or min(wide, high) * resolution < side
        assert cropped_away == lost
    assert total > len(source)


@pytest.mark.parametrize(("left", "is_kept"), [(0.24, False), (0.26, True), (1.0, True)])
def test_a_quarter_of_a_box_must_be_left(tmp_path, left, is_kept):
    """The crop of a 200x100 image begins at 50: a box of width 40 with `left` of it inside."""
    files = {f"{i}.png": encoded(np.full((100, 200, 3), i, np.uint8)) for i in range(4)}
    listed = [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 100} for i in range(4)]
    rows = [{"image_id": i, "category_id": 3, "bbox": [10 + 40 * left, 20, 40, 50]} for i in range(4)]
    write_folder(tmp_path, files | {"boxes.json": dumped(coco(images=listed, annotations=rows))})
    found = opened(tmp_path)["train"].annotation("boxes", 0)
    assert len(found) == is_kept
    if is_kept:
        box = found[0]
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.0, 0.2, 0.4 * left, 0.7))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("where", ["explicit", "usual name", "two files", "OpenImages"])
def test_every_way_of_keeping_boxes_gives_the_same(tmp_path, where, packed):
    plain = opened(write_folder(tmp_path / "plain", images() | {"instances.json": dumped(coco())}))
    settings = {}
    match where:
        case "explicit":
            files, settings = {"notes/mine.json": dumped(coco())}, {"boxes": "notes/mine.json"}
        case "usual name":
            files = {"images/_annotations.coco.json": dumped(coco())}
        case "two files":
            parts = {"train": range(5), "val": range(5, N)}
            files = {f"annotations/instances_{part}.json": dumped(coco(seeds)) for part, seeds in parts.items()}
        case "OpenImages":
            names = b"\n".join(f"/m/{key},{name}".encode() for key, name in NAMES.items())
            files = {"csv/train-annotations-bbox.csv": openimages(), "csv/class-descriptions-boxable.csv": names}
            files |= {name.replace("png", "jpg"): data for name, data in images().items()}  # decoded by content
            settings = {"boxes": "csv"}
    pictures = {} if where == "OpenImages" else images()
    other = opened((write_zip if packed else write_folder)(tmp_path / "other", pictures | files), **settings)
    for split in ("train", "heldout"):
        assert other[split].annotations["boxes"] == plain[split].annotations["boxes"]
        for index in range(len(plain[split])):
            assert other[split].annotation("boxes", index) == plain[split].annotation("boxes", index)


def test_crowds_are_left_out_and_images_without_boxes_are_no_error(tmp_path):
    content = coco()
    for row in content["annotations"]:
        row["iscrowd"] = int(row["category_id"] == 7)
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 100]
    splits = opened(write_folder(tmp_path, images() | {"instances.json": dumped(content)}), max_skipped_fraction=0.0)
    for source in splits.values():
        assert source.annotations["boxes"].names == ("cat", "dog", "tree")
        for index in range(len(source)):
            boxes = source.annotation("boxes", index)
            assert "dog" not in {box.name for box in boxes}
            assert bool(boxes) == (source.name(index) != "images/00.png")


def changed(key, position, **changes):
    content = coco()
    row = {k: v for k, v in (content[key][position] | changes).items() if v is not None}
    return dumped(content | {key: [*content[key][:position], row, *content[key][position + 1 :]]})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"instances\.json is not JSON"),
        (b"[]", r"has no list 'images'; expected is COCO's format: images, annotations, categories"),
        (dumped({"images": [], "annotations": []}), r"has no list 'categories'"),
        (changed("annotations", 4, bbox=None), r"annotations\[4\] has no bbox; expected is image_id, .*in pixels"),
        (changed("annotations", 4, bbox=[1, 2, 3]), r"annotations\[4\]: not enough values .*; expected is"),
        (changed("annotations", 4, bbox=[1, 2, "a", 3]), r"annotations\[4\]: could not convert"),
        (changed("annotations", 4, bbox=[500, 2, 3, 3]), r"bbox \[500, 2, 3, 3\] lies outside of an image of \d+x\d+"),
        (changed("annotations", 4, category_id=5), r"annotations\[4\] has no category_id 5 in categories"),
        (changed("annotations", 4, image_id=5), r"annotations\[4\] has no image_id 5 in images; expected is image_id"),
        (changed("images", 2, width=None), r"images\[2\] has no width; expected is id, file_name, width, height"),
        (changed("images", 2, height=0), r"images\[2\]: 0 is no size"),
        (changed("images", 2, height=500), r"02\.png is said to be .* times as wide as high, but it is"),
        (dumped(coco(images=coco(range(2))["images"], annotations=[])), r"have no boxes, more than the 10% allowed"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(tmp_path, content, said):
    source = opened(write_folder(tmp_path, images() | {"instances.json": content}))["train"]
    with pytest.raises(UserError, match=said):
        source.annotations["boxes"]


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        (openimages().replace(b"YMax", b"Bottom"), r"boxes\.csv has no column YMax; expected are ImageID, LabelName"),
        (openimages().replace(b",/m/3,1,0,1", b",/m/3,1,zero,1"), r"boxes\.csv cannot be read \(.*zero"),
        (openimages().replace(b",/m/3,1,0,1,0,1", b",/m/3,1,0,1,0,77"), r"row \d+: .* are no fractions; expected"),
        (
            openimages().replace(b"/m/90", b"/m/91"),
            r"holds LabelName /m/91, which .*descriptions\.csv does not describe",
        ),
    ],
)
def test_what_is_wrong_in_a_csv_is_said(tmp_path, csv, said):
    names = b"\n".join(f"/m/{key},{name}".encode() for key, name in NAMES.items())
    pictures = {name.replace("png", "jpg"): data for name, data in images().items()}
    write_folder(tmp_path, pictures | {"boxes.csv": csv, "class-descriptions.csv": names})
    with pytest.raises(UserError, match=said):
        opened(tmp_path, boxes="boxes.csv")["train"].annotations["boxes"]


def test_files_that_name_a_category_differently_are_refused(tmp_path):
    other = coco(range(5, N), categories=[{"id": 3, "name": "lynx"}, *coco()["categories"][:2]])
    files = {"instances_a.json": dumped(coco(range(5))), "instances_b.json": dumped(other)}
    with pytest.raises(UserError, match=r"instances_b\.json calls category 3 'lynx', another file 'cat'"):
        opened(write_folder(tmp_path, images() | files))["train"].annotations["boxes"]


def test_files_that_number_a_category_differently_are_refused(tmp_path):
    other = coco(range(5, N))
    renumbered = {3: 8}
    for one in other["categories"]:
        one["id"] = renumbered.get(one["id"], one["id"])
    for one in other["annotations"]:
        one["category_id"] = renumbered.get(one["category_id"], one["category_id"])
    files = {"instances_a.json": dumped(coco(range(5))), "instances_b.json": dumped(other)}
    with pytest.raises(UserError, match=r"instances_b\.json has 'cat' as category 8, another file as category 3"):
        opened(write_folder(tmp_path, images() | files))["train"].annotations["boxes"]


def test_each_file_must_speak_of_the_image_as_it_is(tmp_path):
    other = coco()
    for image in other["images"]:
        image["width"] *= 2
    files = {"instances_a.json": dumped(other), "instances_b.json": dumped(coco())}
    with pytest.raises(UserError, match=r"instances_a\.json: .* times as wide as high"):
        opened(write_folder(tmp_path, images() | files))["train"].annotations["boxes"]


@pytest.mark.parametrize("given", ["images/00.png", "images"])
def test_a_setting_that_holds_no_boxes_is_refused(tmp_path, given):
    with pytest.raises(UserError, match=r"data\.boxes=.* holds no boxes; expected is a \.json file"):
        opened(write_folder(tmp_path, images()), boxes=given)


def test_the_cache_stores_boxes_later(tmp_path):
    source = opened(write_folder(tmp_path / "a", images() | {"boxes.json": dumped(coco())}))["train"]
    assert build_cache(source, tmp_path / "cache", workers=1).boxes is None
    cache = build_cache(source, tmp_path / "cache", workers=2, annotations=["boxes"])
    assert cache.boxes == tuple(source.annotation("boxes", index) for index in range(len(source)))
    assert any(cache.boxes)
