import hashlib
import urllib.error

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from ldm.errors import UserError
from ldm.metrics import features as features_module
from ldm.metrics.extractors import load_extractor
from ldm.metrics.features import (
    EfficientNetLite2Extractor,
    FeatureAccumulator,
    Features,
    InceptionExtractor,
    inception_network,
)
from ldm.metrics.frechet import frechet_distance
from ldm.metrics.kernel import kernel_distance
from ldm.metrics.tensorflow_resize import resized_as_tensorflow1
from ldm.pretrained import efficientnet_lite
from ldm.pretrained.torchvision_ops import ensure_torchvision
from ldm.pretrained.weights import content_hash


def pictures(n=6, side=32, seed=0):
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (n, 3, side, side)), (0, 0, 2, 2)) * 4 - 380
    return torch.from_numpy(smooth.clip(0, 255).astype(np.uint8))


def some_features(n, seed=0, logits=True):
    rng = np.random.default_rng(seed)
    return Features(
        rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(n, 3)).astype(np.float32) if logits else None
    )


@pytest.fixture(scope="module")
def lite2():
    return load_extractor("efficientnet_lite2")


def test_features_are_the_networks_where_nothing_is_resized(lite2):
    images = pictures(side=112)
    with torch.no_grad():
        network = efficientnet_lite.load("lite2")
        features, logits = network(network.preprocess(images.float() / 127.5 - 1))
    found = lite2(images)
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)


@pytest.mark.parametrize("side", [32, 300])
def test_images_are_resized_as_the_rule_says(lite2, side):
    images = pictures(n=2, side=side)
    resized = F.interpolate(images.double(), (112, 112), mode="bilinear", antialias=True, align_corners=False)
    with torch.no_grad():
        network = efficientnet_lite.load("lite2")
        expected = network.features(network.preprocess((resized / 127.5 - 1).float()))
    np.testing.assert_allclose(lite2(images).features, expected, atol=1e-4)


def test_batches_change_features_by_rounding_only(lite2):
    images = pictures(n=5)
    one_by_one = np.concatenate([lite2(image[None]).features for image in images])
    np.testing.assert_allclose(one_by_one, lite2(images).features, atol=2e-5)


@pytest.mark.long
def test_half_precision_is_said_and_close(lite2):
    half = load_extractor("efficientnet_lite2", dtype=torch.bfloat16)
    assert (lite2.precision, half.precision) == ("float32", "bfloat16")
    assert half.weights_hash == lite2.weights_hash
    images = pictures(n=8)
    full, rounded = lite2(images), half(images)
    rounding = np.abs(rounded.features - full.features).mean()
    between_images = np.abs(np.diff(full.features, axis=0)).mean()
    assert 0 < rounding < 0.2 * between_images
    # Pooling is in float32, so features hold more digits than bf16 has (many are zero for these images).
    as_bf16 = torch.from_numpy(rounded.features).bfloat16().float().numpy()
    assert (as_bf16 != rounded.features).mean() > 0.1


@pytest.fixture(scope="module")
def colour():
    return load_extractor("efficientnet_lite2_colour")


def test_shapes_have_one_length_and_colours_are_means_and_spreads(lite2, colour):
    images = pictures(n=4, side=64)
    found = colour(images)
    assert (found.features.dtype, found.features.shape) == (np.float32, (4, 403))
    with torch.no_grad():
        network = efficientnet_lite.load("lite2")
        pooled = network.taps(network.preprocess(images.float() / 127.5 - 1))[-1].mean(dim=(2, 3))
    expected = 403**0.5 * pooled / pooled.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found.features[:, :352], expected, atol=1e-3)
    pixels = images.double() / 127.5 - 1
    coarse, fine = (pixels.unflatten(3, (k, -1)).unflatten(2, (k, -1)).mean(dim=(3, 5)) for k in (4, 8))
    np.testing.assert_allclose(found.features[:, 352:400], 6 * coarse.flatten(1), atol=1e-5)
    luma = (torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None] * fine).sum(dim=1).flatten(1)
    np.testing.assert_allclose(found.features[:, 400], 30 * luma.std(dim=1, correction=0), atol=1e-4)
    at_this_side = EfficientNetLite2Extractor(efficientnet_lite.load("lite2"), 64, "cpu", torch.float32)
    np.testing.assert_allclose(found.logits, at_this_side(images).logits, atol=1e-5)


def test_features_depend_on_no_other_image(colour):
    images = pictures(n=5)
    together = colour(images).features
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(colour(images[order]).features, together[order], atol=2e-4)
    one_by_one = np.concatenate([colour(image[None]).features for image in images])
    np.testing.assert_allclose(one_by_one, together, atol=2e-4)


def test_what_its_protocol_says_of_it(lite2, colour):
    assert (colour.name, colour.size, colour.resize) == ("efficientnet_lite2_colour", 64, "bilinear_antialias")
    assert (colour.precision, colour.weights_hash) == ("float32", lite2.weights_hash)


@pytest.mark.long
def test_colours_tell_what_shapes_do_not(lite2, colour):
    images, reference = pictures(n=64, seed=1), pictures(n=64, seed=2)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    darker = (images.float() * 0.6).to(torch.uint8)
    for damaged in (grey, darker):
        seen = [kernel_distance(colour(x).features, colour(reference).features)[0] for x in (images, damaged)]
        assert seen[1] > seen[0]


@pytest.mark.parametrize("side", [5, 19, 300])
def test_colours_of_any_size(colour, side):
    plain = torch.full((1, 3, side, side), 255, dtype=torch.uint8)
    np.testing.assert_allclose(colour(plain).features[:, 352:400], 6, atol=1e-5)
    np.testing.assert_allclose(colour(plain).features[:, 400:], 0, atol=1e-4)


def test_grey_has_no_chroma_and_contrast_spreads_luma(colour):
    grey = pictures(n=3)[:, :1].expand(-1, 3, -1, -1)
    weaker = ((grey.float() - 128) / 2 + 128).round().to(torch.uint8)
    spreads, halved = (colour(x).features[:, 400:] for x in (grey, weaker))
    np.testing.assert_allclose(spreads[:, 1:], 0, atol=0.02)
    np.testing.assert_allclose(halved[:, 0], spreads[:, 0] / 2, rtol=0.01)


@pytest.mark.long
def test_distance_grows_with_the_damage(lite2):
    reference, other = pictures(n=24, seed=1), pictures(n=24, seed=2)
    rng = np.random.default_rng(3)
    distances = []
    for noise in (0, 10, 40, 120):
        damaged = (other.numpy() + rng.normal(0, noise, other.shape)).clip(0, 255).astype(np.uint8)
        distances.append(frechet_distance(lite2(torch.from_numpy(damaged)).features, lite2(reference).features))
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8)])
def test_only_uint8_images_are_taken(lite2, colour, images):
    for extractor in (lite2, colour):
        with pytest.raises(ValueError, match="uint8 images"):
            extractor(images)


@pytest.mark.parametrize("logits", [True, False])
def test_what_is_saved_is_read_back(tmp_path, logits):
    before = some_features(4, logits=logits)
    before.save(tmp_path / "folder" / "features.npz")
    after = Features.load(tmp_path / "folder" / "features.npz")
    np.testing.assert_array_equal(after.features, before.features)
    assert after.features.dtype == np.float32
    assert (after.logits is None) == (not logits)
    if logits:
        np.testing.assert_array_equal(after.logits, before.logits)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "features.npz"
    some_features(4).save(path)

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="disk full"):
        some_features(4, seed=1).save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["features.npz"]
    np.testing.assert_array_equal(Features.load(path).features, some_features(4).features)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        Features.load(tmp_path / "f.npz")


def test_batches_are_kept_in_their_order():
    whole, collected = some_features(7), FeatureAccumulator()
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        collected.add(whole[start:stop])
    assert len(collected) == 7
    np.testing.assert_array_equal(collected.result().features, whole.features)
    np.testing.assert_array_equal(collected.result().logits, whole.logits)


def test_batches_with_and_without_logits_do_not_mix():
    collected = FeatureAccumulator()
    with pytest.raises(ValueError, match="at least one batch"):
        collected.result()
    collected.add(some_features(2))
    collected.add(some_features(2, logits=False))
    with pytest.raises(ValueError, match="in all batches or in none"):
        collected.result()


def test_an_unknown_extractor_is_one_sentence_with_the_nearest_name():
    said = r"extractor=inceptoin is none of efficientnet_lite2, .*inception.*did you mean 'inception'\?"
    with pytest.raises(UserError, match=said):
        load_extractor("inceptoin")


@pytest.fixture(scope="module")
def shipped_inception():
    """torch-fidelity's network as it is, with random weights and random batch statistics."""
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda path, **kwargs: {})
        patch.setattr(Network, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = Network("inception-v3-compat", ["2048", "logits_unbiased"], "none")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.3)
    return network


@pytest.mark.long
def test_inception_equals_torch_fidelitys(shipped_inception):
    images = pictures(n=2)
    extractor = InceptionExtractor(inception_network(shipped_inception.state_dict()), "hash", "cpu")
    features, logits = shipped_inception(images)
    found = extractor(images)
    scale = features.abs().max().item()
    assert features.std(dim=0).max() > 0
    np.testing.assert_allclose(found.features, features, atol=1e-5 * scale)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5 * logits.abs().max().item())
    assert (extractor.size, extractor.precision) == (299, "float32")
    inner = {}
    hook = shipped_inception.Mixed_6d.branch1x1.register_forward_hook(lambda *call: inner.update(map=call[-1].clone()))
    shipped_inception(images)
    hook.remove()
    assert found.spatial.shape == (2, 2023)
    np.testing.assert_allclose(found.spatial, inner["map"][:, :7].flatten(1), atol=1e-5 * inner["map"].max().item())


@pytest.mark.long
def test_inception_in_bf16_is_that_of_autocast_bit_for_bit(shipped_inception):
    images, state = pictures(n=1), shipped_inception.state_dict()
    found = InceptionExtractor(inception_network(state), "hash", "cpu", torch.bfloat16)(images)
    exact = InceptionExtractor(inception_network(state), "hash", "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        expected = exact(images)
    for name, values in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)


@pytest.mark.parametrize("sides", [(32, 32), (64, 48), (299, 299), (512, 300), (1, 7)])
def test_resizing_is_torch_fidelitys_bit_for_bit(sides):
    ensure_torchvision()
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = torch.randint(0, 256, (2, 3, *sides), generator=torch.Generator().manual_seed(0)).float()
    whole = x.clone()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.equal(resized_as_tensorflow1(x, 299), expected)
    assert torch.equal(x, whole)  # what was given stays as it was


@pytest.mark.long
def test_the_standard_weights_are_known_by_their_hash(shipped_inception, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save(shipped_inception.state_dict(), path)
    monkeypatch.setattr(features_module, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    found, images = load_extractor("inception", weights_path=path), pictures(n=1)
    expected = shipped_inception(images)[0].numpy()
    np.testing.assert_allclose(found(images).features, expected, atol=1e-5 * np.abs(expected).max())
    assert found.weights_hash == content_hash(shipped_inception.state_dict())


def test_other_inception_weights_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not the standard weights")
    with pytest.raises(UserError, match="no FID"):
        load_extractor("inception", weights_path=path)


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"There is no file .*absent\.pth"):
        load_extractor("inception", weights_path=tmp_path / "absent.pth")


def test_weights_that_cannot_be_had_are_said_with_the_way_out(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as caught:
        load_extractor("inception")
    message = str(caught.value)
    for part in (features_module.INCEPTION_FILE, str(tmp_path), "metrics.extractor=efficientnet_lite2"):
        assert part in message
    assert "\n" not in message


def test_inner_maps_have_one_length_each_beside_the_same_colours(colour):
    inner, images = load_extractor("efficientnet_lite2_inner"), pictures(n=4, side=64)
    found = inner(images)
    assert (inner.name, inner.size, found.features.shape) == ("efficientnet_lite2_inner", 64, (4, 219))
    with torch.no_grad():
        network = efficientnet_lite.load("lite2")
        taps = network.taps(network.preprocess(images.float() / 127.5 - 1))
    pooled = [tap.mean(dim=(2, 3)) for tap in taps if 64 // tap.shape[2] in (8, 16)]
    expected = torch.cat([(219 / 2) ** 0.5 * x / x.norm(dim=1, keepdim=True) for x in pooled], dim=1)
    np.testing.assert_allclose(found.features[:, :168], expected, atol=1e-3)
    np.testing.assert_array_equal(found.features[:, 168:], colour(images).features[:, 352:])
    np.testing.assert_allclose(found.logits, colour(images).logits, atol=1e-5)
