"""Compiled networks: the same numbers up to rounding, and what happens where they cannot be had."""

import copy
import logging

import pytest
import torch
from torch import nn

from ldm.denoiser import UNet
from ldm.denoiser.dit import DiT
from ldm.errors import UserError
from ldm.training.compiled import WORTH, compiled, is_compiled


def with_weights(network: nn.Module) -> nn.Module:
    """With all weights drawn, since denoisers begin with some at zero and give nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.2)
    return network


def unet(dropout: float = 0.0) -> nn.Module:
    network = UNet(
        in_channels=3,
        out_channels=3,
        model_channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_sides=(8, 4),
        num_head_channels=8,
        latent_side=8,
        context_dim=5,
        dropout=dropout,
    )
    return with_weights(network)


def dit() -> nn.Module:
    return with_weights(DiT(in_channels=3, out_channels=3, width=16, depth=2, heads=2, patch=2, context_dim=5))


def given(n: int = 2):
    random = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, 8, 8, generator=random), torch.full((n,), 500.0), torch.randn(n, 1, 5, generator=random)


def called(network: nn.Module, n: int = 2) -> list[torch.Tensor]:
    """What it gives, and the gradients of its weights."""
    x, index, context = given(n)
    network.zero_grad()
    output = network(x, index, context=context)
    output.square().sum().backward()
    return [output.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def traced(monkeypatch: pytest.MonkeyPatch, *refused: Exception) -> list[int]:
    """Has torch trace networks without a compiler; the nodes of each graph, in a list that grows."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        if refused:
            raise refused[0]
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compiles = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **named: compiles(self, backend=backend, **named))
    return graphs


@pytest.mark.parametrize(
    ("policy", "device", "calls", "expected"),
    [
        ("always", "cpu", 1, True),
        ("never", "cuda", 10**9, False),
        ("auto", "cpu", 10**9, False),
        ("auto", "cuda", WORTH - 1, False),
    ],
)
def test_what_is_compiled(policy, device, calls, expected):
    assert is_compiled(policy, device, calls) is expected


@pytest.mark.parametrize("is_there", [True, False])
def test_long_work_on_a_gpu_is_compiled_where_its_compiler_is_there(monkeypatch, is_there):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if is_there and name == "triton" else None)
    assert is_compiled("auto", "cuda", WORTH) is is_there


def small() -> nn.Module:
    """Down to side 2, where convolutions are matrix products."""
    network = UNet(
        in_channels=3,
        out_channels=3,
        model_channels=16,
        channel_mult=(1, 1, 1),
        num_res_blocks=1,
        attention_sides=(2,),
        num_head_channels=8,
        latent_side=8,
        context_dim=5,
        dense_small_maps=True,
    )
    return with_weights(network)


@pytest.mark.long
@pytest.mark.parametrize("make", [unet, small, dit])
def test_denoisers_are_one_graph_for_each_size_of_a_batch(monkeypatch, make):
    """So that nothing between their operators is left to Python; gradients and copies are as before."""
    graphs = traced(monkeypatch)
    network = make()
    plain = [called(copy.deepcopy(network), n) for n in (2, 3)]
    with compiled([network], "always", "cpu", 1) as found_compiled:
        assert found_compiled
        found = [called(network, n) for n in (2, 3)]
        assert [called(network, n)[0] for n in (2, 3)]
        assert len(graphs) == 2
        assert min(graphs) > 50
        kept = copy.deepcopy(network)
    for one, other in zip([x for part in found for x in part], [x for part in plain for x in part], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert network.state_dict().keys() == make().state_dict().keys()
    called(network)
    called(kept)
    assert len(graphs) == 2, "what was compiled is not called any more"


@pytest.mark.long
def test_where_a_network_cannot_be_compiled_auto_goes_on_and_always_says_so(monkeypatch, caplog):
    traced(monkeypatch, RuntimeError("no compiler here"))
    monkeypatch.setattr("ldm.training.compiled.is_compiled", lambda *rest: True)
    network = unet()
    expected = called(copy.deepcopy(network))
    with caplog.at_level(logging.WARNING), compiled([network], "auto", "cuda", 1) as those:
        for found in (called(network), called(network)):
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert not those
    assert caplog.text.count("UNet is not compiled, since torch cannot") == 1
    with (
        compiled([network], "always", "cpu", 1),
        pytest.raises(UserError, match=r"torch cannot compile UNet here .*no compiler here.*compile=never"),
    ):
        called(network)


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_up_to_rounding():
    """By torch's own compiler for CPUs, which takes minutes."""
    network = unet()
    plain = called(copy.deepcopy(network))
    with compiled([network], "always", "cpu", 1):
        found = called(network)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_backward_pass_that_cannot_be_compiled_is_found_in_the_forward_one(monkeypatch, caplog):
    """It would else fail far from here, and end the training."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def refuses(graph, inputs):
        raise RuntimeError("no backward here")

    backend = aot_autograd(fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=refuses)
    compiles = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **named: compiles(self, backend=backend, **named))
    monkeypatch.setattr("ldm.training.compiled.is_compiled", lambda *rest: True)
    network = unet()
    expected = called(copy.deepcopy(network))
    with caplog.at_level(logging.WARNING), compiled([network], "auto", "cuda", 1):
        found = called(network)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert "no backward here" in caplog.text


@pytest.mark.slow
def test_compiled_dropout_draws_what_it_draws_otherwise():
    network = unet(dropout=0.3)
    network.train()
    torch.manual_seed(1)
    plain = called(copy.deepcopy(network))
    with compiled([network], "always", "cpu", 1):
        torch.manual_seed(1)
        found = called(network)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
