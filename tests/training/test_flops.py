"""FLOPs of operations whose number is known; one multiply-add is 2."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldm.training.flops import count_flops

CONV = 2 * (5 * 8 * 8) * (3 * 3 * 3)  # outputs of one image times what each is made of
LINEAR = 2 * 6 * 4


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_convolution_and_linear_layer_forward(context):
    conv, linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(6, 4)
    with context():
        assert count_flops(lambda: conv(torch.randn(2, 3, 8, 8))) == 2 * CONV
        assert count_flops(lambda: linear(torch.randn(7, 6))) == 7 * LINEAR
    strided = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
    assert count_flops(lambda: strided(torch.randn(1, 4, 8, 8))) == 2 * (8 * 4 * 4) * (2 * 3 * 3)


def test_backward_passes_cost_a_product_for_each_gradient():
    conv, linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(6, 4)
    x, y = torch.randn(2, 3, 8, 8), torch.randn(7, 6)
    assert count_flops(lambda: conv(x).sum().backward()) == 2 * (2 * CONV)  # of the weights alone
    assert count_flops(lambda: conv(x.requires_grad_()).sum().backward()) == 3 * (2 * CONV)
    assert count_flops(lambda: linear(y).sum().backward()) == 2 * (7 * LINEAR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", [None, SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_its_products_whatever_kernel_runs(backend, dtype):
    batch, heads, queries, keys, width = 2, 3, 16, 5, 8
    shapes = [(batch, heads, length, width) for length in (queries, keys, keys)]
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)

    def attend():
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    products = 2 * (2 * batch * heads * queries * keys * width)
    assert count_flops(attend) == products
    with torch.inference_mode():
        assert count_flops(attend) == products
    assert count_flops(lambda: attend().sum().backward()) == 3 * products


def test_what_ran_before_or_after_is_not_counted():
    linear, x = nn.Linear(6, 4), torch.randn(7, 6)
    linear(x)
    first = count_flops(lambda: linear(x))
    linear(x)
    assert (first, count_flops(lambda: linear(x)), count_flops(lambda: None)) == (7 * LINEAR, 7 * LINEAR, 0)
