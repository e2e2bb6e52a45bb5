"""Parameters and multiply-adds against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from catchweight.targets.counts import count_macs, count_params


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(1, 1, 0, 1), (3, 2, 1, 1), (5, 3, 2, 2)])
def test_convolution(groups: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, kernel, stride, padding, dilation, groups), nn.BatchNorm2d(12)
    )
    height, width = 37, 41
    out = [(length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for length in (height, width)]
    first = 3 * 8 * height * width
    second = 8 // groups * 12 * kernel**2 * out[0] * out[1]
    assert count_macs(net, (height, width)) == first + second
    assert count_params(net) == (3 * 8 + 8) + (8 // groups * 12 * kernel**2 + 12) + 2 * 12


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


def test_attention() -> None:
    tokens = 8 * 8
    assert count_macs(Attention(), (8, 8)) == tokens * 3 * 24 + 2 * tokens * tokens * 8


def test_shared_parameters_count_once_and_nothing_is_computed() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    net = nn.Sequential(conv, nn.BatchNorm2d(3, affine=False), conv).train()
    assert count_params(net) == 81
    assert count_macs(net, (16, 16)) == 2 * 81 * 256
    assert net.training
    assert net[1].num_batches_tracked == 0
    assert type(conv.weight) is nn.Parameter


def test_a_huge_input_costs_no_memory() -> None:
    assert count_macs(nn.Conv2d(3, 64, 1), (100_000, 100_000)) == 3 * 64 * 10**10
