import numpy as np
import pytest
import torch
from tiny_clip import save_tiny_clip

from ldm.errors import UserError
from ldm.metrics.extractors import check_extractor, load_extractor
from ldm.pretrained.torchvision_ops import ensure_torchvision


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    ensure_torchvision()
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**size)).save_pretrained(folder)
    return folder


def pictures(n, side):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_clip_gives_its_projected_embedding(clip):
    from transformers import CLIPModel

    images, extractor = pictures(3, 16), load_extractor("clip", clip)
    mean, std = (torch.tensor(extractor.kind.mean), torch.tensor(extractor.kind.std))
    pixels = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    model = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    found = extractor(images)
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-6)
    assert set(found.arrays) == {"features"}
    assert (extractor.name, extractor.size, extractor.precision) == ("clip", 16, "float32")


def test_dinov2_gives_the_class_token_at_224_px(dinov2):
    from transformers import Dinov2Model

    images, extractor = pictures(2, 224), load_extractor("dinov2", dinov2)
    mean, std = (torch.tensor(extractor.kind.mean), torch.tensor(extractor.kind.std))
    pixels = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dinov2).eval()(pixel_values=pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(extractor(images).features, expected, rtol=1e-4, atol=1e-5)
    assert extractor.size == 224


def test_images_of_any_size_are_resized(clip):
    extractor = load_extractor("clip", clip)
    flat = torch.full((1, 3, 40, 24), 200, dtype=torch.uint8)
    same = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    np.testing.assert_allclose(extractor(flat).features, extractor(same).features, atol=1e-5)


def test_other_weights_are_other_extractors(clip, dinov2, tmp_path):
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    hashes = [load_extractor("clip", folder).weights_hash for folder in (clip, clip, tmp_path)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_missing_weights_are_one_sentence_before_anything_runs(name, clip, dinov2, tmp_path):
    with pytest.raises(
        UserError, match=rf"extractor {name} has no weights: give a folder .*metrics.also.{name} beside"
    ):
        check_extractor(name, None)
    with pytest.raises(UserError, match="holds no"):
        check_extractor(name, tmp_path / "absent")
    check_extractor(name, {"clip": clip, "dinov2": dinov2}[name])


@pytest.mark.long
def test_another_network_is_not_taken_for_clip(dinov2):
    """transformers would start from random weights and go on."""
    with pytest.raises(UserError, match="CLIPModel"):
        check_extractor("clip", dinov2)
