"""The moving average of weights and norm statistics that is evaluated and kept."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class Ema(Generic[N]):
    """Exponential moving average of a network's parameters and of its batch-norm statistics.

    The statistics are averaged as well: those of the latest weights do not fit averaged weights while the
    learning rate is high, and the deeper the decoder the less they do. Other buffers (counters) are copied.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that short trainings are not dominated by the
    initial weights (Tarvainen & Valpola, 2017).

    Args:
        net: the network that trains; ``self.net`` is its averaged copy, in evaluation mode.
        decay: per optimiser step; 0 makes the copy follow the weights exactly.
    """

    def __init__(self, net: N, decay: float) -> None:
        self.net: N = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        mine, theirs = self.net.state_dict(keep_vars=True), net.state_dict(keep_vars=True)
        pairs = [(mine[name].detach(), value.detach()) for name, value in theirs.items()]
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averaged = [pair[0] for pair in averaged], [pair[1] for pair in averaged]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (from 0)."""
        mine, theirs = self._averaged
        torch._foreach_lerp_(mine, theirs, 1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def copy_counters(self) -> None:
        """Take over what cannot be averaged; only needed before the average is stored."""
        for mine, theirs in self._copied:
            mine.copy_(theirs)
