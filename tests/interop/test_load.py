"""Whole checkpoints of the reference: everything it computed, through `load` and `sample` alone."""

import re

import pytest
import torch
from safetensors.torch import load_file

from ldm import interop

FIRST_STAGES = ("kl_f4", "kl_f8_attention", "vq_f2_lightning_callbacks", "vq_f2_no_attention", "vq_f4_attention")
WHOLE_MODELS = (
    "unconditional_vq",
    "unconditional_kl_scaled",
    "class_crossattention_vq",
    "inpaint_concat_updown_vq",
    "semantic_concat_vq",
    "text_crossattention_kl",
)
RAW_CONDITIONS = ("class_label", "tokens", "label_map")
TRAJECTORY = re.compile(r"(?P<sampler>[a-z]+)_(?P<steps>\d+)_(?P<spacing>[a-z]+)_scale(?P<scale>[\d.]+)")


@pytest.fixture
def published(shared_data):
    """(folder of a published model, what the reference computed with it)."""

    def found(name, outputs="expected"):
        folder = shared_data / "fixtures" / "compvis" / name
        return folder, load_file(folder / f"{outputs}.safetensors")

    return found


def assert_close(ours, theirs):
    """To 1e-4 of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def assert_first_stage(model, expected):
    """Encodings, codes and images are those of the reference."""
    encoding = model.encode(expected["image"])
    if "mean" in expected:
        assert_close(encoding.mean, expected["mean"])
        assert_close(encoding.logvar, expected["logvar"])
        assert_close(model.decode(expected["mean"]), expected["decoded"])
    else:
        assert_close(encoding, expected["pre_quantisation"])
        quantised = model.quantise(expected["pre_quantisation"])
        assert torch.equal(quantised.indices, expected["indices"])
        assert_close(quantised.latent, expected["quantised"])
        assert_close(model.decode(expected["pre_quantisation"]), expected["decoded"])


@pytest.mark.data
@pytest.mark.parametrize("name", FIRST_STAGES)
@torch.no_grad()
def test_first_stages_are_those_of_the_reference(name, published):
    folder, expected = published(name)
    model = interop.load(folder)
    assert (model.network, model.conditioning, model.schedule) == (None, None, None)
    assert model.resolution == expected["image"].shape[2]
    assert_first_stage(model.first_stage, expected)


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("name", WHOLE_MODELS)
@torch.no_grad()
def test_whole_models_are_those_of_the_reference(name, published):
    folder, expected = published(name)
    condition = {"context": expected.get("context"), "concat": expected.get("concat_map")}
    for weights, taken in (("raw", "raw"), ("ema", "ema"), ("auto", "ema")):
        model = interop.load(folder, weights)
        assert model.weights == taken
        eps = model.network(expected["z_t"], expected["timestep"], **condition)
        assert_close(eps, expected[f"eps_{taken}_weights"])
    assert tuple(expected["z_t"].shape[1:]) == model.latent_shape
    assert (model.conditioning is None) == name.startswith("unconditional")
    for key in RAW_CONDITIONS:
        if key in expected:
            made = expected["context"] if "context" in expected else expected["concat_map"]
            assert_close(model.conditioning(expected[key]), made)
    parts = {k.removeprefix("first_stage."): v for k, v in expected.items() if k.startswith("first_stage.")}
    assert_first_stage(model.first_stage, parts)


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize("name", ["unconditional_vq", "class_crossattention_vq"])
def test_samplers_end_where_the_reference_does(name, published):
    folder, expected = published(name, "sampling")
    model = interop.load(folder, "raw")
    asked = {"condition": expected.get("class_label"), "null_condition": expected.get("null_label")}
    found = [match for match in map(TRAJECTORY.fullmatch, expected) if match]
    assert len(found) >= 2
    for match in found:
        z = interop.sample(
            model,
            expected["x_T"],
            int(match["steps"]),
            match["spacing"],
            guidance_scale=float(match["scale"]),
            sampler=match["sampler"],
            **asked,
        )
        assert_close(z, expected[match[0]])
