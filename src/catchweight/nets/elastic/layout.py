"""Which layers of an EfficientNet-like backbone share which channels.

Everything that changes a width needs this: a plain member of the family (:mod:`.narrow`), the order of importance
(:mod:`.importance`) and the supernet (:mod:`catchweight.spaces.elastic_pyramid`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...errors import UsageError
from ..segmentation import FeatureInfo

IMAGE = "image"
KNOWN = "tf_efficientnet_lite0..4, [tf_]efficientnet_b0..b8, [tf_]efficientnetv2_*, mobilenetv2_*, [tf_]mobilenetv3_*"
"""Backbones of the family, as an error message names them."""

_IN, _INNER, _OUT = "in", "inner", "out"
_BLOCKS: dict[str, tuple[tuple[str, str, str], ...]] = {
    # timm's class -> (layer, channels it reads, channels it gives)
    "ConvBnAct": (("conv", _IN, _OUT), ("bn1", _OUT, _OUT)),
    "DepthwiseSeparableConv": (
        ("conv_dw", _IN, _IN), ("bn1", _IN, _IN), ("se", _IN, _IN), ("conv_pw", _IN, _OUT), ("bn2", _OUT, _OUT),
    ),
    "InvertedResidual": (
        ("conv_pw", _IN, _INNER), ("bn1", _INNER, _INNER), ("conv_dw", _INNER, _INNER), ("bn2", _INNER, _INNER),
        ("se", _INNER, _INNER), ("conv_pwl", _INNER, _OUT), ("bn3", _OUT, _OUT),
    ),
    "EdgeResidual": (
        ("conv_exp", _IN, _INNER), ("bn1", _INNER, _INNER), ("se", _INNER, _INNER), ("conv_pwl", _INNER, _OUT),
        ("bn2", _OUT, _OUT),
    ),
}  # fmt: skip


class Layer(NamedTuple):
    """A convolution or norm of a backbone.

    Attributes:
        path: dotted, within the timm network.
        module: ``nn.Conv2d`` or ``nn.BatchNorm2d``.
        reads, gives: names of the channel groups of its input and output: ``image``, ``stem``, ``stage3``,
            ``stage3.1.inner`` (inside an inverted bottleneck), ``stage3.1.squeeze`` (inside its squeeze-and-excite).
            A norm and a depthwise convolution read and give the same.
    """

    path: str
    module: Any
    reads: str
    gives: str

    @property
    def block(self) -> tuple[int, int] | None:
        """Stage and place in it; None of the stem."""
        parts = self.path.split(".")
        return (int(parts[1]), int(parts[2])) if parts[0] == "blocks" else None


@dataclass(frozen=True)
class Layout:
    """Layers in order, and what each stage gives.

    Attributes:
        layers: all convolutions and norms.
        stages: group of each stage's output; residual additions may make several stages share one.
        depths: blocks of each stage.
    """

    layers: tuple[Layer, ...]
    stages: tuple[str, ...]
    depths: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Channels of every group."""
        return {layer.gives: _channels(layer.module)[1] for layer in self.layers}


def read_layout(name: str, net: Any) -> Layout:
    """The layout of a timm network.

    Raises:
        UsageError: it is not of EfficientNet's kind.
    """
    if not isinstance(getattr(net, "blocks", None), nn.Sequential) or not hasattr(net, "conv_stem"):
        raise _unsupported(name, f"a {type(net).__name__} has no stages of inverted bottlenecks")
    layers = [Layer("conv_stem", net.conv_stem, IMAGE, "stem"), Layer("bn1", net.bn1, "stem", "stem")]
    group, stages = "stem", []
    for index, stage in enumerate(net.blocks):
        joined = group if getattr(stage[0], "has_skip", False) else f"stage{index}"
        for number, block in enumerate(stage):
            layers += _block_layers(name, f"blocks.{index}.{number}", block, group, joined, f"stage{index}.{number}")
            group = joined
        stages.append(group)
    _check(name, net, layers)
    return Layout(tuple(layers), tuple(stages), tuple(map(len, net.blocks)))


def stage_of(group: str) -> int:
    """Stage of a group inside a block: ``stage_of("stage3.1.inner") == 3``."""
    return int(group.removeprefix("stage").split(".")[0])


def group_of(info: FeatureInfo, layout: Layout) -> str:
    """The channel group of a feature map; one of stride 2 may be the stem's."""
    return layout.stages[stage_of_map(info)] if info.name.startswith("blocks.") else "stem"


def stage_of_map(info: FeatureInfo) -> int:
    """The stage that gives a feature map, after which timm names it: ``blocks.4``."""
    return int(info.name.split(".")[1])


def _block_layers(name: str, path: str, block: Any, reads: str, gives: str, own: str) -> Iterator[Layer]:
    kind = type(block).__name__
    if kind not in _BLOCKS or getattr(block, "conv_s2d", None) is not None:
        raise _unsupported(name, f"its {path} is a {kind}")
    groups = {_IN: reads, _INNER: f"{own}.inner", _OUT: gives}
    for part, before, after in _BLOCKS[kind]:
        if part != "se":
            yield Layer(f"{path}.{part}", getattr(block, part), groups[before], groups[after])
        elif not isinstance(block.se, nn.Identity):
            if not hasattr(block.se, "conv_reduce") or not hasattr(block.se, "conv_expand"):
                raise _unsupported(name, f"its {path}.se is a {type(block.se).__name__}")
            squeeze = f"{own}.squeeze"
            yield Layer(f"{path}.se.conv_reduce", block.se.conv_reduce, groups[before], squeeze)
            yield Layer(f"{path}.se.conv_expand", block.se.conv_expand, squeeze, groups[before])


def _check(name: str, net: nn.Module, layers: list[Layer]) -> None:
    """Every tensor is in a layer that can be cut, and every group has one width."""
    for layer in layers:
        if not _can_be_cut(layer.module):
            raise _unsupported(name, f"its {layer.path} is a {type(layer.module).__name__} that cannot be cut")
    known = {id(tensor) for layer in layers for tensor in _tensors(layer.module)}
    other = [path for path, tensor in (*net.named_parameters(), *net.named_buffers()) if id(tensor) not in known]
    if other:
        raise _unsupported(name, f"it has a tensor {other[0]}")
    widths: dict[str, int] = {}
    for layer in layers:
        before, after = _channels(layer.module)
        if widths.setdefault(layer.reads, before) != before or widths.setdefault(layer.gives, after) != after:
            raise _unsupported(name, f"the blocks of a stage differ in width at {layer.path}")


def _can_be_cut(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):  # all channels with all, or each for itself
        return module.groups == 1 or module.groups == module.in_channels == module.out_channels
    return isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine


def _channels(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels
    return module.num_features, module.num_features


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _unsupported(name: str, why: str) -> UsageError:
    return UsageError(f"backbone {name} cannot be made elastic: {why}. Those of EfficientNet's kind can: {KNOWN}")


__all__ = ["IMAGE", "KNOWN", "Layer", "Layout", "group_of", "read_layout", "stage_of", "stage_of_map"]
