"""Whole trajectories of the reference implementation, from its checkpoints and its starting noise."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ldm.conditioning import Condition
from ldm.diffusion import DenoisingModel, Guidance, guided, make_schedule
from ldm.interop.compvis_denoiser import class_conditioning_from_compvis, unet_from_compvis
from ldm.samplers import DDIM, PLMS, sample, time_grid

SAMPLERS = {"ddim": DDIM, "plms": PLMS}
KEY = re.compile(r"(?P<sampler>[a-z]+)_(?P<steps>\d+)_(?P<spacing>[a-z]+)_scale(?P<scale>[\d.]+)")


def no_noise(shape: tuple[int, ...]) -> torch.Tensor:
    raise AssertionError("eta is 0")


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize(("name", "trajectories"), [("unconditional_vq", 4), ("class_crossattention_vq", 2)])
@torch.no_grad()
def test_samplers_end_where_the_reference_does(name, trajectories, shared_data: Path):
    folder = shared_data / "fixtures" / "compvis" / name
    params = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]
    checkpoint = torch.load(folder / "model.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    expected = load_file(folder / "sampling.safetensors")
    unet = unet_from_compvis(params["unet_config"]["params"], checkpoint, ema=False).eval()
    schedule = make_schedule("scaled_linear", params["linear_start"], params["linear_end"])
    given, null = Condition(), Condition()
    if "class_label" in expected:
        tokens = class_conditioning_from_compvis(checkpoint, classes=9)
        given, null = (tokens({"label": expected[key]}) for key in ("class_label", "null_label"))
    found = [match for match in map(KEY.fullmatch, expected) if match]
    assert len(found) == trajectories
    assert {match[0] for match in found} == set(expected) - {"x_T", "class_label", "null_label"}
    for match in found:
        times = time_grid(match["spacing"], int(match["steps"]), "alpha0")
        denoise = guided(DenoisingModel(unet, schedule), given, null, Guidance(float(match["scale"])))
        *_, end = sample(SAMPLERS[match["sampler"]](schedule), denoise, expected["x_T"], times, no_noise)
        error = (end - expected[match[0]]).abs().max() / expected[match[0]].abs().max()
        assert error < 1e-4, match[0]
