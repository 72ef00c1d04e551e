"""The KL first stage."""

import torch

from ldm.first_stage import KLFirstStage
from ldm.first_stage.coder import Decoder, Encoder


def kl_first_stage():
    shared = {
        "z_channels": 5,
        "ch": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "resolution": 16,
        "attn_sides": (),
        "mid_attention": False,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    encoder = Encoder(in_channels=3, double_z=True, **shared)
    return KLFirstStage(encoder, Decoder(out_channels=3, **shared), channels=3)


def test_log_variance_is_clamped():
    first_stage = kl_first_stage()
    image = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        first_stage.to_latent.bias[3:] = torch.tensor([-100.0, 0.0, 100.0])
        first_stage.to_latent.weight[3:] = 0.0
    logvar = first_stage.encode(image).logvar
    assert logvar[0, :, 0, 0].tolist() == [-30.0, 0.0, 20.0]


def test_latent_is_the_mean_without_noise_and_a_draw_with_it():
    first_stage = kl_first_stage()
    generator = torch.Generator().manual_seed(0)
    mean, logvar, noise = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    packed = torch.cat((mean, logvar), 1)
    assert torch.equal(first_stage.latent(packed), mean)
    torch.testing.assert_close(first_stage.latent(packed, noise), mean + logvar.exp().sqrt() * noise)


def test_regularisation_sums_over_the_latent_and_averages_over_the_batch():
    first_stage = kl_first_stage()
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoding = first_stage.encode(image)
    total = 0.5 * (encoding.mean**2 + encoding.logvar.exp() - 1 - encoding.logvar).sum()
    kl = first_stage.forward_train(image, torch.zeros(4, 3, 8, 8)).regularisation["kl"]
    torch.testing.assert_close(kl, total / 4)
    once, twice = (first_stage.forward_train(image.repeat(n, 1, 1, 1)).regularisation["kl"] for n in (1, 2))
    torch.testing.assert_close(once, twice)
