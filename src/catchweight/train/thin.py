"""Deep thin networks: go wide, then narrow (Zhou et al., ICML 2020).

A thin and deep network is hard to train from scratch. So a wide network of the same depth is trained first. Then the
thin one learns to imitate it, block by block from the bottom: after each thin block a linear map U takes its output to
the wide network's width, where it has to match the wide block's output in squared error, and a linear map D takes it
back to the next thin block. There is nothing between U and D, so both are folded into a neighbouring layer afterwards:
the thin network has its own architecture again, and is fine-tuned on the labels.

Works on any two chains of blocks whose joints are beside a linear layer or a convolution. The paper could be read in
abstract and summary only; which side a pair is folded into and how U and D begin are our completion.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError

Linear = nn.Linear | nn.Conv2d
Batches = Iterator[Tensor]
Optimise = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Imitator(nn.Module):
    """The thin network with a pair of linear maps at each joint; ``x -> `` output of its last block.

    At the start each D undoes its U, so the whole computes what the thin network does.

    Args:
        thin: the blocks of the thin network; they are trained in place.
        wide: the blocks of the wide network, as many; kept fixed and not part of this module.
        example: an input, to find out the widths.

    Raises:
        UsageError: the chains differ in length or in their last output, or a wide joint is narrower than its thin one.
    """

    def __init__(self, thin: Sequence[nn.Module], wide: Sequence[nn.Module], example: Tensor) -> None:
        super().__init__()
        if len(thin) != len(wide):
            raise UsageError(f"the thin network has {len(thin)} blocks and the wide one {len(wide)}: cut both alike")
        self.blocks = nn.ModuleList(thin)
        self._wide = [copy.deepcopy(block).eval().requires_grad_(False) for block in wide]
        narrow, broad = outputs(thin, example), outputs(wide, example)
        if narrow[-1].shape != broad[-1].shape:
            ends = f"{tuple(narrow[-1].shape[1:])} and {tuple(broad[-1].shape[1:])}"
            raise UsageError(f"the networks end in different shapes, {ends}: give both the same output")
        joints = [_joint(a, b) for a, b in zip(narrow[:-1], broad[:-1], strict=True)]
        self.up = nn.ModuleList(up for up, _ in joints)
        self.down = nn.ModuleList(down for _, down in joints)

    def forward(self, x: Tensor) -> Tensor:
        return self.below(x, len(self.blocks))

    def below(self, x: Tensor, level: int) -> Tensor:
        """Input of block ``level``; with the number of blocks, the output of all."""
        for index in range(level):
            x = self.blocks[index](x)
            if index < len(self.up):
                x = self.down[index](self.up[index](x))
        return x

    def error(self, x: Tensor, level: int) -> Tensor:
        """Mean squared error of block ``level`` against the wide one on ``x``; gradients reach that level only."""
        with torch.no_grad():
            target, below = x, x
            for block in self._wide[: level + 1]:
                target = block.to(x.device)(target)
            if level:
                below = self.up[level - 1](self.blocks[level - 1](self.below(x, level - 1)))
        inner = self.down[level - 1](below) if level else below
        mine = self.blocks[level](inner)
        return F.mse_loss(self.up[level](mine) if level < len(self.up) else mine, target)

    def level_parameters(self, level: int) -> list[nn.Parameter]:
        """What imitation trains at a level: the maps on both sides of the block, and the block."""
        sides = [*self.down[level - 1 : level][: level > 0], *self.up[level : level + 1]]
        return [parameter for module in (self.blocks[level], *sides) for parameter in module.parameters()]

    def merged(self) -> nn.Sequential:
        """The thin network again, each pair folded into a layer beside it; computes the same.

        Raises:
            UsageError: at a joint neither the layer before nor the one behind is linear.
        """
        blocks = copy.deepcopy(self.blocks)
        for index, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            _fold(_matrix(down) @ _matrix(up), blocks[index], blocks[index + 1], index)
        return nn.Sequential(*blocks)


def imitate(net: Imitator, batches: Batches, steps: int, optimise: Optimise, *, joint: bool = False) -> list[float]:
    """Train block after block from the bottom, the lower ones kept; the last error of each level.

    Args:
        net: trained in place.
        batches: inputs, at least ``steps`` of them.
        steps: optimiser steps in all; each level gets an equal share.
        optimise: makes the optimiser of some parameters.
        joint: train all levels at once on the sum of their errors instead, a cheaper variant.

    Raises:
        UsageError: fewer steps than levels.
    """
    levels = range(len(net.blocks))
    if steps < len(levels):
        raise UsageError(f"{steps} steps are too few for {len(levels)} levels of imitation: take at least one for each")
    net.train()
    turns = [list(levels)] * steps if joint else [[step * len(levels) // steps] for step in range(steps)]
    errors = [float("nan")] * len(levels)
    optimizer, current = None, None
    for turn in turns:
        if turn != current:
            moved = [parameter for level in turn for parameter in net.level_parameters(level)]
            optimizer, current = optimise(moved), turn
        assert optimizer is not None, "the first turn makes one"
        x = next(batches)
        optimizer.zero_grad(set_to_none=True)
        losses = [net.error(x, level) for level in turn]
        torch.stack(losses).sum().backward()
        optimizer.step()
        for level, loss in zip(turn, losses, strict=True):
            errors[level] = float(loss.detach())
    return errors


@torch.no_grad()
def outputs(blocks: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Output of every block of a chain, in evaluation mode."""
    found = []
    for block in blocks:
        was_training = block.training
        x = block.eval()(x)
        block.train(was_training)
        found.append(x)
    return found


def _joint(narrow: Tensor, broad: Tensor) -> tuple[Linear, Linear]:
    """U with orthonormal columns and D, its transpose. Without biases: padding would not let those be folded."""
    channels, wide = narrow.shape[1], broad.shape[1]
    if wide < channels or narrow.shape[2:] != broad.shape[2:]:
        raise UsageError(
            f"a joint of the wide network is {tuple(broad.shape[1:])}, the thin one's {tuple(narrow.shape[1:])}: it "
            "must have at least as many channels, and the same height and width"
        )
    maps = narrow.ndim == 4
    up = nn.Conv2d(channels, wide, 1, bias=False) if maps else nn.Linear(channels, wide, bias=False)
    down = nn.Conv2d(wide, channels, 1, bias=False) if maps else nn.Linear(wide, channels, bias=False)
    with torch.no_grad():
        basis = nn.init.orthogonal_(torch.empty(wide, channels))
        up.weight.copy_(basis.view_as(up.weight))
        down.weight.copy_(basis.T.reshape_as(down.weight))
    return up, down


def _matrix(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor), "a pair is made of linear layers"
    return weight.detach().flatten(1)


def _fold(matrix: Tensor, before: nn.Module, behind: nn.Module, joint: int) -> None:
    """Apply a square matrix of channels at a joint inside the layer that follows, or else the one that precedes."""
    first, last = _end(behind, 0), _end(before, -1)
    with torch.no_grad():
        if first is not None:
            first.weight.copy_(torch.einsum("oc...,ci->oi...", first.weight, matrix))
        elif last is not None:
            last.weight.copy_(torch.einsum("oi,ic...->oc...", matrix, last.weight))
            if last.bias is not None:
                last.bias.copy_(matrix @ last.bias)
        else:
            raise UsageError(
                f"the linear maps between blocks {joint} and {joint + 1} cannot be merged: neither ends there in a "
                "linear layer or an ungrouped convolution. Cut the networks elsewhere (not inside a residual block)"
            )


def _end(block: nn.Module, which: int) -> Linear | None:
    """The first (0) or last (-1) layer of a chain, if a matrix of channels can be folded into it."""
    while isinstance(block, nn.Sequential) and len(block):
        block = block[which]
    if isinstance(block, nn.Conv2d):
        zeros = block.padding_mode in ("zeros", "circular", "reflect", "replicate")
        return block if block.groups == 1 and zeros else None
    return block if isinstance(block, nn.Linear) else None
