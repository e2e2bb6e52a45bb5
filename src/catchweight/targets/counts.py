"""Costs that need no clock: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from .graph import evaluating


def count_params(net: nn.Module) -> int:
    """Number of parameters, shared ones counted once; buffers are not parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one (1, 3, H, W) image: convolutions, linear layers, matrix products and attention.

    Counted by torch's own flop counter on fake tensors: nothing is computed. Elementwise work, norms, pooling
    and interpolation are not multiply-adds of this count, as is the field's habit.
    """
    parameter = next(net.parameters(), torch.empty(0))
    counter = FlopCounterMode(display=False)
    with evaluating(net), FakeTensorMode(allow_non_fake_inputs=True), counter:
        net(torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device))
    return int(counter.get_total_flops()) // 2
