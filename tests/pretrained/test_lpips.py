import importlib.util
import warnings
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.errors import UserError
from ldm.pretrained import lpips
from ldm.pretrained.torchvision_ops import ensure_torchvision

ALEX = Path("weights") / "alexnet_features.safetensors"


def upstream(network, weights=None):
    """The `lpips` package's own module, and its convolution weights under torchvision's names."""
    ensure_torchvision()
    package = pytest.importorskip("lpips")
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # the package uses names that torchvision has renamed
        module = package.LPIPS(net=network, pnet_rand=True, verbose=False)
    # Their parameters are called sliceK.N.weight, N being torchvision's index.
    names = {key: "features." + key.partition(".")[2] for key in module.net.state_dict()}
    if weights is not None:
        module.net.load_state_dict({key: weights[name] for key, name in names.items()})
    return module, {names[key]: value.clone() for key, value in module.net.state_dict().items()}


def pairs(side, n=3):
    draw = torch.Generator().manual_seed(side)
    a = torch.rand(n, 3, side, side + 5, generator=draw) * 2 - 1
    return a, (a + 0.3 * torch.randn(a.shape, generator=draw)).clamp(-1, 1)


@pytest.mark.long
@pytest.mark.parametrize(("network", "side"), [("alex", 35), ("vgg", 32)])
def test_equals_the_package_with_the_same_weights(network, side):
    theirs, weights = upstream(network)
    ours = lpips.Lpips(network, weights, lpips.read_heads(network))
    a, b = pairs(side)
    with torch.no_grad():
        expected = theirs(a, b).flatten()
        assert expected.min() > 1e-5  # the random trunk does tell them apart
        torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.data
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_equals_the_package_with_the_published_alexnet(shared_data, tmp_path, suffix):
    weights = load_file(shared_data / ALEX)
    # A whole network's file has its classifier too.
    more = weights | {"classifier.1.weight": torch.zeros(2, 2)}
    path = tmp_path / f"alexnet{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(more, path)
    ours, (theirs, _) = lpips.load("alex", path), upstream("alex", weights)
    a, b = pairs(64)
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=0, atol=1e-6)
        assert ours(a, b).min() > 0.01


@pytest.fixture(scope="module")
def random_alex():
    torch.manual_seed(0)
    layers = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}
    weights = {}
    for index, (out, into, kernel) in layers.items():
        weights[f"features.{index}.weight"] = torch.randn(out, into, kernel, kernel) / (into * kernel**2) ** 0.5
        weights[f"features.{index}.bias"] = torch.zeros(out)
    return weights


def test_distance_is_zero_on_equal_images_and_symmetric(random_alex):
    distance = lpips.Lpips("alex", random_alex, lpips.read_heads("alex"))
    a, b = pairs(40)
    torch.testing.assert_close(distance(a, b), distance(b, a), rtol=1e-6, atol=0)
    assert distance(a, a).abs().max() == 0
    assert distance(a, b).min() > 0


def test_gradient_is_finite_where_all_features_are_zero(random_alex):
    dead = random_alex | {"features.10.bias": torch.full((256,), -1e6)}
    distance = lpips.Lpips("alex", dead, lpips.read_heads("alex"))
    a, b = pairs(40)
    b.requires_grad_()
    distance(a, b).sum().backward()
    assert b.grad.isfinite().all()
    assert b.grad.abs().max() > 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_unit_length_with_a_gradient_that_is_a_number_at_zero_too():
    x = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    x[1] = 0
    x.requires_grad_()
    unit = lpips.unit_normalise(x)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1))
    unit.square().sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x))


def test_images_too_small_are_refused_at_the_exact_size(random_alex):
    alex = lpips.Lpips("alex", random_alex, lpips.read_heads("alex"))
    assert alex(*pairs(31)).min() > 0
    with pytest.raises(UserError, match="at least 31 px but got 30 px"):
        alex(*pairs(30))


def test_hash_covers_trunk_and_heads(random_alex):
    heads = lpips.read_heads("alex")
    hashes = {
        lpips.Lpips("alex", weights, head).weights_hash
        for weights in (random_alex, random_alex | {"features.0.bias": torch.ones(64)})
        for head in (heads, heads | {"lin4.model.1.weight": torch.ones(1, 256, 1, 1)})
    }
    assert len(hashes) == 4


def test_missing_weights_are_one_sentence(random_alex, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no network 'vgg11', did you mean 'vgg'"):
        lpips.load("vgg11")
    save_file(random_alex, tmp_path / "alex.safetensors")
    with pytest.raises(UserError, match="do not fit lpips_vgg"):
        lpips.load("vgg", tmp_path / "alex.safetensors")

    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match=r"can they be downloaded from https.*give its path"):
        lpips.load("alex")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install lpips"):
        lpips.load("alex", tmp_path / "alex.safetensors")
