"""Decoding in tiles: the same as decoding whole where it can be, without seams where it cannot."""

import io
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_first_stage import small
from tiny_autoencoder import TinyAutoencoder

from ldm.first_stage.tiled import Tiling, decode_tiled, tiling_difference

ALL = [("kl", 2), ("kl", 8), ("vq", 4), ("vq", 32), ("identity", 1)]
TILINGS = [(1, 0), (2, 1), (5, 0), (5, 2), (8, 1), (8, 4), (9, 3)]


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def tiled(decode, latent, factor, *tiling):
    return torch.cat(list(decode_tiled(decode, latent, factor, Tiling(*tiling))), dim=2)


def enlarged(latent):
    """A decoder that looks at one latent at a time, f = 4."""
    return F.interpolate(latent, scale_factor=4.0, mode="nearest")


@pytest.mark.parametrize(("tile", "overlap"), TILINGS)
def test_tiles_reach_every_latent_and_share_the_overlap_at_least(tile, overlap):
    tiling = Tiling(tile, overlap)
    for side in range(1, 60):
        starts = tiling.starts(side)
        assert starts[0] == 0
        assert max(side, tile) == starts[-1] + tile
        assert all(0 < after - before <= tile - overlap for before, after in pairwise(starts))
        assert len(starts) == 1 or (len(starts) - 1) * (tile - overlap) + overlap < side  # none could be spared


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize(("tile", "overlap"), TILINGS)
def test_cross_fades_lie_where_two_tiles_are_and_do_not_touch_each_other(tile, overlap, factor):
    tiling = Tiling(tile, overlap)
    for side in range(tile + 1, 60):
        starts, seams = tiling.starts(side), tiling.seams(side, factor)
        assert len(seams) == len(starts) - 1
        for (before, after), seam in zip(pairwise(starts), seams, strict=True):
            assert after * factor <= seam.first <= seam.end <= (before + tile) * factor
            assert seam.end - seam.first == overlap * factor // 2
        assert all(one.end <= other.first for one, other in pairwise(seams))


@pytest.mark.parametrize(("regulariser", "factor"), ALL)
@torch.no_grad()
def test_one_tile_is_decoding_whole_bit_for_bit(regulariser, factor):
    model = small(regulariser, factor).eval()
    latent = noise(2, model.channels, 5, 3)
    assert torch.equal(tiled(model.decode, latent, factor, 5, 2), model.decode(latent))


@pytest.mark.parametrize(("tile", "overlap"), TILINGS)
def test_a_decoder_that_sees_one_latent_at_a_time_decodes_the_same_in_tiles(tile, overlap):
    latent = noise(1, 3, 11, 23)
    assert torch.equal(tiled(enlarged, latent, 4, tile, overlap), enlarged(latent))


def test_what_a_convolution_sees_lies_in_the_outer_quarters_of_the_overlap():
    weight = noise(3, 3, 3, 3, dtype=torch.float64)

    def decode(latent):
        return enlarged(F.conv2d(latent, weight, padding=1))

    latent = noise(1, 3, 11, 30, dtype=torch.float64)
    torch.testing.assert_close(tiled(decode, latent, 4, 8, 4), decode(latent), rtol=1e-14, atol=1e-14)
    assert (tiled(decode, latent, 4, 8, 2) - decode(latent)).abs().max() > 0.1


@torch.no_grad()
def test_tiles_are_blended_with_weights_that_sum_to_one():
    """Against all tiles, each times its weight, added up at once."""
    model, tiling = small("kl", 4).double().eval(), Tiling(8, 4)
    latent = noise(1, 3, 13, 22, dtype=torch.float64)
    expected = torch.zeros(1, 3, 52, 88, dtype=torch.float64)
    for top in tiling.starts(13):
        for left in tiling.starts(22):
            rows, columns = slice(4 * top, 4 * top + 32), slice(4 * left, 4 * left + 32)
            weight = share(tiling, 13, top)[:, None] * share(tiling, 22, left)
            expected[..., rows, columns] += weight * model.decode(latent[..., top : top + 8, left : left + 8])
    torch.testing.assert_close(tiled(model.decode, latent, 4, 8, 4), expected, rtol=1e-12, atol=1e-12)


def share(tiling, side, start):
    """The weight of the tile at `start` for each of its pixels along one axis, f = 4."""
    weights = []
    for pixel in range(4 * start, 4 * (start + tiling.tile)):
        weight = 1.0
        for before, seam in zip(tiling.starts(side), tiling.seams(side, 4), strict=False):
            risen = min(1.0, max(0.0, (pixel + 0.5 - seam.first) / (seam.end - seam.first)))
            weight *= 1 - risen if start <= before else risen
        weights.append(weight)
    return torch.tensor(weights, dtype=torch.float64)


@torch.no_grad()
def test_codes_do_not_depend_on_tiles():
    model = small("vq", 4).eval()
    latent = noise(1, 3, 8, 20)
    part = latent[:, :, 2:7, 9:14]
    assert torch.equal(model.quantise(part).indices, model.quantise(latent).indices[:, 2:7, 9:14])


def test_one_tile_at_a_time_is_decoded_and_only_as_the_image_is_asked_for():
    asked = []

    def decode(latent):
        asked.append(tuple(latent.shape[2:]))
        return enlarged(latent)

    pieces = decode_tiled(decode, noise(1, 3, 40, 20), 4, Tiling(8, 4))
    assert asked == []
    next(pieces)
    assert asked == [(8, 8)] * 4
    rows = [piece.shape[2] for piece in pieces]
    assert asked == [(8, 8)] * 36
    assert max(rows) <= 32


@pytest.mark.long
@pytest.mark.parametrize("factor", [4, 8])
@torch.no_grad()
def test_no_seam_is_seen_in_a_decoder_with_random_weights(factor):
    """Normalisation and attention make tiles differ a lot; without an overlap the same measure sees it."""
    model = small("kl", factor, attn_sides=(32 // factor,)).eval()
    latent = noise(12, 3, 12, 28)
    blended = tiling_difference(model.decode, latent, factor, Tiling(16, 4))
    assert blended.relative_between_seams > 0.05
    assert blended.seam_gradient <= 1.05
    assert blended.seam_gradient_whole == pytest.approx(1, abs=0.1)  # alike everywhere, so 1.05 means what it says
    assert tiling_difference(model.decode, latent, factor, Tiling(16, 0)).seam_gradient > 1.2


@pytest.mark.long
@torch.no_grad()
def test_no_seam_is_seen_in_a_trained_decoder(shared_data):
    """Photographs through a pretrained autoencoder with group normalisation, in 2 x 2 tiles."""
    model = TinyAutoencoder(shared_data / "weights")
    with zipfile.ZipFile(shared_data / "data" / "kodak.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[3:23:10]
        photos = [
            np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))[128:288, :224] for name in names
        ]
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 127.5 - 1
    latent = model.encode(images)
    assert (model.decode(latent) - images).square().mean() < 4 * 10**-2.5  # PSNR above 25 dB: the weights are in place
    found = tiling_difference(model.decode, latent, 8, Tiling(16, 4))
    assert 0 < found.relative < 0.2
    assert found.seam_gradient <= 1.05 * found.seam_gradient_whole
    drawn = tiling_difference(model.decode, noise(2, 32, 12, 28), 8, Tiling(16, 4))
    assert drawn.seam_gradient <= 1.05


def test_the_difference_is_that_of_hand_computed_tiles():
    """A decoder that adds the mean of what it is given to a ramp of 8: 3.5 for the whole, 1.5 and 5.5 for its tiles."""
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    found = tiling_difference(lambda z: z + z.mean(), ramp, 1, Tiling(4, 0))
    deviation = float(ramp.std())
    assert found.rmse == pytest.approx(2 * 127.5)
    assert found.relative == found.relative_between_seams == pytest.approx(2 / deviation)
    assert (found.seam_gradient, found.seam_gradient_whole) == (5, 1)


def test_where_one_tile_is_enough_there_is_no_difference_and_no_seam():
    found = tiling_difference(enlarged, noise(1, 3, 8, 5), 4, Tiling(8, 2))
    assert (found.rmse, found.relative, found.seam_gradient) == (0, 0, None)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (4, 3), (4, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(ValueError, match=r"a tile has one latent|outside 0 to half of a tile"):
        Tiling(tile, overlap)
