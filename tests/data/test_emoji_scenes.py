"""The embedded scenes: determinism, disjoint objects, annotations that agree with each other and with the pixels."""

import numpy as np
import pytest
from PIL import Image

from ldm.data import emoji
from ldm.data.backgrounds import KINDS, Background, paint
from ldm.data.captions import listed, noun_phrase, scene_caption
from ldm.data.emoji import EmojiScenes, embedded_renders
from ldm.errors import UserError

PROBED = 60


def scenes(split="train", resolution=32, n=100, seed=0):
    return EmojiScenes(split, resolution, n, seed)


def files(source, index):
    return {placement.emoji.file for placement in source.scene(index).objects}


def test_a_scene_depends_on_seed_split_and_index_alone():
    forwards = [scenes().item(i) for i in range(8)]
    longer = scenes(n=5000)
    for index in reversed(range(8)):
        again = longer.item(index)
        np.testing.assert_array_equal(again.image, forwards[index].image)
        assert again.caption == forwards[index].caption
        assert again.boxes == forwards[index].boxes
    for other in (scenes(seed=1), scenes(split="heldout")):
        assert not any(np.array_equal(other.item(i).image, forwards[i].image) for i in range(8))


def test_fingerprint_changes_with_all_that_changes_scenes_and_with_nothing_else():
    variants = [scenes(), scenes(split="heldout"), scenes(resolution=33), scenes(n=101), scenes(seed=1)]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert scenes().fingerprint == variants[0].fingerprint


def test_annotations_name_the_classes_of_boxes_and_of_label_map_values():
    source = scenes()
    kinds = source.annotations
    assert set(kinds) == {"captions", "boxes", "semantic"}
    item = source.item(0)
    box = item.boxes[0]
    assert kinds["boxes"].names[box.label] == source.classes[item.label]
    (x0, y0), (x1, y1) = (round(32 * box.x0), round(32 * box.y0)), (round(32 * box.x1), round(32 * box.y1))
    assert kinds["semantic"].names.index(source.classes[item.label]) in item.semantic[y0:y1, x0:x1]
    assert kinds["semantic"].names[0] == "background"


@pytest.mark.long
def test_held_out_emoji_never_appear_in_training_and_are_a_tenth():
    pools = embedded_renders().pools
    counts = {unseen: sum(map(len, pools[unseen])) for unseen in pools}
    assert 0.08 < counts[True] / sum(counts.values()) < 0.12
    assert all(len(pool) >= 5 for pool in pools[True])
    unseen = {member.file for pool in pools[True] for member in pool}
    train, heldout = scenes(n=600), scenes("heldout", n=600)
    assert not any(files(train, i) & unseen for i in range(600))
    for index in range(200):
        shown = files(heldout, index)
        expected = index % 10 == 9
        assert heldout.scene(index).unseen_objects is expected
        assert shown <= unseen if expected else not shown & unseen


@pytest.mark.parametrize("resolution", [16, 32, 50, 256])
def test_boxes_semantic_map_and_class_agree(resolution):
    source = scenes(resolution=resolution)
    for index in range(PROBED if resolution < 100 else 12):
        item = source.item(index)
        assert item.image.shape == (resolution, resolution, 3)
        areas = [box.area for box in item.boxes]
        assert item.label == item.boxes[int(np.argmax(areas))].label
        by_category = np.bincount(item.semantic.ravel(), minlength=1 + len(source.classes))
        expected = np.zeros_like(by_category)
        inside = np.zeros(item.semantic.shape, bool)
        for box in item.boxes:
            expected[1 + box.label] += round(box.area * resolution**2)
            x0, y0, x1, y1 = (round(v * resolution) for v in (box.x0, box.y0, box.x1, box.y1))
            inside[y0:y1, x0:x1] = True
            # The box is tight: the category shows on each of its four edges.
            own = item.semantic[y0:y1, x0:x1] == 1 + box.label
            assert all(edge.any() for edge in (own[0], own[-1], own[:, 0], own[:, -1]))
        np.testing.assert_array_equal(by_category[1:], expected[1:])
        assert not item.semantic[~inside].any()


def test_away_from_the_objects_the_background_is_untouched():
    source = scenes(resolution=64)
    for index in range(20):
        scene, item = source.scene(index), source.item(index)
        clear = np.ones((64, 64), bool)
        for placement in scene.objects:
            reach = placement.side / 2 + 2 / 64
            x0, x1 = (int(np.floor(v * 64)) for v in (placement.x - reach, placement.x + reach))
            y0, y1 = (int(np.floor(v * 64)) for v in (placement.y - reach, placement.y + reach))
            clear[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = False
        expected = np.rint(np.clip(paint(scene.background, 64), 0, 255))
        np.testing.assert_array_equal(item.image[clear], expected[clear])
        assert (item.semantic[clear] == 0).all()


@pytest.mark.parametrize("resolution", [32, 100, 256])
def test_nothing_is_drawn_larger_than_its_render(resolution):
    source = scenes(resolution=resolution)
    renders = embedded_renders()
    for index in range(25):
        for placement in source.scene(index).objects:
            patch, _, _ = source._patch(placement)
            assert max(patch.shape[:2]) <= 128
            render = np.asarray(renders.at_least(placement.emoji.file, 128))[..., 3]
            # Area is kept by turning, so a drawing with more opaque pixels than its render would be an enlargement.
            assert patch[..., 3].sum() <= 1.03 * float(render.sum(dtype=np.float64))


@pytest.mark.long
def test_the_main_object_is_large_and_classes_are_balanced():
    source = scenes(n=900)
    items = [source.item(i) for i in range(900)]
    sides = np.array([max(item.boxes[0].x1 - item.boxes[0].x0, item.boxes[0].y1 - item.boxes[0].y0) for item in items])
    assert np.mean((sides >= 0.4) & (sides <= 0.9)) > 0.85
    counts = np.bincount([item.label for item in items], minlength=9)
    assert counts.min() > 60
    assert counts.max() < 150
    assert {len(item.boxes) for item in items} >= {1, 2, 3, 4}


@pytest.mark.parametrize("resolution", [15, 257])
def test_resolutions_out_of_range_are_refused(resolution):
    with pytest.raises(UserError, match="16 to 256"):
        scenes(resolution=resolution)


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_are_antialiased(kind):
    """Drawn small, a texture equals the same texture drawn eight times larger and averaged."""
    plan = Background(kind, ("blue", "pink"), (0, 0, 0), (255, 255, 255), 0.4, 3.0, (0.2, 0.7), 0.5, 3)
    if kind in ("mottled", "grainy"):  # noise has other octaves at another size: only its range is fixed
        values = paint(plan, 32)
        assert 0 <= values.min() < 100 < 155 < values.max() <= 255
        return
    averaged = paint(plan, 256).reshape(32, 8, 32, 8, 3).mean((1, 3))
    difference = np.abs(paint(plan, 32) - averaged)
    assert difference.mean() < 4
    assert np.quantile(difference, 0.99) < 50


def test_noun_phrases():
    cases = {
        ("red apple", "food-fruit"): "a red apple",
        ("unicorn face", "animal-mammal"): "a unicorn face",
        ("hourglass", "time"): "an hourglass",
        ("umbrella", "sky & weather"): "an umbrella",
        ("one-piece swimsuit", "clothing"): "a one-piece swimsuit",
        ("x-ray", "medical"): "an x-ray",
        ("grapes", "food-fruit"): "grapes",
        ("bus", "transport-ground"): "a bus",
        ("woman with bunny ears", "person-activity"): "a woman with bunny ears",
        ("netherlands flag", "country-flag"): "the flag of the netherlands",
        ("peru flag", "country-flag"): "the flag of peru",
        ("family: man, woman, girl, girl", "family"): "a family of a man, a woman and two girls",
        ("man: bald", "person"): "a bald man",
        ("woman: red hair", "person"): "a woman with red hair",
        ("womans hat", "clothing"): "a woman's hat",
        ("taurus", "zodiac"): "a taurus sign",
        ("no bicycles", "warning"): "a no bicycles sign",
    }
    assert {key: noun_phrase(*key) for key in cases} == cases


def test_captions_name_places_relations_and_lists():
    assert listed(["x", "y", "z"]) == "x, y and z"
    background = "a striped blue background"
    assert scene_caption(["a dog"], [(0.52, 0.45)], background) == "a dog on a striped blue background"
    assert scene_caption(["a dog"], [(0.2, 0.8)], background) == "a dog at the bottom left of a striped blue background"
    two = scene_caption(["a dog", "a cat"], [(0.5, 0.2), (0.4, 0.8)], background)
    assert two == "a dog above a cat on a striped blue background"
    three = scene_caption(["a dog", "a cat", "an ox"], [(0.5, 0.5)] * 3, background)
    assert three == "a dog, a cat and an ox on a striped blue background"


def test_mean_colour_is_that_of_the_opaque_pixels():
    renders = embedded_renders()
    first = renders.pools[False][0][0]
    straight = np.asarray(Image.Image.convert(renders.at_least(first.file, 128), "RGBA"), np.float64)
    weights = straight[..., 3:]
    expected = (straight[..., :3] * weights).sum((0, 1)) / weights.sum()
    np.testing.assert_allclose(renders.mean_colour(first.file), expected, atol=3)


@pytest.mark.parametrize(
    ("split", "index", "caption", "mean", "covered"),
    [
        (
            "train",
            0,
            "the flag of argentina below the flag of sint maarten on a striped orange background",
            (213.29, 154.45, 112.33),
            257,
        ),
        (
            "train",
            1,
            "a cat face with tears of joy at the left of a mottled brown background",
            (178.2, 130.1, 100.5),
            286,
        ),
        ("heldout", 9, "a stuffed flatbread on a mottled dark grey background", (120.7, 118.3, 111.1), 278),
    ],
)
def test_scenes_are_those_of_this_code_version(split, index, caption, mean, covered):
    """Golden values: whoever changes a scene raises EMOJI_CODE, so that stores do not mix old scenes with new ones."""
    assert emoji.EMOJI_CODE == 1
    item = scenes(split).item(index)
    assert item.caption == caption
    np.testing.assert_allclose(item.image.mean((0, 1)), mean, atol=0.3)
    assert abs(int((item.semantic > 0).sum()) - covered) <= 2
