"""Is a channel group what it is taken for? Tried on a copy of the network with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nets.shrink import keep_channels
from .channels import ChannelGroup, removal
from .coupling import Outputs

SAME = 1e-7
"""Largest difference, as a share of the largest output, that rounding explains in 64 bits."""

NOT_COUPLED = "its channels are coupled in a way that cannot be followed"
FIXED_SIZES = "the network's code has its channel numbers written out"


def refuted(net: nn.Module, groups: Sequence[ChannelGroup], size: tuple[int, int], outputs: Outputs) -> dict[str, str]:
    """The groups that are not what they are taken for, with the reason.

    The units of a group are interchangeable: swapping them in every tensor leaves all outputs as they are, whatever
    lies between (norms, gates, attention). A wrong coupling does not survive that. And the network must still run when
    a group has fewer units, one less or half of them. Both are tried for all groups at once, and for each half of them
    where that fails, down to the single one.

    Args:
        net: its weights do not matter; left as it is.
        size: (H, W) in pixels of the random input.
    """
    trial = _Trial(net, size, outputs)
    bad = dict.fromkeys((group.name for group in _failing(groups, trial.survives_swaps)), NOT_COUPLED)
    rest = [group for group in groups if group.name not in bad]
    return bad | dict.fromkeys((group.name for group in _failing(rest, trial.survives_removal)), FIXED_SIZES)


def _failing(groups: Sequence[ChannelGroup], passes: Callable[[Sequence[ChannelGroup]], bool]) -> list[ChannelGroup]:
    if not groups or passes(groups):
        return []
    if len(groups) == 1:
        return list(groups)
    middle = len(groups) // 2
    return _failing(groups[:middle], passes) + _failing(groups[middle:], passes)


class _Trial:
    """A copy of the network in 64 bits with random weights, and what it gives for one random input.

    Each run is of a new copy: the network's own code, in training, may keep statistics.
    """

    def __init__(self, net: nn.Module, size: tuple[int, int], outputs: Outputs) -> None:
        self.outputs = outputs
        self.net = copy.deepcopy(net).double().eval()
        generator = torch.Generator().manual_seed(0)
        for module in self.net.modules():
            _randomise(module, generator)
        self.image = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
        self.wanted = self._run(copy.deepcopy(self.net))
        again = self._run(copy.deepcopy(self.net), seed=1)
        self.by_chance = [not torch.equal(y, z) for y, z in zip(self.wanted, again, strict=True)]
        """Which outputs dropout in the network's own code decides on: equality says nothing of them."""

    def _run(self, net: nn.Module, seed: int = 0) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.outputs(net, self.image)

    def survives_swaps(self, groups: Sequence[ChannelGroup]) -> bool:
        swapped = copy.deepcopy(self.net)
        rng = np.random.default_rng(0)
        state = swapped.state_dict()
        for group in groups:
            order = _cycle(group.units, rng)
            for (name, dim), indices in group.slices.items():
                old = state[name].clone()
                moved = old.index_select(dim, torch.from_numpy(indices[order].reshape(-1)))
                state[name].index_copy_(dim, torch.from_numpy(indices.reshape(-1)), moved)
        return self._same(self._run(swapped))

    def survives_removal(self, groups: Sequence[ChannelGroup]) -> bool:
        return all(self._runs_with(groups, left) for left in (lambda units: units - 1, lambda units: (units + 1) // 2))

    def _runs_with(self, groups: Sequence[ChannelGroup], left: Callable[[int], int]) -> bool:
        smaller = copy.deepcopy(self.net)
        keep = {group.name: np.arange(max(1, left(group.units))) for group in groups}
        keep_channels(smaller, removal(smaller, groups, keep))
        try:
            found = self._run(smaller)
        except Exception:  # whatever the network's own code raises when a size is not what it expects
            return False
        return [tuple(y.shape) for y in found] == [tuple(y.shape) for y in self.wanted]

    def _same(self, found: list[Tensor]) -> bool:
        return all(
            by_chance or bool((y - z).abs().max() <= SAME * z.abs().max().clamp(min=1e-30))
            for y, z, by_chance in zip(found, self.wanted, self.by_chance, strict=True)
        )


def _cycle(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order in which nothing keeps its place."""
    order = np.empty(count, dtype=np.int64)
    ring = rng.permutation(count)
    order[ring] = np.roll(ring, 1)
    return order


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Every channel alive and unlike the others, and signals of about one size from layer to layer."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if not tensor.is_floating_point():
                continue
            if name == "running_mean" or name.endswith("bias"):
                tensor.copy_(0.2 * torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator))
            elif tensor.dim() < 2 or name not in ("weight", "in_proj_weight"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator))
            else:
                spread = (2 / max(1, tensor[0].numel())) ** 0.5
                tensor.copy_(spread * torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator))
