"""FasterSeg assembled: stem, branches of cells, fusion back to stride 8, classifier (ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import CatchweightError
from ..ffnet.blocks import conv_bn_relu
from ..ffnet.network import scaled
from ..segmentation import Family, FeatureInfo, NetSpec, SegmentationNet, Weights
from .architecture import STRIDES, FasterSegConfig, cells, last_widths
from .ops import MAKERS, plain, resize
from .table import FASTERSEGS, describe, fasterseg_config

WIDEST_PLAIN_CLASSIFIER = 256
"""Up to so many channels a classifier's hidden layer is as wide as its input, above half as wide."""

Maps = dict[int, Tensor]
"""The last map of a branch at each stride."""


class Channels:
    """Channel counts of one architecture: ``channels(stride, twelfths)``, times ``width``, rounded to 8."""

    def __init__(self, config: FasterSegConfig, width: float) -> None:
        self.config = config
        self.scale = scaled(width)

    def __call__(self, stride: int, twelfths: int) -> int:
        return self.scale(self.config.channels(stride, twelfths))

    def head(self, stride: int) -> int:
        return self(stride, self.config.head)


def stem(twelfths: int, scale: Callable[[int, int], int]) -> nn.Sequential:
    """``(B, 3, H, W) -> (B, C, ceil(H/8), ceil(W/8))``; the maps at strides 2 and 4 have twice their full width."""
    half, quarter, out = scale(4, twelfths), scale(8, twelfths), scale(8, twelfths)
    return nn.Sequential(
        conv_bn_relu(3, half, stride=2), plain(half, quarter, stride=2, depth=2), plain(quarter, out, stride=2, depth=2)
    )


def classifier(inp: int, classes: int) -> nn.Sequential:
    """3x3 convolution, then the class scores: ``(B, inp, h, w) -> (B, classes, h, w)``."""
    hidden = inp if inp <= WIDEST_PLAIN_CLASSIFIER else inp // 2
    return nn.Sequential(conv_bn_relu(inp, hidden), nn.Conv2d(hidden, classes, 1))


class Cells(nn.Module):
    """All branches: ``(B, C, h, w)`` at stride 8 -> per branch its last map at each stride it passes."""

    def __init__(self, config: FasterSegConfig, scale: Channels) -> None:
        super().__init__()
        self.branches = len(config.branches)
        self.plan = tuple(cells(config))
        self.ops = nn.ModuleList(
            MAKERS[cell.op](scale(cell.scale, cell.inp), scale(cell.scale_out, cell.out), cell.stride)
            for cell in self.plan
        )

    def forward(self, x: Tensor) -> list[Maps]:
        maps: list[Maps] = [{8: x} for _ in range(self.branches)]
        for cell, op in zip(self.plan, self.ops, strict=True):
            y = op(maps[cell.branches[0]][cell.scale])
            for branch in cell.branches:
                maps[branch][cell.scale_out] = y
        return maps


class Merge(nn.Module):
    """A coarse map into the next finer one: 1x1, upsample, concatenate, 3x3.

    ``(B, coarse, h, w)`` and ``(B, fine, 2h, 2w)`` -> ``(B, out, 2h, 2w)``.
    """

    def __init__(self, coarse: int, fine: int, out: int) -> None:
        super().__init__()
        self.arm = conv_bn_relu(coarse, out, kernel=1)
        self.refine = conv_bn_relu(out + fine, out)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        up = resize(self.arm(coarse), (fine.shape[-2], fine.shape[-1]))
        out: Tensor = self.refine(torch.cat([up, fine], dim=1))
        return out


class Climb(nn.Module):
    """One branch's maps back to stride 8, from the coarsest upwards; a branch that ends at 8 passes as it is."""

    def __init__(self, widths: dict[int, int], scale: Channels) -> None:
        super().__init__()
        self.strides = sorted(widths, reverse=True)
        self.merges = nn.ModuleList(Merge(scale.head(2 * s), widths[s], scale.head(s)) for s in self.strides[1:])

    def forward(self, maps: Maps) -> Tensor:
        x = maps[self.strides[0]]
        for stride, merge in zip(self.strides[1:], self.merges, strict=True):
            x = merge(x, maps[stride])
        return x


class FasterSeg(SegmentationNet):
    """A derived FasterSeg; logits at stride 8. Any H, W >= 64; no weights are shipped.

    ``aux`` adds the published training classifiers: one on all maps of stride 16, one on the map of stride 32. The
    student's published 4.38 M parameters count them, and 0.03 M of an attention that the authors' code creates and
    never uses (left out here); as deployed it has 3.42 M. Two departures: maps of odd size (see ``ops``), and the
    upsampling of the logits to the image, which is that of every network here and does not align corners.

    Args:
        spec: name (options may follow a colon, see ``table``), classes, width, aux; ``width`` multiplies every
            channel count, rounded to 8.

    Raises:
        UsageError: unknown name or option, or an architecture that makes no network.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__(spec)
        config = fasterseg_config(spec.name)
        scale = Channels(config, spec.width)
        self.config = config
        self.widths = [last_widths(config, index, scale) for index in range(len(config.branches))]
        self.stem = stem(config.stem, scale)
        self.cells = Cells(config, scale)
        self.climbs = nn.ModuleList(Climb(widths, scale) for widths in self.widths)
        fused = scale.head(8) * len(config.branches)
        self.fuse = conv_bn_relu(fused, fused, kernel=1)
        self.head = classifier(fused, spec.classes)
        coarse = [s for s in STRIDES[1:] if spec.aux and any(s in widths for widths in self.widths)]
        self.aux = nn.ModuleDict(
            {str(s): classifier(sum(w[s] for w in self.widths if s in w), spec.classes) for s in coarse}
        )
        self.apply(initialise)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The last map of every branch at every stride, finest first."""
        pairs = zip(self.config.branches, self.widths, strict=True)
        found = [FeatureInfo(f"branch{b.end}", channels, s) for b, widths in pairs for s, channels in widths.items()]
        return sorted(found, key=lambda info: info.stride)

    @property
    def feature_places(self) -> list[str]:
        numbered = list(enumerate(self.widths))
        return [f"cells[{number}][{stride}]" for stride in STRIDES for number, widths in numbered if stride in widths]

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> the maps of ``feature_info``."""
        branches = self.cells(self.stem(x))
        return [maps[stride] for stride in STRIDES for maps in branches if stride in maps]

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, ceil(H/8), ceil(W/8))."""
        return self._decoded(self.cells(self.stem(x)))

    def train_logits(self, x: Tensor) -> list[Tensor]:
        """The main logits and, with ``spec.aux``, those at strides 16 and 32, each at its own resolution."""
        branches = self.cells(self.stem(x))
        coarse = {stride: [maps[int(stride)] for maps in branches if int(stride) in maps] for stride in self.aux}
        return [self._decoded(branches), *(head(torch.cat(coarse[s], dim=1)) for s, head in self.aux.items())]

    def _decoded(self, branches: Sequence[Maps]) -> Tensor:
        fine = [climb(maps) for climb, maps in zip(self.climbs, branches, strict=True)]
        out: Tensor = self.head(self.fuse(torch.cat(fine, dim=1)))
        return out


def initialise(module: nn.Module) -> None:
    """As published: He's normal initialisation, by fan-in, for every convolution."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _build(spec: NetSpec, weights: Weights) -> FasterSeg:
    if weights not in ("none", "auto"):
        raise CatchweightError(
            f"network {spec.name}: there are no FasterSeg weights to load from {weights}; use weights "
            '"none", or load_network for a file saved by Catchweight'
        )
    return FasterSeg(spec)


FAMILY = Family(names={name: describe(name) for name in FASTERSEGS}, build=_build)
