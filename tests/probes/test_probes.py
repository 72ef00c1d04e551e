"""What probes are asked, and how their answers are counted."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm.data.contract import Box
from ldm.errors import UserError
from ldm.metrics.task import TASK_METRICS
from ldm.probes import PROBES, build_probe
from ldm.probes.networks import Classifier, Segmenter
from ldm.probes.text import LEAST_CAPTIONS, MOST_ATTRIBUTES, attributes_of


class Fixed(nn.Module):
    """A network that answers what it is told."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.asked = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked = x
        return self.logits


def probe_that_says(kind, images, logits, side=16):
    probe = build_probe(kind, side, 4, images, seed=0)
    probe.network = Fixed(logits)
    return probe


def test_every_probe_has_a_score():
    assert {probe.metric for probe in PROBES.values()} == set(TASK_METRICS)


@pytest.mark.parametrize("side", [8, 16, 24, 30])
def test_networks_answer_once_an_image_or_once_a_pixel(side):
    x = torch.zeros(2, 3, side, side)
    assert Classifier(4, 7)(x).shape == (2, 7)
    assert Segmenter(4, 7)(x).shape == (2, 7, side, side)


def test_initial_weights_follow_from_the_seed(squares):
    one, same, other = (build_probe("class", 16, 4, squares, seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_class_answers_are_counted_against_the_classes(squares):
    wanted = torch.from_numpy(squares.labels[:4])
    said = wanted.clone()
    said[2] = (said[2] + 1) % 3
    probe = probe_that_says("class", squares, F.one_hot(said, 3).float())
    targets = probe.targets(squares, range(4))
    assert probe.counts(squares.batch(range(4)), targets).tolist() == [[1, 1], [1, 1], [0, 1], [1, 1]]
    targets[0] = -1  # an image without a class
    assert probe.counts(squares.batch(range(4)), targets).tolist()[0] == [0, 0]


def test_label_maps_are_counted_pixel_by_pixel_and_void_counts_for_nobody(squares):
    targets = torch.tensor([[[0, 1], [2, -1]], [[3, 3], [3, 3]]])
    found = torch.tensor([[[0, 1], [1, 0]], [[3, 3], [0, 3]]])
    probe = probe_that_says("semantic", squares, F.one_hot(found, 4).permute(0, 3, 1, 2).float())
    both, found_pixels, true_pixels = probe.counts(torch.zeros(2, 3, 2, 2), targets).swapaxes(0, 1)
    assert both.tolist() == [[1, 1, 0, 0], [0, 0, 0, 3]]
    assert found_pixels.tolist() == [[1, 2, 0, 0], [1, 0, 0, 3]]
    assert true_pixels.tolist() == [[1, 1, 1, 0], [0, 0, 0, 4]]


def test_values_beyond_the_named_classes_are_void(squares):
    odd = dataclasses.replace(squares)
    maps = np.array(squares.semantic)
    maps[0, 0] = 255
    odd.__dict__["semantic"] = maps
    probe = build_probe("semantic", 16, 4, squares, seed=0)
    targets = probe.targets(odd, [0])
    assert (targets[0, 0] == -1).all()
    assert (targets[0, 1:] >= 0).all()
    assert torch.isfinite(probe.loss(odd.batch([0]), targets))


def test_the_segmenter_answers_at_the_size_of_the_label_map(squares):
    probe = build_probe("semantic", 8, 4, squares, seed=0)
    assert probe.counts(squares.batch([0]), probe.targets(squares, [0]))[0, 2].sum() == 16 * 16


def test_layout_crops_hold_their_box_and_nothing_else(squares):
    """Boxes have the probe's side, so that a crop is the place of the square, pixel by pixel."""
    noise = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    probe = probe_that_says("layout", squares, torch.zeros(6, 3), side=8)
    targets = probe.targets(squares, range(6))
    probe.counts(noise, targets)
    crops = probe.network.asked
    for index, crop in enumerate(crops):
        rows, columns = np.nonzero(np.array(squares.semantic[index]))
        assert torch.equal(crop, noise[index, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    assert len(crops) == 6


def test_layout_answers_are_counted_image_by_image(squares):
    boxes = (
        (Box(0, "", 0, 0, 0.5, 0.5, 0.2), Box(2, "", 0.5, 0.5, 1, 1, 0.2)),
        (),
        (Box(1, "", 0, 0, 1, 0.2, 0.2),),  # 3.2 px high: too small for a probe of 16 px
        (Box(1, "", 0, 0, 1, 0.25, 0.2),),
    )
    images = dataclasses.replace(squares)
    images.__dict__["boxes"] = boxes
    probe = probe_that_says("layout", squares, torch.eye(3)[[0, 1, 1]])
    assert probe.usable(images) == [0, 3]
    targets = probe.targets(images, range(4))
    assert targets.shape == (4, 2, 5)
    assert probe.counts(squares.batch(range(4)), targets).tolist() == [[1, 2], [0, 0], [0, 0], [1, 1]]
    nobody = probe.counts(squares.batch([1, 2]), targets[1:3])
    assert nobody.tolist() == [[0, 0], [0, 0]]


def test_layout_asks_about_no_more_boxes_than_a_model_is_told_of(squares):
    images = dataclasses.replace(squares)
    images.__dict__["boxes"] = (
        (Box(0, "", 0, 0, 0.5, 0.5, 0.1), Box(2, "", 0, 0, 1, 1, 0.9), Box(1, "", 0, 0, 1, 1, 0.5)),
    )
    asked = [
        build_probe("layout", 16, 4, squares, 0, {"most": most}).targets(images, [0])[0, :, 0] for most in (1, 2, 9)
    ]
    assert [labels.tolist() for labels in asked] == [[2], [2, 1], [2, 1, 0]]


def test_attributes_are_words_neither_rare_nor_everywhere():
    captions = [
        f"A dog on the {'lawn' if i % 4 else 'red sofa'} at the left, 7 unique{'abcdefghij'[i % 10]}s"
        for i in range(100)
    ]
    captions[:5] = ["The cat's bed"] * 5
    captions[5] = "one zebra"
    #            dog and lawn stand in more than half, zebra in one caption, the rest are no attributes
    assert attributes_of(captions)[:2] == ("red", "sofa")
    assert {"cat", "bed"} <= set(attributes_of(captions))
    assert {"dog", "lawn", "zebra", "the", "left", "s"}.isdisjoint(attributes_of(captions))
    many = [
        " ".join(f"word{'abcdefghijkl'[i]}{'abcdefghijkl'[j]}" for i in range(12)) for j in range(12) for _ in range(6)
    ]
    assert len(attributes_of(many)) == MOST_ATTRIBUTES
    assert attributes_of(["rare"] * (LEAST_CAPTIONS - 1) + ["x y"] * 20) == ()


def test_text_says_yes_where_an_attribute_is_likelier_than_its_share(squares):
    probe = probe_that_says("text", squares, torch.zeros(1))
    assert set(probe.answers) == {"red", "green", "blue"}
    shares = np.bincount(squares.labels, minlength=3) / len(squares)
    order = [["red", "green", "blue"].index(name) for name in probe.answers]
    assert torch.sigmoid(probe.threshold).numpy() == pytest.approx(shares[order], rel=1e-5)
    probe.network.logits = torch.stack([probe.threshold + 0.01, probe.threshold - 0.01])
    targets = probe.targets(squares, [0, 1])
    counts = probe.counts(squares.batch([0, 1]), targets)
    assert (counts[:, 0] == targets.numpy()).all()
    assert targets.sum(dim=1).tolist() == [1, 1]
    assert counts[:, 1].tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("kind", "named"), [("text", "captions"), ("layout", "bounding boxes"), ("semantic", "label maps")]
)
def test_missing_annotations_are_named(kind, named, squares):
    bare = dataclasses.replace(squares, annotations={})
    with pytest.raises(UserError, match=named):
        build_probe(kind, 16, 4, bare, seed=0)


def test_a_kind_without_a_probe_is_refused(squares):
    with pytest.raises(UserError, match="conditioning=superres"):
        build_probe("superres", 16, 4, squares, seed=0)
    with pytest.raises(UserError, match="two classes"):
        build_probe("class", 16, 4, dataclasses.replace(squares, classes=("only",)), seed=0)
