"""The moving average of weights that is evaluated and kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a network's parameters; buffers (batch-norm statistics) are copied.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that short trainings are not dominated by the
    initial weights (Tarvainen & Valpola, 2017).

    Args:
        net: the network that trains; ``self.net`` is its averaged copy, in evaluation mode.
        decay: per optimiser step; 0 makes the copy follow the weights exactly.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self._parameters = _pairs(dict(self.net.named_parameters()), dict(net.named_parameters()))
        buffers = _pairs(dict(self.net.named_buffers()), dict(net.named_buffers()))
        self._buffers = [(mine, theirs) for mine, theirs in zip(*buffers, strict=True)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (from 0)."""
        mine, theirs = self._parameters
        torch._foreach_lerp_(mine, theirs, 1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Take over batch-norm statistics; only needed before the average is used or stored."""
        for mine, theirs in self._buffers:
            mine.copy_(theirs)


def _pairs(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [mine[name] for name in theirs], [value.detach() for value in theirs.values()]
