"""The rule that says which number format pays where."""

import pytest
import torch

from ldm.training.precision import autocast_dtype, resolve_precision


@pytest.mark.parametrize(
    ("policy", "device", "gpu", "amx", "avx", "resolved"),
    [
        ("auto", "cuda", True, False, False, "bf16"),
        ("auto", "cuda:1", True, False, False, "bf16"),
        ("auto", "cuda", False, True, True, "fp32"),
        ("auto", "cpu", True, True, False, "bf16"),
        ("auto", "cpu", True, False, True, "bf16"),
        ("auto", "cpu", True, False, False, "fp32"),
        ("bf16", "cpu", False, False, False, "bf16"),
        ("bf16", "cuda", False, False, False, "bf16"),
        ("fp32", "cpu", True, True, True, "fp32"),
        ("fp32", "cuda", True, True, True, "fp32"),
    ],
)
def test_the_rule(policy, device, gpu, amx, avx, resolved, monkeypatch):
    # A GPU that only emulates bfloat16 says that it supports it unless asked not to count that.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu or including_emulation)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert resolve_precision(policy, device) == resolved


def test_formats_become_autocast_dtypes():
    assert autocast_dtype("bf16") is torch.bfloat16
    assert autocast_dtype("fp32") is None


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="precision=fp16 is none of auto, bf16, fp32"):
        resolve_precision("fp16", "cpu")
