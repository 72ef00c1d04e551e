"""The start at principal components, against components and least squares computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_first_stage import CODES, small

from ldm.first_stage.components import images_to_start_from, start_from_components
from ldm.first_stage.kl import START_LOGVAR


def images(n=96, side=32, seed=0):
    """Smooth images, with a little of everything."""
    draw = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.randn(n, 3, side // 8, side // 8, generator=draw), size=side, mode="bilinear")
    return (0.5 * coarse + 0.05 * torch.randn(n, 3, side, side, generator=draw)).clamp(-1, 1)


def started(regulariser="kl", factor=4, seed=0, seen=None, **changes):
    model = small(regulariser, factor, initialisation="components", **changes)
    start_from_components(model, images() if seen is None else seen, seed)
    return model.eval()


def patches(x, kernel, stride, padding):
    """One row a place, by numpy alone."""
    x = np.pad(x.numpy().astype(np.float64), ((0, 0), (0, 0), padding, padding))
    return np.stack(
        [
            x[:, :, i : i + kernel, j : j + kernel].reshape(len(x), -1)
            for i in range(0, x.shape[2] - kernel + 1, stride)
            for j in range(0, x.shape[3] - kernel + 1, stride)
        ],
        axis=1,
    ).reshape(-1, x.shape[1] * kernel**2)


def squared_error(a, b):
    return (a - b).square().mean().item()


@torch.no_grad()
def test_the_first_convolution_gives_principal_components_of_what_it_sees():
    few = images(n=8)  # so few that every place is looked at
    stem = started(seen=few).encoder.stem
    rows = patches(few, 3, 1, (1, 1))
    variances, axes = np.linalg.eigh(np.cov(rows.T, bias=True))
    largest = variances[::-1][:16]
    expected = (rows - rows.mean(0)) @ axes[:, ::-1][:, :16] * np.sqrt(16 / largest.sum())
    found = stem(few).permute(0, 2, 3, 1).reshape(-1, 16).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)  # the sign of an axis is free


@torch.no_grad()
def test_the_last_convolution_is_the_least_squares_fit_to_the_images():
    few = images(n=8)
    model = started(seen=few)
    inputs = []
    model.decoder.head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    decoded = model.decode(model.encode(few).mean)
    rows = patches(inputs[0], 3, 1, (1, 1))
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    goal = few.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    best = rows @ np.linalg.lstsq(rows, goal, rcond=None)[0]
    fitted = decoded.permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    assert np.square(fitted - goal).mean() == pytest.approx(np.square(best - goal).mean(), rel=0.02)  # a ridge apart


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 8, *(pytest.param(f, marks=pytest.mark.slow) for f in (4, 32))])
def test_new_images_pass_through_about_as_well_as_through_components_of_blocks(factor):
    """Components of f x f blocks keep as many numbers; patches overlap, and may do better."""
    channels = 4
    seen, unseen = images(n=256), images(n=64, seed=1)
    model = started(factor=factor, channels=channels, seen=seen, ch=32)
    blocks, others = (patches(x, factor, factor, (0, 0)) for x in (seen, unseen))
    axes = np.linalg.eigh(np.cov(blocks.T, bias=True))[1][:, ::-1][:, :channels]
    centred = others - blocks.mean(0)
    by_blocks = np.square(centred - centred @ axes @ axes.T).mean()
    error = squared_error(model.decode(model.encode(unseen).mean), unseen)
    untrained = small("kl", factor, channels=channels, ch=32, initialisation="near_linear").eval()
    assert error < 1.5 * by_blocks
    assert error < 0.5 * squared_error(untrained.decode(untrained.encode(unseen).mean), unseen)


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_latents_start_uncorrelated_with_variance_one(regulariser):
    seen = images(n=256)
    encoding = started(regulariser, seen=seen).encode(seen)
    latents = encoding if regulariser == "vq" else encoding.mean
    covariance = torch.cov(latents.transpose(0, 1).flatten(1))
    torch.testing.assert_close(covariance, torch.eye(3), atol=0.1, rtol=0)
    if regulariser == "kl":
        assert torch.equal(encoding.logvar, torch.full_like(encoding.logvar, START_LOGVAR))


@pytest.mark.long
@torch.no_grad()
@pytest.mark.parametrize("regulariser", ["fsq", "lfq", "bsq"])
def test_fixed_codes_start_in_use_and_the_decoder_is_fitted_to_them(regulariser):
    seen = images(n=256)
    model = started(regulariser, seen=seen)
    indices = model.quantise(model.encode(seen)).indices
    counts = torch.bincount(indices.flatten(), minlength=model.codes)
    frequency = counts / counts.sum()
    perplexity = torch.special.entr(frequency).sum().exp()
    assert perplexity > 0.5 * CODES[regulariser]
    # A decoder that was fitted to the latents themselves knows nothing of how the codes lie beside them.
    other = small(regulariser, 4, initialisation="components")
    other.first_decoded = lambda latent: latent
    start_from_components(other, seen, 0)
    unseen = images(n=64, seed=1)
    errors = [squared_error(m.eval().decode(m.encode(unseen)), unseen) for m in (model, other)]
    assert errors[0] < errors[1]
    assert errors[0] < unseen.var()


@pytest.mark.long
def test_the_start_is_a_function_of_seed_and_images():
    one, same, other = (started(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["decoder.head.weight"], other["decoder.head.weight"])


@pytest.mark.parametrize(
    ("count", "resolution", "factor", "expected"),
    [
        (6000, 32, 4, 1024),
        (6000, 32, 32, 1024),
        (6000, 64, 4, 256),
        (6000, 64, 32, 1024),
        (6000, 256, 8, 16),
        (24, 32, 4, 24),
    ],
)
def test_so_many_images_are_looked_at(count, resolution, factor, expected):
    assert images_to_start_from(count, resolution, factor) == expected
