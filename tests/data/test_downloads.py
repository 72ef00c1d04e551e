"""Folders as people have them: names of splits, masks beside images, several annotation files, odd files and zips."""

import io
import json
import zipfile
import zlib

import numpy as np
import pytest
from image_places import opened, png, write_folder, write_zip
from PIL import Image

from ldm.data import open_splits
from ldm.data.decode import IMAGE_SUFFIXES
from ldm.data.listing import image_names
from ldm.data.picture_names import annotated_stem, annotating, looks_like_split, names_annotations, side_of
from ldm.errors import UserError
from ldm.records import STORE_MARK


def encoded(pixels, kind="PNG", palette=None):
    image = Image.fromarray(np.asarray(pixels))
    if palette is not None:
        image = image.convert("P")
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def pictures(*folders, n=4):
    return {f"{folder}/{i}.png": png(zlib.crc32(f"{folder}/{i}".encode())) for folder in folders for i in range(n)}


def names(source):
    return sorted(source.name(index) for index in range(len(source)))


def listed(tmp_path, files, **options):
    splits = opened(write_folder(tmp_path / "set", files), **options)
    return names(splits["train"]), names(splits["heldout"]), splits["train"].classes, splits["train"].notes


SPLITS = [
    ("Training", "Testing"),
    ("train", "dev"),
    ("training_set", "test_set"),
    ("TRAIN", "VAL"),
    ("train2017", "val2017"),
    ("trainImages", "testImages"),
    ("train", "test1"),
    ("imagesTr", "imagesTs"),
    ("trn", "tst"),
    ("seg_train", "seg_test"),
]


@pytest.mark.parametrize("is_above", [False, True], ids=["above the classes", "below the classes"])
@pytest.mark.parametrize(("train", "other"), SPLITS)
def test_folders_called_as_splits_are_the_split(tmp_path, train, other, is_above):
    order = "{kind}/{side}" if is_above else "{side}/{kind}"
    places = [order.format(side=side, kind=kind) for side in (train, other) for kind in ("cat", "dog")]
    inside, held, classes, _ = listed(tmp_path, pictures(*places))
    assert classes == ("cat", "dog")
    assert inside == [name for name in sorted(pictures(*places)) if train in name.split("/")]
    assert held == [name for name in sorted(pictures(*places)) if other in name.split("/")]


def test_unlabelled_images_beside_a_split_take_no_part_and_are_named(tmp_path):
    files = pictures("train/a", "train/b", "test/a", "test/b", "unlabeled", n=3)
    inside, held, classes, notes = listed(tmp_path, files)
    assert classes == ("a", "b")
    assert not [name for name in inside + held if name.startswith("unlabeled")]
    assert any("unlabeled (3 images)" in note for note in notes)


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "cats", "dogs"),
        ("trainA", "trainB", "testA", "testB"),
        ("val", "test"),
        ("bus", "car", "train"),
        ("cats_test", "cats_train", "dogs_test", "dogs_train"),
    ],
)
def test_splits_that_do_not_fit_are_refused_with_what_was_seen(tmp_path, folders):
    with pytest.raises(UserError, match=r"splits.*\(4 images\).*data\.folders=classes") as refused:
        listed(tmp_path, pictures(*folders))
    assert all(folder in str(refused.value) for folder in folders)
    assert listed(tmp_path, pictures(*folders), folders="classes")[2] == tuple(sorted(folders))
    *_, classes, notes = listed(tmp_path, pictures(*folders), folders="none")
    assert classes == ()
    assert any("read as no split" in note for note in notes)


@pytest.mark.parametrize("pair", [("input", "target"), ("LR", "HR"), ("query", "gallery")], ids="-".join)
def test_two_pictures_of_each_thing_are_no_classes(tmp_path, pair):
    files = pictures(*(f"faces/{folder}" for folder in pair))
    with pytest.raises(UserError, match=rf"holds two pictures of each thing, .*{pair[0]}/.*data.folders=classes"):
        listed(tmp_path, files)
    assert listed(tmp_path, files, folders="classes")[2] == tuple(sorted(pair))


def test_folders_called_as_pairs_with_files_of_their_own_are_classes(tmp_path):
    files = {
        f"{name}/{name}{i}.png": png(zlib.crc32(f"{name}/{i}".encode())) for name in ("low", "high") for i in range(4)
    }
    assert listed(tmp_path, files)[2] == ("high", "low")
    assert listed(tmp_path / "more", pictures("low", "high", "middle"))[2] == ("high", "low", "middle")


def test_folders_that_merely_resemble_splits_are_classes(tmp_path):
    folders = ("bullet_train", "dev", "test_tube", "tr", "tv")
    assert [looks_like_split(folder) for folder in folders] == [False] * 5
    assert listed(tmp_path, pictures(*folders))[2] == folders


def test_a_stray_picture_that_takes_the_classes_is_named(tmp_path):
    *_, classes, notes = listed(tmp_path, pictures("cat", "dog") | {"logo.png": png(1)})
    assert classes == ()
    assert any("logo.png" in note and "cat, dog" in note for note in notes)


@pytest.mark.parametrize("strange", ["Cat", "wolf"])
def test_classes_without_training_images_are_refused(tmp_path, strange):
    files = pictures("train/cat", "train/dog", "test/dog", f"test/{strange}")
    with pytest.raises(UserError, match=f"no training image, {strange}.*training has cat, dog.*data.folders=none"):
        listed(tmp_path, files)
    assert listed(tmp_path, files, folders="none")[2] == ()


def test_a_class_is_never_held_out_as_a_whole(tmp_path):
    files = pictures("many", n=40) | pictures("one", n=1)
    for fraction in (0.1, 0.5, 0.99):
        inside, held, *_ = listed(tmp_path, files, heldout_fraction=fraction)
        assert "one/0.png" in inside
        assert held


MASKS = {
    "VOC": ("JPEGImages/{}.jpg", ["SegmentationClass/{}.png", "SegmentationObject/{}.png"]),
    "JPEG masks": ("images/{}.jpg", ["masks/{}.jpg"]),
    "GIF masks": ("train_images/{}.jpg", ["train_masks/{}_mask.gif"]),
    "ControlNet": ("images/{}.png", ["conditioning_images/{}.png"]),
    "beside each other": ("{}.jpg", ["{}_mask.png", "{}.seg.png"]),
    "Cityscapes": (
        "leftImg8bit/{}_leftImg8bit.png",
        ["gtFine/{}_gtFine_labelIds.png", "gtFine/{}_gtFine_color.png", "gtFine/{}_gtFine_instanceIds.png"],
    ),
    "pets": ("images/{}.jpg", ["annotations/trimaps/{}.png"]),
    "depth": ("rgb/{}.png", ["depth/{}.png", "normals/{}.png"]),
    "edges": ("images/{}.png", ["edges/{}.png"]),
    "numbered": ("{}.png", ["{}_mask.png", "{}_mask_1.png"]),
}


@pytest.mark.parametrize("form", MASKS)
def test_pictures_about_other_pictures_are_no_images_of_the_set(tmp_path, form):
    image, others = MASKS[form]
    wanted = {image.format(f"s{i}"): png(i) for i in range(9)}
    extra = {other.format(f"s{i}"): png(50 + i) for other in others for i in range(9)}
    inside, held, classes, _ = listed(tmp_path, wanted | extra)
    assert sorted(inside + held) == sorted(wanted)
    assert classes == ()


def test_what_is_left_out_is_said(tmp_path):
    files = {f"images/s{i}.jpg": png(i) for i in range(9)} | {f"masks/s{i}.jpg": png(50 + i) for i in range(9)}
    *_, notes = listed(tmp_path, files)
    assert any("9 pictures are no images of the set" in note and "masks/ (9 images)" in note for note in notes)


def test_a_class_called_as_annotations_are_is_refused_unless_it_is_said_to_be_one(tmp_path):
    files = {f"mask/m{i}.png": png(i) for i in range(4)} | {f"helmet/h{i}.png": png(9 + i) for i in range(4)}
    with pytest.raises(UserError, match=r"mask \(4 images\) has the name of annotations.*data\.folders=classes"):
        listed(tmp_path, files)
    assert listed(tmp_path, files, folders="classes")[2] == ("helmet", "mask")
    faces = {f"{kind}/{kind}{i}.png": png(i) for kind in ("with_mask", "without_mask") for i in range(4)}
    assert opened(write_folder(tmp_path / "faces", faces))["train"].classes == ("with_mask", "without_mask")


def test_words_of_names():
    assert side_of("Training_Set") == ("train", 0)
    assert side_of("cats") is None
    assert [names_annotations(name) for name in ("gtFine", "label_images", "no_mask", "images")] == [1, 1, 0, 0]
    assert annotated_stem("a_gtFine_labelIds") == "a"
    assert annotated_stem("portrait") is None
    assert annotating({"a/x.jpg": ("a", "x.jpg"), "b/x.jpg": ("b", "x.jpg")}) == frozenset()


def colours(seed):
    """A class a pixel: 0 red, 1 green, 2 a colour of no palette."""
    return np.random.default_rng(seed).integers(0, 3, (16, 16))


@pytest.mark.parametrize("form", ["indexed", "grey gif", "palette.json", "label_colors.txt", "setting"])
def test_label_maps_of_the_usual_formats(tmp_path, form):
    table = np.array([[255, 0, 0], [0, 255, 0], [9, 9, 9]], np.uint8)
    maps = {f"s{i}": colours(i) for i in range(10)}
    files = {f"images/{name}.png": png(i) for i, name in enumerate(maps)}
    options = {}
    for name, values in maps.items():
        if form == "indexed":
            files[f"labels/{name}.png"] = encoded(values.astype(np.uint8), palette=table.ravel().tolist())
        elif form == "grey gif":
            files[f"labels/{name}.gif"] = encoded(values.astype(np.uint8), "GIF")
        else:
            files[f"labels/{name}.png"] = encoded(table[values])
    if form == "palette.json":
        files["palette.json"] = json.dumps({"red": [255, 0, 0], "green": [0, 255, 0]}).encode()
    if form == "label_colors.txt":
        files["labels/label_colors.txt"] = b"255 0 0\tred\n0 255 0\tgreen\n"
    if form == "setting":
        (tmp_path / "mine.csv").write_text("name,r,g,b\nred,255,0,0\ngreen,0,255,0\n")
        options["palette"] = tmp_path / "mine.csv"
    source = opened(write_folder(tmp_path / "set", files), **options)["train"]
    has_names = form not in ("indexed", "grey gif")
    expected = ("red", "green", "void") if has_names else ("class 0", "class 1", "class 2")
    assert source.annotations["semantic"].names == expected
    for index in range(len(source)):
        stem = source.name(index).rpartition("/")[2].removesuffix(".png")
        np.testing.assert_array_equal(source.annotation("semantic", index), maps[stem])


def test_colours_without_a_palette_are_said(tmp_path):
    files = {f"images/s{i}.png": png(i) for i in range(9)} | {f"labels/s{i}.png": png(40 + i) for i in range(9)}
    source = opened(write_folder(tmp_path, files))["train"]
    with pytest.raises(UserError, match=r"has mode RGB; .*data\.palette=FILE"):
        _ = source.annotations["semantic"]


def coco(boxes, captions=False, sides=16):
    numbers = {name: number for number, name in enumerate(boxes)}
    images = [{"id": n, "file_name": name, "width": sides, "height": sides} for name, n in numbers.items()]
    if captions:
        found = [{"image_id": numbers[name], "caption": text} for name, text in boxes.items()]
        return json.dumps({"images": images, "annotations": found}).encode()
    found = [
        {"image_id": numbers[name], "category_id": label, "bbox": box}
        for name, of in boxes.items()
        for label, box in of
    ]
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return json.dumps({"images": images, "annotations": found, "categories": classes}).encode()


def boxes_of(source):
    return {source.name(index): [box.name for box in source.annotation("boxes", index)] for index in range(len(source))}


def test_annotation_files_on_the_same_images_join(tmp_path):
    images = {f"{i}.png": png(i) for i in range(10)}
    one = {name: [(1, [0, 0, 8, 8])] for name in images}
    other = {name: [(2, [4, 4, 6, 6]), (1, [0, 0, 8, 8])] for name in images}
    files = images | {"instances_a.json": coco(one), "instances_b.json": coco(other)}
    splits = opened(write_folder(tmp_path, files))
    found = boxes_of(splits["train"]) | boxes_of(splits["heldout"])
    assert found == {name: ["cat", "dog"] for name in images}


@pytest.mark.parametrize("present", [("train2017", "val2017"), ("train2017",), ("val2017",)])
def test_a_download_of_one_split_is_read_with_the_annotations_of_all(tmp_path, present):
    images = {
        side: {f"{side[:2]}{i}.jpg": png(i + 50 * (side[0] == "v")) for i in range(10)}
        for side in ("train2017", "val2017")
    }
    files = {f"{side}/{name}": data for side in present for name, data in images[side].items()}
    for side, of in images.items():
        files[f"annotations/instances_{side}.json"] = coco({name: [(1, [0, 0, 8, 8])] for name in of})
        files[f"annotations/captions_{side}.json"] = coco(dict.fromkeys(of, "a cat"), captions=True)
    root = write_folder(tmp_path, files)
    for name in ("coco", "folder"):
        splits = open_splits(name, 16, path=root)
        for source in splits.values():
            assert set(map(tuple, boxes_of(source).values())) == {("cat",)}
            assert source.annotation("captions", 0) == "a cat"


def test_annotations_that_fit_no_image_at_all_are_an_error(tmp_path):
    files = {f"{i}.png": png(i) for i in range(10)} | {"instances.json": coco({"else.png": []})}
    with pytest.raises(UserError, match="no file name in it is that of one image"):
        _ = opened(write_folder(tmp_path, files))["train"].annotations["boxes"]


BREAKS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"


@pytest.mark.parametrize("form", ["metadata.jsonl", "metadata.csv", "sidecars"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_breaks_end_a_line(tmp_path, form, end):
    images = {f"{i}.png": png(i) for i in range(8)}
    texts = {name: f"{BREAKS} {name}" for name in images}
    if form == "sidecars":
        extra = {name.replace("png", "txt"): f"{text}{end}second".encode() for name, text in texts.items()}
    else:
        rows = [{"file_name": name, "text": text} for name, text in texts.items()]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        if form == "metadata.csv":
            lines = ["file_name,text", *(f"{row['file_name']},{row['text']}" for row in rows)]
        extra = {form: ("\ufeff" + end.join(lines) + end).encode()}
    source = opened(write_folder(tmp_path, images | extra))["train"]
    for index in range(len(source)):
        assert source.annotation("captions", index) == texts[source.name(index)]


def test_zips_made_on_windows_keep_their_folders(tmp_path):
    files = pictures("cat", "dog", n=6)
    plain = opened(write_zip(tmp_path / "a.zip", files))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = "photos\\" + name.replace("/", "\\")
            info.create_system = 0
            archive.writestr(info, data)
    packed = opened(tmp_path / "b.zip")
    assert packed["train"].classes == ("cat", "dog")
    assert packed["train"].fingerprint == plain["train"].fingerprint
    assert (packed["train"].item(0).image == plain["train"].item(0).image).all()


def test_an_entry_that_inflates_without_limit_is_not_read(tmp_path):
    files = {f"{i}.png": png(i) for i in range(20)} | {"bomb.png": b"\0" * (70 << 20)}
    splits = opened(write_zip(tmp_path / "a.zip", files))
    [source] = [source for source in splits.values() if "bomb.png" in names(source)]
    with pytest.raises(Exception, match="would inflate from"):
        source.item(names(source).index("bomb.png"))


def test_heic_is_read_where_the_package_is_there(tmp_path):
    pytest.importorskip("pillow_heif")
    pixels = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(8)]
    for suffix in (".heic", ".HEIC", ""):  # the first bytes tell the last
        files = {f"{i}{suffix}": encoded(one, "HEIF") for i, one in enumerate(pixels)}
        splits = opened(write_folder(tmp_path / f"of{suffix}", files))
        for source in splits.values():
            for index in range(len(source)):
                assert abs(source.item(index).image.astype(int) - 20 * int(source.name(index)[0])).max() <= 4


def test_what_pillow_decodes_is_read_and_all_else_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("ldm.data.listing.IMAGE_SUFFIXES", IMAGE_SUFFIXES - {".heic"})  # as without pillow-heif
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    wanted = {
        "a.avif": encoded(pixels, "AVIF"),
        "b": png(1),
        "c.jpg_large": encoded(pixels, "JPEG"),
        "d.qoi": encoded(pixels, "QOI"),
    }
    others = {"e.mp4": b"movie", "f.txt": b"BM text", "g.heic": b"\0" * 40, "h": b"BMX", "i.mp4": b"x"}
    source = opened(write_folder(tmp_path, wanted | others))["train"]
    assert set(image_names(source._listing.files)) == set(wanted)
    [said] = source.notes
    assert "4 images, but 2 .mp4" in said
    for kind in ("1 .txt", "1 .heic", "1 without suffix", "pillow-heif"):
        assert kind in said


@pytest.mark.parametrize("bits", [10, 12])
def test_sixteen_bits_that_are_little_used_are_said_and_can_be_stretched(tmp_path, bits):
    values = {f"{i}.png": np.random.default_rng(i).integers(0, 2**bits, (16, 16)).astype(np.uint16) for i in range(9)}
    root = write_folder(tmp_path, {name: encoded(value) for name, value in values.items()})
    dark = opened(root)["train"]
    assert any(f"data.white={2**bits - 1}" in note for note in dark.notes)
    bright = opened(root, white=2**bits - 1)["train"]
    assert bright.notes == ()
    assert bright.fingerprint != dark.fingerprint
    for index in range(len(bright)):
        expected = np.rint(values[bright.name(index)] / (2**bits - 1) * 255)
        np.testing.assert_allclose(bright.item(index).image[..., 0], expected, atol=1)
    full = {name: encoded((value.astype(np.int64) << (16 - bits)).astype(np.uint16)) for name, value in values.items()}
    assert opened(write_folder(tmp_path / "full", full))["train"].notes == ()


@pytest.mark.parametrize("mark", ["new", "old"])
def test_a_store_inside_the_data_is_no_data(tmp_path, mark):
    files = {f"{i}.png": png(i) for i in range(10)}
    plain = opened(write_folder(tmp_path / "set", files))["train"].fingerprint
    store = tmp_path / "set" / "results"
    write_folder(store, {f"samples/ab{i}/grid.png": png(40 + i) for i in range(9)})
    if mark == "new":
        (store / STORE_MARK).touch()
    else:
        (store / "claims").mkdir()
        (store / "sweeps").mkdir()
    assert opened(tmp_path / "set")["train"].fingerprint == plain
    with pytest.raises(UserError, match="is a store of this program"):
        opened(store)


def test_a_split_unpacked_into_folders_of_its_own_names_is_read(tmp_path):
    places = [f"{side}/{side}/{kind}" for side in ("seg_train", "seg_test") for kind in ("sea", "street")]
    inside, held, classes, _ = listed(tmp_path, pictures(*places))
    assert classes == ("sea", "street")
    assert (len(inside), len(held)) == (8, 8)


def test_a_class_of_another_case_is_called_that(tmp_path):
    with pytest.raises(UserError, match="cat, which differs from Cat in its case alone"):
        listed(tmp_path, pictures("train/Cat", "train/dog", "test/cat", "test/dog"))


def test_label_maps_beside_images_are_said_to_be_none_of_them(tmp_path):
    files = {f"images/s{i}.png": png(i) for i in range(9)}
    files |= {f"labels/s{i}.png": encoded(colours(i).astype(np.uint8)) for i in range(9)}
    *_, notes = listed(tmp_path, files)
    assert any("9 pictures beside the images are read as label maps" in note for note in notes)


LABELS = {
    "dataset.json": lambda rows: json.dumps({"labels": [[name, number] for name, number in rows.items()]}),
    "metadata.csv": lambda rows: "file_name,label\n" + "".join(f"{name},{number}\n" for name, number in rows.items()),
    "metadata.jsonl": lambda rows: "\n".join(
        json.dumps({"file_name": name, "text": "x", "label": number}) for name, number in rows.items()
    ),
    "labels.csv": lambda rows: "id,class\n" + "".join(f"{name[:-4]},{number}\n" for name, number in rows.items()),
}


@pytest.mark.parametrize("form", LABELS)
def test_classes_stand_in_files_where_no_folder_gives_them(tmp_path, form):
    rows = {f"{i:02}.png": (2, 10, 1)[i % 3] for i in range(12)}
    files = {name: png(i) for i, name in enumerate(rows)}
    splits = opened(write_folder(tmp_path / "set", files | {form: LABELS[form](rows).encode()}))
    assert splits["train"].classes == ("1", "2", "10")
    for source in splits.values():
        for index in range(len(source)):
            item = source.item(index)
            assert source.classes[item.label] == str(rows[item.name])
    assert opened(tmp_path / "set", folders="none")["train"].classes == ()
    few = dict(list(rows.items())[:5])
    part = opened(write_folder(tmp_path / "part", files | {form: LABELS[form](few).encode()}))["train"]
    assert part.classes == ()
    assert any("files name the classes of 5 images" in note for note in part.notes)


def voc(boxes, side=16):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in boxes
    )
    size = f"<size><width>{side}</width><height>{side}</height></size>"
    return f"<annotation>{size}{objects}</annotation>".encode()


def yolo(boxes, side=16):
    numbers = {"cat": 0, "dog": 1}
    return "".join(
        f"{numbers[name]} {(x0 + x1) / 2 / side} {(y0 + y1) / 2 / side} {(x1 - x0) / side} {(y1 - y0) / side}\n"
        for name, (x0, y0, x1, y1) in boxes
    ).encode()


@pytest.mark.parametrize(
    ("image", "boxes", "extra"),
    [
        ("JPEGImages/{}.png", "Annotations/{}.xml", {}),
        ("{}.png", "{}.xml", {}),
        ("images/{}.png", "labels/{}.txt", {"classes.txt": b"cat\ndog\n"}),
        ("{}.png", "{}.txt", {"data.yaml": b"names: [cat, dog]"}),
    ],
    ids=["VOC", "VOC flat", "YOLO", "YOLO flat"],
)
def test_boxes_of_one_file_an_image_are_read(tmp_path, image, boxes, extra):
    given = [("cat", (0, 0, 8, 8)), ("dog", (4, 4, 12, 16))]
    write = voc if boxes.endswith("xml") else yolo
    files = {image.format(i): png(i) for i in range(9)}
    files |= {boxes.format(i): write(given[: 1 + i % 2]) for i in range(9)} | extra
    splits = opened(write_folder(tmp_path, files))
    assert "captions" not in splits["train"].annotations
    for source in splits.values():
        for index in range(len(source)):
            found = {box.name: (box.x0, box.y0, box.x1, box.y1) for box in source.annotation("boxes", index)}
            number = int(source.name(index).rpartition("/")[2].removesuffix(".png"))
            expected = {name: tuple(end / 16 for end in box) for name, box in given[: 1 + number % 2]}
            assert found.keys() == expected.keys()
            for name, corners in expected.items():
                assert found[name] == pytest.approx(corners)


def test_xml_that_declares_entities_is_refused(tmp_path):
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    files = {f"{i}.png": png(i) for i in range(9)} | {f"{i}.xml": bomb for i in range(9)}
    with pytest.raises(UserError, match="declares entities"):
        _ = opened(write_folder(tmp_path, files))["train"].annotations["boxes"]
