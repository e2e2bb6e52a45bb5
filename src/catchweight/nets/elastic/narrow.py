"""Cutting a published backbone down to fewer blocks and channels; what stays are the leading ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..backbones import TimmBackbone
from .layout import Layer, group_of
from .shape import Published, Shape


def narrow(backbone: TimmBackbone, shape: Shape, published: Published) -> None:
    """Cut a backbone of published sizes down in place; it may lack the last stages, whose sizes then do not matter.

    Raises:
        UsageError: as :meth:`.Published.channels`.
    """
    channels = published.channels(shape)
    net: Any = backbone.net
    depths = shape.depths[: len(net.blocks)]
    for index, depth in enumerate(depths):
        net.blocks[index] = net.blocks[index][:depth]
    for layer in published.layout.layers:
        if _stays(layer, depths):
            _narrow_layer(net.get_submodule(layer.path), layer, channels)
    layout = published.layout
    backbone.info = [info._replace(channels=channels[group_of(info, layout)]) for info in backbone.info]


def _stays(layer: Layer, depths: Sequence[int]) -> bool:
    if layer.block is None:
        return True
    stage, place = layer.block
    return stage < len(depths) and place < depths[stage]


def _narrow_layer(module: nn.Module, layer: Layer, channels: Mapping[str, int]) -> None:
    if isinstance(module, nn.Conv2d):
        _narrow_conv(module, channels.get(layer.reads, module.in_channels), channels[layer.gives])
    elif isinstance(module, nn.BatchNorm2d):
        _narrow_norm(module, channels[layer.gives])


def _narrow_conv(conv: nn.Conv2d, channels_in: int, channels_out: int) -> None:
    read = channels_in
    if conv.groups > 1:  # depthwise
        conv.groups, read = channels_out, 1
    conv.weight = _cut(conv.weight, channels_out, read)
    if conv.bias is not None:
        conv.bias = _cut(conv.bias, channels_out)
    conv.in_channels, conv.out_channels = channels_in, channels_out


def _narrow_norm(norm: nn.BatchNorm2d, channels: int) -> None:
    norm.weight, norm.bias = _cut(norm.weight, channels), _cut(norm.bias, channels)
    for name in ("running_mean", "running_var"):
        statistics: Tensor = getattr(norm, name)
        setattr(norm, name, statistics[:channels].clone())
    norm.num_features = channels


def _cut(parameter: Tensor, *lengths: int) -> nn.Parameter:
    slices = tuple(slice(0, length) for length in lengths)
    return nn.Parameter(parameter.detach()[slices].clone(), parameter.requires_grad)


__all__ = ["narrow"]
