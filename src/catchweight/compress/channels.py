"""Groups of channels: what they are made of, and their removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import CatchweightError
from ..nets.shrink import keep_channels

Ints = NDArray[np.int64]

Slice = tuple[str, int]
"""A parameter or buffer by its name in the state dict, and one of its dimensions."""

Keep = Mapping[str, Sequence[int] | Ints]
"""Group -> the units that stay."""


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units of channels that can be removed one by one, each with everything that depends on it.

    Attributes:
        name: the first layer that computes these channels, with a number behind it where there are several.
        makers: all convolutions and linear layers that compute them.
        slices: for every tensor dimension the indices of each unit, (units, indices a unit).
    """

    name: str
    makers: tuple[str, ...]
    slices: Mapping[Slice, Ints]

    @property
    def units(self) -> int:
        return len(next(iter(self.slices.values())))

    def after(self, removed: Mapping[Slice, Ints], kept: Ints) -> ChannelGroup:
        """The group with only the units ``kept``, in the numbering that is left when ``removed`` is gone."""
        slices = {}
        for key, indices in self.slices.items():
            left = indices[kept]
            slices[key] = left - np.searchsorted(removed[key], left) if key in removed else left
        return replace(self, slices=slices)


@dataclass(frozen=True)
class Groups:
    """What can be pruned of a network, and what cannot.

    Attributes:
        groups: in the order of the network.
        fixed: layers whose channels stay, with the reason.
    """

    groups: tuple[ChannelGroup, ...]
    fixed: Mapping[str, str]

    @property
    def widths(self) -> dict[str, int]:
        """Units of every group."""
        return {group.name: group.units for group in self.groups}

    def prune(self, net: nn.Module, keep: Keep) -> Groups:
        """Remove from ``net``, in place, all units of the groups in ``keep`` but those; the groups of what is left.

        Raises:
            CatchweightError: nothing would be left of a group.
        """
        kept = _sorted(keep)
        if empty := [name for name, units in kept.items() if not len(units)]:
            raise CatchweightError(f"the channels of {empty[0]} would all be pruned: keep one unit at least")
        removed = _removed(self.groups, kept)
        keep_channels(net, _complement(net, removed))
        left = (group.after(removed, kept.get(group.name, np.arange(group.units))) for group in self.groups)
        return replace(self, groups=tuple(left))


def removal(net: nn.Module, groups: Sequence[ChannelGroup], keep: Keep) -> dict[Slice, Tensor]:
    """What :func:`.keep_channels` must be given to keep just these units of the named groups."""
    return _complement(net, _removed(groups, _sorted(keep)))


def _sorted(keep: Keep) -> dict[str, Ints]:
    return {name: np.unique(np.asarray(units, dtype=np.int64)) for name, units in keep.items()}


def _removed(groups: Sequence[ChannelGroup], kept: Mapping[str, Ints]) -> dict[Slice, Ints]:
    """Indices that go, ascending."""
    found: dict[Slice, list[Ints]] = {}
    for group in groups:
        gone = np.setdiff1d(np.arange(group.units), kept.get(group.name, np.arange(group.units)))
        if len(gone):
            for key, indices in group.slices.items():
                found.setdefault(key, []).append(indices[gone].reshape(-1))
    return {key: np.unique(np.concatenate(parts)) for key, parts in found.items()}


def _complement(net: nn.Module, removed: Mapping[Slice, Ints]) -> dict[Slice, Tensor]:
    have = net.state_dict()
    return {
        (name, dim): torch.from_numpy(np.setdiff1d(np.arange(have[name].shape[dim]), gone))
        for (name, dim), gone in removed.items()
    }
