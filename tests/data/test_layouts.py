"""Data sets as they are handed out, in small made-up copies: every form of one gives the same images."""

import io
import json
import tarfile

import lmdb
import numpy as np
import pytest
from image_places import png, write_folder, write_zip
from PIL import Image
from scipy.io import savemat

from ldm.data import build_cache, open_splits
from ldm.errors import UserError

WNIDS = ("n01440764", "n02119789", "n03445777")
TRAIN = {f"{wnid}/{wnid}_{i}.JPEG": png(10 * k + i) for k, wnid in enumerate(WNIDS) for i in range(4)}
ANSWERS = {f"ILSVRC2012_val_{i + 1:08}": WNIDS[(7 * i) % 3] for i in range(6)}
VAL = {name: png(100 + i) for i, name in enumerate(ANSWERS)}
KIT_NUMBERS = {1: "n02119789", 2: "n03445777", 3: "n01440764", 4: "n00001740"}
"""Not in the order of WordNet ids, and with an inner node, as the real ones."""


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_bytes(files, tmp_path):
    return write_tar(tmp_path / "inner.tar", files).read_bytes()


def write_lmdb(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def kit(folder):
    number = {wnid: key for key, wnid in KIT_NUMBERS.items()}
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.array([(key, wnid, "some words") for key, wnid in KIT_NUMBERS.items()], dtype=fields)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets[:, None]})
    truth = "\n".join(str(number[wnid]) for wnid in ANSWERS.values())
    return {f"{folder}/meta.mat": buffer.getvalue(), f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth.encode()}


def lines(text):
    return "\n".join(text.format(name=name, wnid=wnid, n=WNIDS.index(wnid)) for name, wnid in ANSWERS.items()).encode()


def in_folders(top=""):
    train = {f"{top}train/{name}": data for name, data in TRAIN.items()}
    return train | {f"{top}val/{ANSWERS[name]}/{name}.JPEG": data for name, data in VAL.items()}


def flat(top="", **lists):
    train = {f"{top}train/{name}": data for name, data in TRAIN.items()}
    return train | {f"{top}val/{name}.JPEG": data for name, data in VAL.items()} | lists


IMAGENETS = {
    "folders": in_folders(),
    "challenge tree": flat("ILSVRC/Data/CLS-LOC/")
    | {"LOC_val_solution.csv": b"ImageId,PredictionString\n" + lines("{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8")},
    "wnid a line": flat() | {"imagenet_2012_validation_synset_labels.txt": lines("{wnid}")},
    "image and wnid": flat() | {"val_map.txt": lines("{name}.JPEG\t{wnid}")},
    "image and number": flat() | {"val.txt": lines("{name}.JPEG {n}")},
    "development kit": flat() | kit("ILSVRC2012_devkit_t12/data"),
}


def described(splits):
    found = {}
    for split, source in splits.items():
        items = [source.item(index) for index in range(len(source))]
        found[split] = (
            source.fingerprint,
            [item.image.tobytes() for item in items],
            [source.classes[item.label] for item in items],
        )
    return found


@pytest.fixture
def imagenet(tmp_path):
    splits = open_splits("imagenet", 16, path=write_folder(tmp_path / "expected", in_folders()))
    assert splits["train"].classes == splits["heldout"].classes == WNIDS
    expected = described(splits)
    assert expected["train"][2] == [name.split("/")[0] for name in sorted(TRAIN)]
    assert sorted(expected["heldout"][2]) == sorted(ANSWERS.values())
    return expected


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("form", IMAGENETS)
def test_imagenet_in_folders(tmp_path, imagenet, form, packed):
    root = (write_zip if packed else write_folder)(tmp_path / "set", IMAGENETS[form])
    assert described(open_splits("imagenet", 16, path=root, classes=3)) == imagenet


@pytest.mark.parametrize("form", ["tar of tars", "tars of classes"])
def test_imagenet_in_tar_archives(tmp_path, imagenet, form):
    root = write_folder(tmp_path / "set", kit("devkit"))
    inner = {
        f"{wnid}.tar": tar_bytes({name[10:]: data for name, data in TRAIN.items() if name.startswith(wnid)}, tmp_path)
        for wnid in WNIDS
    }
    if form == "tar of tars":
        write_tar(root / "ILSVRC2012_img_train.tar", inner)
    else:
        write_folder(root / "train", inner)
    write_tar(root / "ILSVRC2012_img_val.tar", {f"{name}.JPEG": data for name, data in VAL.items()})
    memo = tmp_path / "memo.json"
    assert described(open_splits("imagenet", 16, path=root, memo=memo)) == imagenet
    assert described(open_splits("imagenet", 16, path=root, memo=memo)) == imagenet  # now from what is remembered


def test_a_tar_archive_is_read_through_once(tmp_path, monkeypatch):
    root = tmp_path / "set"
    write_tar(
        root / "ILSVRC2012_img_train.tar", {f"{WNIDS[0]}.tar": tar_bytes({"a.JPEG": png(0), "b.JPEG": png(1)}, root)}
    )
    (root / "inner.tar").unlink()
    memo = tmp_path / "memo.json"
    first = open_splits("imagenet", 16, path=root, memo=memo)["train"].fingerprint
    monkeypatch.setattr("ldm.data.archives.tarfile.open", lambda *_, **__: pytest.fail("read again"))
    assert open_splits("imagenet", 16, path=root, memo=memo)["train"].fingerprint == first
    whole = (root / "ILSVRC2012_img_train.tar").read_bytes()
    (root / "ILSVRC2012_img_train.tar").write_bytes(whole + bytes(10240))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        open_splits("imagenet", 16, path=root, memo=memo)


def test_without_validation_images_some_training_images_are_held_out(tmp_path):
    files = {f"train/{name}": data for name, data in TRAIN.items()}
    splits = open_splits("imagenet", 16, path=write_folder(tmp_path, files))
    assert len(splits["train"]) + len(splits["heldout"]) == len(TRAIN)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train/cat/1.png": png(0), "train/dog/1.png": png(1)}, "holds no ImageNet: expected are training images in"),
        (
            flat(),
            r"6 validation images outside of folders of classes, and nothing tells their classes; put them in val/",
        ),
        (
            flat() | {"val_map.txt": lines("{name}.JPEG cat")},
            r"val_map\.txt, line 1: has no wnid .* and no class number",
        ),
        (
            flat() | {"val_map.txt": lines("{wnid}")[:20]},
            r"val_map\.txt, line 1: expected is an image and its wnid, or, .* 6",
        ),
        (
            flat() | {"val_map.txt": lines("{name} {wnid}")[:67]},
            r"val_map\.txt does not tell the class of val/.*3\.JPEG",
        ),
        (
            flat() | {"val.txt": lines("{name} n09999999")},
            r"is of class n09999999, of which there is no training image",
        ),
        (
            flat() | {"kit/ILSVRC2012_validation_ground_truth.txt": b"1\n2"},
            r"ground_truth\.txt needs meta\.mat of the same development kit",
        ),
        (
            flat() | kit("kit") | {"kit/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n3\n1\n2\n9"},
            r"should hold a number from meta\.mat for each validation image",
        ),
    ],
)
def test_what_is_wrong_with_imagenet_is_said(tmp_path, files, said):
    with pytest.raises(UserError, match=said):
        open_splits("imagenet", 16, path=write_folder(tmp_path, files))


def test_a_compressed_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(UserError, match=r"img_train\.tar cannot be read as an uncompressed tar archive"):
        open_splits("imagenet", 16, path=tmp_path)


@pytest.mark.parametrize("wrong", [2, 1000])
def test_a_wrong_declaration_of_classes_is_said(tmp_path, wrong):
    write_folder(tmp_path, in_folders())
    with pytest.raises(UserError, match=rf"data\.classes={wrong} is declared, but .* has 3; set it to 3 or null"):
        open_splits("imagenet", 16, path=tmp_path, classes=wrong)


def encoded(seed):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(seed, side=20))).save(buffer, "WEBP", quality=90)
    return buffer.getvalue()


def test_lsun_from_lmdb_and_from_folders(tmp_path):
    train, val = ({f"{100 * s + i:040x}": encoded(100 * s + i) for i in range(n)} for s, n in ((0, 9), (1, 4)))
    for side, values in (("train", train), ("val", val)):
        write_lmdb(tmp_path / "lmdb" / f"bedroom_{side}_lmdb", values)
        exported = {f"bedroom_{side}/{key[0]}/{key[1]}/{key}.webp": value for key, value in values.items()}
        write_folder(tmp_path / "folders", exported)
    database = open_splits("lsun", 16, path=tmp_path / "lmdb", classes=0, memo=tmp_path / "memo.json")
    folders = open_splits("lsun", 16, path=tmp_path / "folders")
    for split, values in (("train", train), ("heldout", val)):
        assert len(database[split]) == len(folders[split]) == len(values)
        assert database[split].classes == folders[split].classes == ()
        for index in range(len(values)):
            item = database[split].item(index)
            np.testing.assert_array_equal(item.image, folders[split].item(index).image)
            assert item.name.partition("/")[2] in values
            assert item.label is None
    again = open_splits("lsun", 16, path=tmp_path / "lmdb", memo=tmp_path / "memo.json")
    assert again["train"].fingerprint == database["train"].fingerprint
    cache = build_cache(database["train"], tmp_path / "cache", workers=3)
    assert len(cache) == 9


def test_the_category_of_lsun_is_chosen(tmp_path):
    for category in ("bedroom", "church_outdoor"):
        write_lmdb(tmp_path / f"{category}_train_lmdb", {f"{category}{i}": encoded(i) for i in range(4)})
    with pytest.raises(UserError, match=r"choose one: data\.category=bedroom or church_outdoor"):
        open_splits("lsun", 16, path=tmp_path)
    with pytest.raises(UserError, match=r"data\.category=churches is not in .* \(there are bedroom, church_outdoor\)"):
        open_splits("lsun", 16, path=tmp_path, category="churches")
    with pytest.raises(UserError, match=r"holds no <category>_train_lmdb"):
        open_splits("lsun", 16, path=write_folder(tmp_path / "other", {"a.png": png(0)}))
    splits = open_splits("lsun", 16, path=tmp_path, category="church_outdoor")  # without val: by content
    assert len(splits["train"]) + len(splits["heldout"]) == 4
    assert all("church_outdoor" in splits["train"].name(i) for i in range(len(splits["train"])))


def test_a_damaged_database_is_said(tmp_path):
    write_folder(tmp_path, {"bedroom_train_lmdb/data.mdb": b"no database" * 1000})
    with pytest.raises(UserError, match=r"bedroom_train_lmdb cannot be opened as an lmdb database"):
        open_splits("lsun", 16, path=tmp_path)


def test_ffhq_has_no_classes_and_its_own_split(tmp_path):
    numbers = [0, 1, 999, 1000, 59999, 60000, 69999]
    files = {f"images1024x1024/{n // 1000:02}000/{n:05}.png": png(n) for n in numbers}
    files |= {f"thumbnails128x128/{n // 1000:02}000/{n:05}.png": png(n + 1) for n in numbers}
    splits = open_splits("ffhq", 16, path=write_folder(tmp_path, files), classes=0)
    for split, expected in (("train", numbers[:5]), ("heldout", numbers[5:])):
        source = splits[split]
        assert source.classes == ()
        assert [source.name(i) for i in range(len(source))] == [
            f"images1024x1024/{n // 1000:02}000/{n:05}.png" for n in expected
        ]


def test_a_part_of_ffhq_is_split_by_content(tmp_path):
    splits = open_splits("ffhq", 16, path=write_folder(tmp_path, {f"00000/{n:05}.png": png(n) for n in range(12)}))
    assert len(splits["train"]) + len(splits["heldout"]) == 12
    assert len(splits["heldout"]) >= 2


@pytest.mark.parametrize("name", ["celebahq", "ffhq"])
def test_lists_of_faces_are_the_split(tmp_path, name):
    files = {f"{n:05}.jpg": png(n) for n in range(6)} | {"unused.jpg": png(7)}
    prefix = "imgHQ" if name == "celebahq" else ""
    files["lists/celebahqtrain.txt"] = "\n".join(f"{prefix}{n:05}.npy" for n in (5, 0, 3, 2)).encode()
    files["lists/celebahqvalidation.txt"] = f"{prefix}00001.npy\n{prefix}00004.npy\n".encode()
    splits = open_splits(name, 16, path=write_folder(tmp_path, files))
    assert [splits["train"].name(i) for i in range(4)] == ["00000.jpg", "00002.jpg", "00003.jpg", "00005.jpg"]
    assert [splits["heldout"].name(i) for i in range(2)] == ["00001.jpg", "00004.jpg"]
    (tmp_path / "lists" / "celebahqvalidation.txt").write_text("00009.npy")
    with pytest.raises(UserError, match=r"celebahqvalidation\.txt names 00009, and there is no such image"):
        open_splits(name, 16, path=tmp_path)
    (tmp_path / "lists" / "celebahqvalidation.txt").write_text("00005.npy")
    with pytest.raises(UserError, match=r"validation\.txt names 00005\.jpg, which was named before"):
        open_splits(name, 16, path=tmp_path)


def test_folders_of_celebahq_are_no_classes(tmp_path):
    files = {
        f"celeba_hq/{side}/{kind}/{i}.jpg": png(i)
        for side in ("train", "val")
        for kind in ("female", "male")
        for i in range(3)
    }
    splits = open_splits("celebahq", 16, path=write_folder(tmp_path, files))
    assert splits["train"].classes == ()
    assert (len(splits["train"]), len(splits["heldout"])) == (6, 6)
    assert splits["train"].item(0).label is None


def coco(seeds, first=0):
    sizes = {i: Image.open(io.BytesIO(png(i, side=24))).size for i in seeds}
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": w, "height": h} for i, (w, h) in sizes.items()]
    boxes = [{"image_id": i, "category_id": 18 + i % 2, "bbox": [2, 3, 10 + i % 5, 12]} for i in seeds]
    names = [{"id": 18, "name": "dog"}, {"id": 19, "name": "horse"}]
    captions = [{"image_id": i, "caption": f"{word} {i}"} for i in seeds for word in ("first", "second")]
    return {"images": images, "annotations": boxes, "categories": names}, {"images": images, "annotations": captions}


def coco_files(year="2017"):
    files = {}
    for side, seeds in (("train", range(8)), ("val", range(8, 12))):
        instances, captions = coco(seeds)
        files |= {f"{side}{year}/{i:012}.jpg": png(i, side=24) for i in seeds}
        files[f"annotations/instances_{side}{year}.json"] = json.dumps(instances).encode()
        files[f"annotations/captions_{side}{year}.json"] = json.dumps(captions).encode()
    return files


def test_coco_unpacked_and_packed(tmp_path):
    files = coco_files()
    maps = {}
    for side, seeds in (("train", range(8)), ("val", range(8, 12))):
        for i in seeds:
            labels = Image.fromarray(np.full((24, 24), 17 + i % 2, np.uint8))
            buffer = io.BytesIO()
            labels.save(buffer, "PNG")
            maps[f"stuffthingmaps/{side}2017/{i:012}.png"] = buffer.getvalue()
    other_year = {"train2014/a.jpg": png(77), "annotations/instances_train2014.json": b"not read"}
    plain = open_splits("coco", 16, path=write_folder(tmp_path / "a", files | maps | other_year), box_classes=2)
    for side in ("train", "val"):
        write_zip_of(tmp_path / "b" / f"{side}2017.zip", files, f"{side}2017/")
    write_zip_of(tmp_path / "b" / "annotations_trainval2017.zip", files, "annotations/")
    packed = open_splits("coco", 16, path=tmp_path / "b")
    for split, seeds in (("train", range(8)), ("heldout", range(8, 12))):
        source = plain[split]
        assert set(source.annotations) == {"captions", "boxes", "semantic"}
        assert set(packed[split].annotations) == {"captions", "boxes"}
        assert packed[split].fingerprint == source.fingerprint
        for kind in ("captions", "boxes"):
            assert packed[split].annotations[kind] == source.annotations[kind]
        assert source.annotations["boxes"].names == ("dog", "horse")
        assert source.annotations["semantic"].names == ("class 17", "class 18")
        assert source.classes == ()
        for index, i in enumerate(seeds):
            assert source.annotation("captions", index) == f"first {i}"
            [box] = source.annotation("boxes", index)
            assert (box.name, box.x0, box.y0) == (("dog", "horse")[i % 2], 2 / 24, 3 / 24)
            assert (box.x1, box.y1) == (pytest.approx((12 + i % 5) / 24), pytest.approx(15 / 24))
            assert (source.annotation("semantic", index) == i % 2).all()


def write_zip_of(path, files, start):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_zip(path, {name: data for name, data in files.items() if name.startswith(start)})


def test_what_is_wrong_with_coco_is_said(tmp_path):
    with pytest.raises(UserError, match=r"holds no COCO: expected are train2017/"):
        open_splits("coco", 16, path=write_folder(tmp_path / "a", {"images/1.jpg": png(0)}))
    write_folder(tmp_path / "b", coco_files("2014"))
    source = open_splits("coco", 16, path=tmp_path / "b", box_classes=80)["train"]
    with pytest.raises(UserError, match=r"data\.box_classes=80 is declared, but .* has 2; set it to 2 or null"):
        source.annotations["boxes"]


def test_openimages(tmp_path):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    files = {"class-descriptions-boxable.csv": b"/m/0bt9lr,Dog\n/m/03k3r,Horse\n/m/01yrx,Cat\n"}
    for side, seeds in (("train", range(8)), ("validation", range(8, 12))):
        files |= {f"{side}/{i:016x}.jpg": png(i, side=24) for i in seeds}
        rows = [f"{i:016x},xclick,/m/{('0bt9lr', '03k3r')[i % 2]},1,0.25,0.75,0.125,0.5,0,0,0" for i in seeds if i != 3]
        files[f"oidv6-{side}-annotations-bbox.csv"] = (header + "\n".join(rows)).encode()
    files |= {f"test/{i:016x}.jpg": png(i) for i in range(20, 23)}
    splits = open_splits("openimages", 16, path=write_folder(tmp_path, files), box_classes=3, classes=0)
    assert (len(splits["train"]), len(splits["heldout"])) == (8, 4)
    for split, first in (("train", 0), ("heldout", 8)):
        source = splits[split]
        assert source.annotations["boxes"].names == ("Dog", "Horse", "Cat")
        for index in range(len(source)):
            i = first + index
            if i == 3:  # not named in the CSV: no boxes
                assert source.annotation("boxes", index) == ()
                continue
            [box] = source.annotation("boxes", index)
            assert (box.name, box.x0, box.x1, box.y0, box.y1) == (("Dog", "Horse")[i % 2], 0.25, 0.75, 0.125, 0.5)


def test_places(tmp_path):
    files = {f"data_256/a/airfield/{i:08}.jpg": png(i) for i in range(4)}
    files |= {f"data_256/b/beach/{i:08}.jpg": png(10 + i) for i in range(4)}
    files |= {f"val_256/Places365_val_{i:08}.jpg": png(20 + i) for i in range(3)}
    splits = open_splits("places", 16, path=write_folder(tmp_path / "a", files), classes=0)
    assert (len(splits["train"]), len(splits["heldout"])) == (8, 3)
    standard = {
        name.replace("data_256/a", "train").replace("data_256/b", "train"): data for name, data in files.items()
    }
    standard = {name.replace("val_256", "val/airfield"): data for name, data in standard.items()}
    same = open_splits("places", 16, path=write_folder(tmp_path / "b", standard))
    assert (len(same["train"]), len(same["heldout"]), same["train"].classes) == (8, 3, ())
