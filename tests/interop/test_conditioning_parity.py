"""tau_theta against the reference implementation, from its checkpoints."""

import pytest
import torch
from safetensors.torch import load_file

from ldm.conditioning import SemanticConditioning, TextConditioning
from ldm.errors import UserError
from ldm.interop.compvis_conditioning import CHANNEL_MAPPER, transformer_from_compvis
from ldm.interop.filling import load_renamed


def fixture(folder, name):
    place = folder / "fixtures" / "compvis" / name
    checkpoint = torch.load(place / "model.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    return checkpoint, load_file(place / "expected.safetensors")


def close(ours, theirs):
    return (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.data
@torch.no_grad()
def test_the_text_transformer_is_the_references(shared_data):
    checkpoint, expected = fixture(shared_data, "text_crossattention_kl")
    transformer = transformer_from_compvis(checkpoint)
    conditioning = TextConditioning(transformer.vocabulary, torch.zeros(12).long(), 32, 2)
    conditioning.transformer.load_state_dict(transformer.state_dict())
    condition = conditioning({"tokens": expected["tokens"]})
    assert close(condition.context, expected["context"])
    assert condition.context_mask is None
    wrong = conditioning({"tokens": expected["tokens"].flip(1)})
    assert not close(wrong.context, expected["context"])


@pytest.mark.data
@torch.no_grad()
def test_the_label_map_is_the_references(shared_data):
    checkpoint, expected = fixture(shared_data, "semantic_concat_vq")
    conditioning = SemanticConditioning(classes=11, channels=3, factor=2)
    load_renamed(conditioning, checkpoint, {"mapper.weight": CHANNEL_MAPPER})
    assert close(conditioning({"semantic": expected["label_map"]}).concat, expected["concat_map"])


def test_a_weight_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="'here' is missing; expected"):
        load_renamed(torch.nn.Linear(2, 3, bias=False), {}, {"weight": "here"})
    with pytest.raises(UserError, match=r"'here' has shape \(3, 4\); expected \(3, 2\)"):
        load_renamed(torch.nn.Linear(2, 3, bias=False), {"here": torch.zeros(3, 4)}, {"weight": "here"})
    with pytest.raises(UserError, match="no text transformer"):
        transformer_from_compvis({})
