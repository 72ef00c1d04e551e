"""Muon: against singular values, torch's own for matrices, and in the training of a first stage."""

import pytest
import torch

from ldm.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(6, 6), (5, 45), (40, 8), (1, 9)])
def test_an_update_has_singular_values_near_one_in_the_directions_of_the_matrix(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalised(matrix) @ v.T
    assert inner.diagonal() == pytest.approx(torch.ones(len(inner)), abs=0.35)
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-9  # a polynomial of singular values keeps the vectors


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon to compare with")
def test_it_steps_as_torch_does_for_matrices(monkeypatch):
    # torch computes updates in bfloat16; ours in the weights' type.
    start = torch.randn(12, 30, generator=torch.Generator().manual_seed(2))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = Muon([ours], lr=0.01, momentum=0.9)
    other = torch.optim.Muon(
        [theirs], lr=0.01, momentum=0.9, weight_decay=0, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        gradient = torch.randn(12, 30, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_a_convolution_steps_as_the_matrix_of_its_outputs_and_in_any_memory_layout():
    gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    weights = [
        torch.nn.Parameter(torch.zeros(4, 27)),
        torch.nn.Parameter(torch.zeros(4, 3, 3, 3)),
        torch.nn.Parameter(torch.zeros(4, 3, 3, 3).to(memory_format=torch.channels_last)),
    ]
    for weight in weights:
        weight.grad = gradient.reshape(weight.shape).clone()
    weights[2].grad = weights[2].grad.to(memory_format=torch.channels_last)
    Muon(weights, lr=0.1).step()
    assert torch.equal(weights[0].view(4, 3, 3, 3), weights[1])
    assert torch.allclose(weights[1], weights[2], rtol=1e-5, atol=1e-7)
    assert weights[0].abs().max() > 0


def test_all_directions_of_a_deep_linear_autoencoder_grow_where_descent_leaves_small_ones_behind():
    """Axes of 4 sizes through two layers, of which the smallest carries a hundredth of the variance."""

    def least_kept(optimiser) -> float:
        draw = torch.Generator().manual_seed(4)
        sizes = torch.tensor([3.0, 1.0, 0.5, 0.1])
        encode = torch.nn.Parameter(0.05 * torch.randn(4, 4, generator=draw))
        decode = torch.nn.Parameter(0.05 * torch.randn(4, 4, generator=draw))
        step = optimiser([encode, decode])
        for _ in range(120):
            data = torch.randn(64, 4, generator=draw) * sizes
            loss = (data @ encode.T @ decode.T - data).square().sum(1).mean()
            step.zero_grad()
            loss.backward()
            step.step()
        return (decode @ encode).detach().diagonal().min().item()

    assert least_kept(lambda weights: Muon(weights, lr=0.05, momentum=0.9)) > 0.5
    assert least_kept(lambda weights: torch.optim.SGD(weights, lr=0.02)) < 0.2
