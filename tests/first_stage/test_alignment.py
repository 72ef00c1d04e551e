"""Alignment of latents with frozen features: by brute force, at its extremes, and in a training step."""

import math

import pytest
import torch

from ldm.errors import UserError
from ldm.first_stage.alignment import Alignment, AlignmentTerm, misalignment
from ldm.first_stage.shaping import LatentBatch
from ldm.pretrained.torchvision_ops import ensure_torchvision


def brute_force(z, f, m1, m2):
    """Position by position, as the paper writes it."""

    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    nearness, pairs = [], []
    for one, other in zip(z.flatten(2), f.flatten(2), strict=True):
        positions = range(one.shape[1])
        nearness += [max(0.0, m1 - cosine(one[:, i], other[:, i])) for i in positions]
        pairs += [
            max(0.0, abs(cosine(one[:, i], one[:, j]) - cosine(other[:, i], other[:, j])) - m2)
            for i in positions
            for j in positions
        ]
    return sum(nearness) / len(nearness) + sum(pairs) / len(pairs)


@pytest.mark.parametrize(("m1", "m2"), [(0.5, 0.25), (1.0, 0.0)])
def test_it_is_what_the_paper_writes(m1, m2):
    z, f = (torch.randn(2, 5, 3, 2, dtype=torch.float64) for _ in range(2))
    assert float(misalignment(z, f, m1, m2)) == pytest.approx(brute_force(z, f, m1, m2), rel=1e-12)
    assert float(misalignment(3 * f, f, m1, m2)) == pytest.approx(0, abs=1e-12)
    assert float(misalignment(-f, f, m1, 2.0)) == pytest.approx(m1 + 1)


class Pooled:
    """A teacher of the mean colours of four quarters."""

    width = 3

    def __call__(self, image, side):
        return torch.nn.functional.adaptive_avg_pool2d(image, 2)


def term(**changes):
    torch.manual_seed(0)
    return AlignmentTerm(Alignment(teacher="efficientnet_lite0", **changes), 4, Pooled())


def test_the_projection_is_that_of_a_1x1_convolution_and_the_teacher_is_in_no_state():
    found = term(cosine_margin=1.0, distance_margin=0.0)
    latent, image = torch.randn(2, 4, 2, 2), torch.rand(2, 3, 32, 32)
    projected = torch.nn.functional.conv2d(latent, found.projection.weight[:, :, None, None])
    expected = misalignment(projected, Pooled()(image, 2), 1.0, 0.0)
    torch.testing.assert_close(found(latent, image), expected)
    assert list(found.state_dict()) == ["projection.weight"]
    assert found(torch.randn(2, 4, 8, 8), image).isfinite()  # features are brought to the latent's side


def test_the_weight_is_the_ratio_of_gradients():
    found = term(loss_weight=0.1)
    one, other = torch.full((4,), 3.0), torch.full((4,), 0.5)
    assert float(found.weight(one, other)) == pytest.approx(0.1 * 6 / (1 + 1e-4))
    assert float(found.weight(one, 0 * other)) == pytest.approx(0.1 * 1e4)
    assert float(found.weight(one * math.inf, other)) == 0


def test_dinov2_gives_its_patches_and_lite0_a_map_of_the_latents_side(tmp_path):
    ensure_torchvision()
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**size)).save_pretrained(tmp_path)
    image = torch.rand(1, 3, 224, 224) * 2 - 1
    found = Alignment(teacher="dinov2", weights=tmp_path).load_teacher()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        tokens = Dinov2Model.from_pretrained(tmp_path).eval()(pixel_values=((image + 1) / 2 - mean) / std)
        seen = found(image, 16)
    assert seen.shape == (1, 16, 16, 16)
    torch.testing.assert_close(seen[0, :, 2, 5], tokens.last_hidden_state[0, 1 + 2 * 16 + 5], rtol=1e-4, atol=1e-5)
    lite = Alignment(teacher="efficientnet_lite0").load_teacher()
    assert lite(torch.rand(1, 3, 32, 32), 8).shape == (1, 112, 8, 8)
    assert not any(parameter.requires_grad for parameter in lite.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"teacher": "dinov2"}, "ae.alignment.teacher=dinov2 has no weights"),
        ({"teacher": "efficientnet_lite0", "weights": "somewhere"}, "so leave them out"),
        ({"teacher": "dinov2", "weights": "nowhere"}, "holds no Dinov2Model"),
    ],
)
def test_weights_that_cannot_be_had_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Alignment(**options).load_teacher()


def test_too_many_pairs_are_refused():
    options = Alignment(teacher="efficientnet_lite0")
    options.check(LatentBatch(1, 4, side=32))
    with pytest.raises(UserError, match="1024 positions at most, and these have 64 x 64"):
        options.check(LatentBatch(1, 4, side=64))
