"""Batch normalisation that survives the coarse end of a pyramid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_VALUES = 4
"""Below this many values a channel, batch statistics say nothing: of one value there is no variance, two become +-1.

From here up they are noisy, but bound the activations of 1x1 levels, which lagging running statistics do not."""


class SmallMapBatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d``, except that a training batch with few values a channel uses running statistics.

    A pyramid's top level is 1x1 at ordinary image sizes, so B * h * w can be as small as 1. Such batches
    still move the running statistics (variance about the running mean, which one value allows). In eval
    mode it is exactly ``BatchNorm2d``, and so is what gets exported. (B, C, h, w) -> (B, C, h, w).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.numel() // input.shape[1] >= FEWEST_VALUES:
            return super().forward(input)
        self._follow(input.detach().float())
        assert self.running_mean is not None
        assert self.running_var is not None
        # Clones: another forward before this one's backward moves the buffers in place.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(x.mean((0, 2, 3)).to(self.running_mean.dtype), momentum)
        spread = (x - self.running_mean.float().view(1, -1, 1, 1)).square().mean((0, 2, 3))
        self.running_var.lerp_(spread.to(self.running_var.dtype), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
