"""The BiFPN and head of the largest member, run with fewer levels, layers and channels.

Fewer levels, layers and channels are the leading ones. One thing is not a prefix: the coarsest level's node reads two
maps, but with more levels above it three. It takes the first and the last of its fusion weights, which belong to the
same two maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.heads import WeightedHead
from ...nets.layers import fusion_weights, halve
from ...nets.necks import BiFPN, TopDown
from ...nets.necks.bifpn import Fusion
from ...nets.necks.fpn import top_down
from ...nets.necks.pyramid import PyramidInputs
from ..choices import Choice, Width
from ..elastic import Condition
from ..structure import Depth, mixed, scored
from .options import FINEST
from .sliced import SlicedConv, sliced


class ElasticInputs(nn.Module):
    """The inputs of as many levels as the coarsest one says; see :class:`.PyramidInputs`.

    Args:
        like: of the most levels.
        coarsest: the coarsest level.
    """

    def __init__(self, like: PyramidInputs, coarsest: Choice[int]) -> None:
        super().__init__()
        self.laterals, self.beyond = like.laterals, like.beyond
        self.coarsest = coarsest

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(FINEST + len(levels), self.coarsest.value + 1):
            if level == FINEST + len(maps):
                assert self.beyond is not None
                levels.append(halve(self.beyond(maps[-1])))
            else:
                levels.append(halve(levels[-1]))
        return levels


class Repeats(Depth):
    """A row of BiFPN layers of open length; (levels, each (B, C, h_l, w_l)) -> the same shapes.

    Args:
        layers: one after the other.
        least: fewest.
        bare: what is done instead where there are none.
    """

    def __init__(self, layers: Sequence[nn.Module], least: int, bare: TopDown) -> None:
        super().__init__(layers, least, name="repeats")
        self.row = tuple(map(str, range(len(layers))))
        if least == 0:
            self.outputs, self.resize = bare.outputs, bare.resize

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.get_submodule(number) for number in self.row]

    def conditions(self) -> dict[str, Condition]:
        bare = {"outputs": (self.depth, frozenset([0]))} if self.depth.options[0] == 0 else {}
        return {**super().conditions(), **bare}

    def forward(self, levels: Any) -> Any:
        found = {0: levels}
        for number in range(self.depth.value):
            found[number + 1] = self.get_submodule(str(number))(found[number])
        mixture = self.depth.mixture
        if mixture is None:
            return [scored(x, self.depth) for x in self._given(found, self.depth.value)]
        given = [self._given(found, depth) for depth in self.depth.options]
        return [mixed(maps, mixture) for maps in zip(*given, strict=True)]

    def _given(self, found: dict[int, Any], depth: int) -> list[Tensor]:
        if depth:
            return list(found[depth])
        return top_down(found[0], self.outputs, self.resize)


class SlicedFusion(Fusion):
    """A BiFPN node that also takes two maps where it has weights for three.

    Args:
        like: of the largest member.
    """

    def __init__(self, like: Fusion) -> None:
        nn.Module.__init__(self)
        self.v, self.act, self.conv = like.v, like.act, like.conv

    def weights(self, inputs: int) -> Tensor:
        return for_inputs(self.v, inputs)


def for_inputs(v: Tensor, inputs: int) -> Tensor:
    """Fusion weights (2 or 3,) of a node -> those of its first and last map, or all."""
    return v if len(v) == inputs else torch.stack((v[0], v[-1]))


class SlicedHead(WeightedHead):
    """The head on any of the leading levels and channels.

    Args:
        like: of the largest member.
    """

    def __init__(self, like: WeightedHead) -> None:
        nn.Module.__init__(self)
        self.classifier, self.v = SlicedConv(like.classifier, like.classifier.out_channels), like.v

    def level_weights(self, levels: int) -> list[Tensor]:
        return list((levels * fusion_weights(self.v[:levels])).unbind())

    def class_weight(self, width: int) -> Tensor:
        return self.classifier.weight[:, :width]


def open_neck(neck: BiFPN, width: int | Width, coarsest: Choice[int], least: int) -> None:
    """Open a BiFPN of the largest sizes in place; ``least`` is the fewest layers, none of which make it an FPN."""
    opened: Any = neck
    opened.inputs = ElasticInputs(neck.inputs, coarsest)
    if not isinstance(neck.layers, TopDown):
        opened.layers = Repeats(list(opened.layers), least, neck.bare())
    for path, module in list(neck.named_modules()):
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            neck.set_submodule(path, sliced(module, width))
    for path, module in list(neck.named_modules()):
        if isinstance(module, Fusion):
            neck.set_submodule(path, SlicedFusion(module))


__all__ = ["ElasticInputs", "Repeats", "SlicedFusion", "SlicedHead", "for_inputs", "open_neck"]
