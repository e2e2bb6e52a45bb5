"""What a FasterSeg is made of at one input size, operator by operator: the entries of its latency table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import unknown
from ...nets.fasterseg import FasterSegConfig
from ...nets.fasterseg.architecture import cells, last_widths
from ...nets.fasterseg.network import Channels, classifier
from ...nets.fasterseg.ops import MAKERS, resize
from ...nets.ffnet.blocks import conv_bn_relu
from ...targets.counts import count_params


class Part(NamedTuple):
    """One operator with all that its latency depends on.

    Attributes:
        op: one of the five of a cell, or of the decoder: ``lift`` (1x1 convolution and upsampling to twice the
            size), ``join`` (concatenation with a finer map and 3x3 convolution), ``fuse`` (1x1 convolution),
            ``classify`` (3x3 and 1x1 convolution, logits upsampled eightfold).
        height, width: of its input map in pixels, of a ``join`` also its output's.
        inp, out: channels; of a ``join`` ``inp`` is the finer map's, the lifted one has ``out``.
        stride: 1 or 2.
    """

    op: str
    height: int
    width: int
    inp: int
    out: int
    stride: int = 1

    @property
    def inputs(self) -> tuple[int, ...]:
        """Channels of every map it reads."""
        return (self.out, self.inp) if self.op == "join" else (self.inp,)


OpTimes = Callable[[Sequence[Part]], Sequence[float]]
"""Milliseconds of each part, by a measured table or a predictor."""

Size = tuple[int, int]


def parts(config: FasterSegConfig, size: Size, classes: int, width: float = 1.0) -> Iterator[Part]:
    """Every part of the network ``FasterSeg(NetSpec(name, classes, width))`` at (H, W); their times add up to its own.

    A skip that keeps the stride is nothing and left out.
    """
    scale = Channels(config, width)
    yield from stem_parts(config.stem, scale, size)
    for cell in cells(config):
        if cell.op != "skip" or cell.stride == 2:
            channels = scale(cell.scale, cell.inp), scale(cell.scale_out, cell.out)
            yield Part(cell.op, *at(size, cell.scale), *channels, cell.stride)
    for index, branch in enumerate(config.branches):
        fine = last_widths(config, index, scale)
        for stride in (s for s in fine if s < branch.end):
            yield lift(config.head, scale, size, stride)
            yield join(config.head, scale, size, stride, fine[stride])
    yield from final_parts(len(config.branches) * scale.head(8), size, classes)


Scale = Callable[[int, int], int]
"""Channels of (stride, twelfths)."""


def stem_parts(twelfths: int, scale: Scale, size: Size) -> Iterator[Part]:
    """The three halvings before the first cell."""
    half, full = scale(4, twelfths), scale(8, twelfths)
    yield Part("conv", *size, 3, half, 2)
    yield Part("conv_2x", *at(size, 2), half, full, 2)
    yield Part("conv_2x", *at(size, 4), full, full, 2)


def lift(head: int, scale: Scale, size: Size, stride: int) -> Part:
    """From twice ``stride`` to ``stride``."""
    return Part("lift", *at(size, 2 * stride), scale(2 * stride, head), scale(stride, head))


def join(head: int, scale: Scale, size: Size, stride: int, fine: int) -> Part:
    """The lifted map with a map of ``fine`` channels at ``stride``."""
    return Part("join", *at(size, stride), fine, scale(stride, head))


def final_parts(channels: int, size: Size, classes: int) -> Iterator[Part]:
    """What follows the branches, whose maps have so many channels together."""
    yield Part("fuse", *at(size, 8), channels, channels)
    yield Part("classify", *at(size, 8), channels, classes)


def at(size: Size, stride: int) -> Size:
    """Size of the map of a stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


class Lift(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x)
        return resize(y, (2 * x.shape[-2], 2 * x.shape[-1]))


class Join(nn.Sequential):
    def forward(self, up: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = super().forward(torch.cat([up, fine], dim=1))
        return y


class Classify(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        size = 8 * x.shape[-2], 8 * x.shape[-1]
        return F.interpolate(super().forward(x), size=size, mode="bilinear", align_corners=False)


def build(part: Part) -> nn.Module:
    """The part as a module: maps ``(B, c, h, w)`` with the channels of :attr:`Part.inputs` -> one map.

    Raises:
        UsageError: there is no such operator.
    """
    if part.op in MAKERS:
        return MAKERS[part.op](part.inp, part.out, part.stride)
    decoder: dict[str, Callable[[], nn.Module]] = {
        "lift": lambda: Lift(*conv_bn_relu(part.inp, part.out, kernel=1)),
        "join": lambda: Join(*conv_bn_relu(part.out + part.inp, part.out)),
        "fuse": lambda: conv_bn_relu(part.inp, part.out, kernel=1),
        "classify": lambda: Classify(*classifier(part.inp, part.out)),
    }
    if part.op not in decoder:
        raise unknown("part", part.op, [*MAKERS, *decoder])
    return decoder[part.op]()


@lru_cache(maxsize=4096)
def part_parameters(part: Part) -> int:
    """Number of its weights."""
    with torch.device("meta"):
        return count_params(build(part))


__all__ = ["OpTimes", "Part", "Scale", "Size", "at", "build", "final_parts", "join", "lift", "part_parameters", "parts",
           "stem_parts"]  # fmt: skip
