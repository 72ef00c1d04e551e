import numpy as np
import pytest
import scipy.ndimage
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ldm.metrics.reconstruction import (
    FeatureDistance,
    ImageErrors,
    concatenate,
    image_errors,
    reconstruction_metrics,
)
from ldm.metrics.values import SAMPLED_POSTERIOR
from ldm.pretrained import efficientnet_lite


def pair(n=3, height=24, width=31, seed=0, noise=20.0):
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.uniform(0, 255, (n, 3, height, width)), (0, 0, 1.5, 1.5)) * 1.5 - 60
    image = smooth.clip(0, 255).astype(np.uint8)
    other = (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(image), torch.from_numpy(other)


@pytest.mark.parametrize(("height", "width"), [(24, 31), (11, 11), (11, 40), (64, 48)])
def test_ssim_equals_scikit_image(height, width):
    a, b = pair(height=height, width=width)
    expected = [
        structural_similarity(
            x.numpy(), y.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
            channel_axis=0,
        )
        for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(image_errors(a, b).ssim, expected, rtol=1e-10)


def test_psnr_equals_scikit_image_and_does_not_wrap_round():
    a, b = pair()
    a[0, 0, 0, 0], b[0, 0, 0, 0] = 0, 255
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(image_errors(a, b).psnr, expected, rtol=1e-12)


def test_errors_belong_to_their_image_whatever_the_batches():
    a, b = pair(n=5)
    whole = image_errors(a, b)
    parts = concatenate([image_errors(a[:1], b[:1]), image_errors(a[1:], b[1:])])
    np.testing.assert_allclose(parts.mse, whole.mse, rtol=1e-14)
    np.testing.assert_allclose(parts.ssim, whole.ssim, rtol=1e-12)


def test_rows_are_the_named_means():
    a, b = pair(n=6)
    errors = image_errors(a, b)
    distances = np.random.default_rng(1).uniform(size=6)
    values, left_out = reconstruction_metrics(errors, {"lpips_vgg": distances}, SAMPLED_POSTERIOR)
    found = {value.metric: value for value in values}
    assert not left_out
    assert found["mse_sample"].value == pytest.approx(errors.mse.mean())
    assert found["rmse255_sample"].value == pytest.approx(np.sqrt(errors.mse.mean()))
    assert found["psnr_sample"].value == pytest.approx(np.mean(10 * np.log10(255**2 / errors.mse)))
    assert found["ssim_sample"].value == pytest.approx(errors.ssim.mean())
    assert found["lpips_vgg_sample"].value == pytest.approx(distances.mean())
    assert found["rmse255_sample"].ci_high == pytest.approx(np.sqrt(found["mse_sample"].ci_high))
    assert all(value.ci_low < value.value < value.ci_high and value.n == 6 for value in values)


def test_exact_reconstructions_have_no_psnr():
    a, _ = pair()
    values, left_out = reconstruction_metrics(image_errors(a, a))
    found = {value.metric: value.value for value in values}
    assert found == {"mse": 0, "rmse255": 0, "ssim": pytest.approx(1)}
    assert [item.metric for item in left_out] == ["psnr"]
    assert "exact" in left_out[0].reason


def test_psnr_counts_the_images_that_have_one():
    values, _ = reconstruction_metrics(ImageErrors(np.array([0.0, 255.0**2 / 10, 255.0**2 / 1000]), None))
    psnr = next(value for value in values if value.metric == "psnr")
    assert (psnr.value, psnr.n) == (pytest.approx(20), 2)


def test_images_smaller_than_the_window_have_no_ssim():
    a, b = pair(height=10)
    values, left_out = reconstruction_metrics(image_errors(a, b))
    assert "ssim" not in {value.metric for value in values}
    assert [item.metric for item in left_out] == ["ssim"]
    assert "11 px" in left_out[0].reason


def test_only_uint8_of_one_shape_is_compared():
    a, b = pair()
    with pytest.raises(ValueError, match="uint8"):
        image_errors(a.float(), b.float())
    with pytest.raises(ValueError, match="one shape"):
        image_errors(a, b[:2])


@pytest.fixture(scope="module")
def distance():
    return FeatureDistance(efficientnet_lite.load("lite2"))


def test_feature_distance_follows_its_formula(distance):
    a, b = (x.float() / 127.5 - 1 for x in pair(n=2, height=32, width=32))
    network = distance.network
    with torch.no_grad():
        maps = [[m.double().numpy() for m in network.taps(network.preprocess(x))] for x in (a, b)]
    cosine = [
        np.sum(x * y, axis=1) / np.sqrt(np.sum(x * x, axis=1) * np.sum(y * y, axis=1))
        for x, y in zip(*maps, strict=True)
    ]
    expected = np.mean([(2 - 2 * c).mean(axis=(1, 2)) for c in cosine], axis=0)
    np.testing.assert_allclose(distance(a, b), expected, rtol=1e-6)
    assert distance.name == "feature_distance_efficientnet_lite2"


def test_feature_distance_grows_with_the_damage(distance):
    means = []
    for noise in (0.0, 5.0, 20.0, 60.0):
        a, b = (x.float() / 127.5 - 1 for x in pair(n=8, height=32, width=32, noise=noise))
        means.append(distance(a, b).mean().item())
    assert means[0] == 0
    assert means[0] < means[1] < means[2] < means[3]
