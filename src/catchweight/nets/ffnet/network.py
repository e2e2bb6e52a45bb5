"""FFNet assembled: residual backbone, up-head, segmentation head (CVPR-W 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import CatchweightError
from ..heads import AuxiliaryHead
from ..layers import round_channels
from ..segmentation import Family, FeatureInfo, NetSpec, SegmentationNet, Weights
from .blocks import BLOCKS, GaussianHalve, conv_bn_relu
from .table import FFNETS, FFNetConfig, Head, describe, ffnet_config

UP_CHANNELS: dict[Head, tuple[int, int, int, int]] = {
    "A": (64, 128, 256, 512),
    "B": (64, 128, 128, 256),
    "C": (128, 128, 128, 128),
}
"""Channels the four maps are adapted to, finest first."""

LATERAL_CHANNELS: dict[Head, tuple[int, int, int, int]] = {
    "A": (128, 128, 128, 128),
    "B": (96, 96, 64, 32),
    "C": (128, 16, 16, 16),
}
"""Channels each map gives to the concatenation, finest first."""

HEAD_CHANNELS: dict[Head, int] = {"A": 512, "B": 256, "C": 128}
HEAD_KERNEL: dict[Head, int] = {"A": 1, "B": 3, "C": 1}
"""Kernel of the last convolution; the one before is 3x3 in all three."""

Scale = Callable[[int], int]


def scaled(width: float, divisor: int = 8) -> Scale:
    """Channel counts times ``width``, rounded to multiples of ``divisor``; as they are when ``width`` is 1."""
    return lambda channels: channels if width == 1 else round_channels(channels * width, divisor)


class Backbone(nn.Module):
    """Stem and residual stages: ``(B, 3, H, W)`` -> four maps, finest first."""

    def __init__(self, config: FFNetConfig, scale: Scale) -> None:
        super().__init__()
        make, expansion = BLOCKS[config.block]
        channels = [scale(c) for c in config.channels]
        self.stem, carried = _stem(config, scale)
        self.stem_is_map = config.stem == "narrow"
        self.channels = [c * expansion for c in channels]
        if self.stem_is_map:
            self.channels[0], channels = carried, channels[1:]
        dilations = config.dilations or (1,) * len(config.blocks)
        self.stages = nn.ModuleList()
        for depth, out, stride, dilation in zip(config.blocks, channels, config.strides, dilations, strict=True):
            first = make(carried, out, stride, dilation)
            carried = out * expansion
            rest = [make(carried, out, 1, dilation) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(first, *rest))
        self.strides = _strides(config)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = [x] if self.stem_is_map else []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _stem(config: FFNetConfig, scale: Scale) -> tuple[nn.Sequential, int]:
    """The layers before the first residual stage (stride 4), and the channels they give."""
    out = scale(64)
    if config.stem == "classic":
        return nn.Sequential(conv_bn_relu(3, out, 7, 2), nn.MaxPool2d(3, 2, 1)), out
    middle = scale(32) if config.stem == "slim" else out
    layers = [conv_bn_relu(3, middle, 3, 2), conv_bn_relu(middle, out, 3, 2)]
    if config.stem == "narrow":
        first = scale(config.channels[0])
        layers.append(conv_bn_relu(out, first, 3))
        out = first
    return nn.Sequential(*layers), out


def _strides(config: FFNetConfig) -> list[int]:
    """Input pixels per map pixel of the four maps."""
    stride = 8 if config.pre_down else 4
    strides = [stride] if config.stem == "narrow" else []
    for step in config.strides:
        stride *= step
        strides.append(stride)
    return strides


class UpHead(nn.Module):
    """From the deepest map upwards: give a 3x3 lateral, pass a 1x1 upwards and add it to the next finer map.

    ``[(B, Ci, hi, wi)] * 4`` -> ``(B, sum of laterals, h0, w0)``. Maps are resized to the exact size of the finer
    one, so odd sizes need no padding.
    """

    def __init__(self, inputs: Sequence[int], kind: Head, smooth: bool, scale: Scale) -> None:
        super().__init__()
        widths = [scale(c) for c in UP_CHANNELS[kind]]
        laterals = [scale(c) for c in LATERAL_CHANNELS[kind]]
        self.smooth = smooth
        self.channels = sum(laterals)
        self.adapters = nn.ModuleList(conv_bn_relu(i, w, 1) for i, w in zip(inputs, widths, strict=True))
        self.laterals = nn.ModuleList(conv_bn_relu(w, c, 3) for w, c in zip(widths, laterals, strict=True))
        self.ups = nn.ModuleList(conv_bn_relu(widths[i + 1], widths[i], 1) for i in range(3))

    def resize(self, x: Tensor, like: Tensor) -> Tensor:
        if self.smooth:
            return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
        return F.interpolate(x, size=like.shape[-2:], mode="nearest")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        adapted = [adapter(x) for adapter, x in zip(self.adapters, maps, strict=True)]
        merged = adapted[3]
        outputs = [self.laterals[3](merged)]
        for level in (2, 1, 0):
            merged = self.resize(self.ups[level](merged), adapted[level]) + adapted[level]
            outputs.insert(0, self.laterals[level](merged))
        return torch.cat([outputs[0], *(self.resize(x, outputs[0]) for x in outputs[1:])], dim=1)


def _classifier(inp: int, middle: int, classes: int, kernel: int) -> nn.Sequential:
    """3x3 convolution unit and the logits. The authors give the first a bias as well, which batch norm cancels."""
    return nn.Sequential(conv_bn_relu(inp, middle, 3), nn.Conv2d(middle, classes, kernel, padding=kernel // 2))


class FFNet(SegmentationNet):
    """An FFNet; logits at the finest map's stride: 4, or 8 in the ``d`` and ``pre_down`` variants.

    Any H, W >= 64. No pretrained weights can be shipped (the authors' are under a restrictive licence), so weights
    start at random: normal of deviation 0.01 for every convolution, as published. ``aux`` adds a classifier on the
    second deepest backbone map (our choice; the paper has none).

    Args:
        spec: name (options may follow a colon, see ``table``), classes, width, aux; ``width`` multiplies every
            channel count, rounded to 8.

    Raises:
        UsageError: unknown name or option.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__(spec)
        config = ffnet_config(spec.name)
        scale = scaled(spec.width, config.divisor)
        self.halve = GaussianHalve() if config.pre_down else nn.Identity()
        self.backbone = Backbone(config, scale)
        self.up = UpHead(self.backbone.channels, config.up, config.smooth, scale)
        middle = scale(HEAD_CHANNELS[config.head])
        self.head = _classifier(self.up.channels, middle, spec.classes, HEAD_KERNEL[config.head])
        self.aux = AuxiliaryHead(self.backbone.channels[2], scale(128), spec.classes) if spec.aux else None
        self.apply(_initialise)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The four backbone maps."""
        pairs = zip(self.backbone.channels, self.backbone.strides, strict=True)
        return [FeatureInfo(f"map{i}", channels, stride) for i, (channels, stride) in enumerate(pairs)]

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> the maps of ``feature_info``."""
        maps: list[Tensor] = self.backbone(self.halve(x))
        return maps

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, ceil(H/s), ceil(W/s)) with s = 4 or 8."""
        out: Tensor = self.head(self.up(self.features(x)))
        return out

    def train_logits(self, x: Tensor) -> list[Tensor]:
        """The main logits and, with ``spec.aux``, those of the auxiliary classifier."""
        maps = self.features(x)
        main = [self.head(self.up(maps))]
        return main if self.aux is None else [*main, self.aux(maps[2])]


def _initialise(module: nn.Module) -> None:
    """Batch norm follows nearly every convolution, so the deviation sets step sizes, not signal sizes."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build(spec: NetSpec, weights: Weights) -> FFNet:
    if weights not in ("none", "auto"):
        raise CatchweightError(
            f"network {spec.name}: there are no FFNet weights to load from {weights} (the authors' licence forbids "
            'shipping theirs); use weights "none", or load_network for a file saved by Catchweight'
        )
    return FFNet(spec)


FAMILY = Family(names={name: describe(name) for name in FFNETS}, build=_build)
