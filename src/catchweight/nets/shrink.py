"""Layers with fewer channels: pruned in place, and made again from the shapes that a file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..errors import CatchweightError

Shapes = dict[str, tuple[int, ...]]
"""Shapes of parameters and buffers by their names in the state dict."""

Kept = Mapping[tuple[str, int], Tensor]
"""(name in the state dict, dimension) -> indices that stay, ascending, int64."""


def shapes(net: nn.Module) -> Shapes:
    """Shape of every parameter and buffer that a state dict of ``net`` holds."""
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def keep_channels(net: nn.Module, kept: Kept) -> None:
    """Remove all other channels, in place; parameters stay the same objects, so that an optimiser still knows them.

    Gradients are dropped. Each layer's own numbers (``out_channels``, ``num_features``, ...) follow. That the layers
    fit together afterwards is the caller's affair.
    """
    by_tensor: dict[str, list[tuple[int, Tensor]]] = {}
    for (name, dim), indices in kept.items():
        by_tensor.setdefault(name, []).append((dim, indices))
    tensors = net.state_dict(keep_vars=True)
    touched = set()
    with torch.no_grad():
        for name, cuts in by_tensor.items():
            value = tensors[name].data
            for dim, indices in cuts:
                value = value.index_select(dim, indices.to(value.device))
            _replace(tensors[name], value)
            touched.add(name.rpartition(".")[0])
    for owner in touched:
        agree(net.get_submodule(owner))


def shrink_to(net: nn.Module, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Give the named tensors these smaller shapes (keeping what comes first), as a pruned network's file tells them.

    Raises:
        CatchweightError: a name that the network does not have, or a shape that is not between 1 and its own.
    """
    have = shapes(net)
    cuts: dict[tuple[str, int], Tensor] = {}
    for name, shape in wanted.items():
        if name not in have:
            raise CatchweightError(f'the network has no "{name}" that could be pruned')
        own = have[name]
        if len(shape) != len(own) or not all(1 <= new <= old for new, old in zip(shape, own, strict=True)):
            raise CatchweightError(f'"{name}" of shape {own} cannot be pruned to {tuple(shape)}')
        for dim, (new, old) in enumerate(zip(shape, own, strict=True)):
            if new < old:
                cuts[name, dim] = torch.arange(new)
    keep_channels(net, cuts)


def agree(layer: nn.Module) -> None:
    """Make a layer's own numbers those of its tensors; layers that keep no such numbers are left alone."""
    for kind, adjust in _ADJUST.items():
        if isinstance(layer, kind):
            adjust(layer)


def _replace(tensor: Tensor, value: Tensor) -> None:
    tensor.grad = None
    tensor.data = value.contiguous()


def _convolution(layer: Any) -> None:
    if isinstance(layer, _ConvTransposeNd):
        layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        return
    # Groups go as a whole: what each of them reads stays as it is.
    layer.groups = max(1, layer.groups * layer.weight.shape[0] // layer.out_channels)
    layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups


def _linear(layer: Any) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _batch_norm(layer: Any) -> None:
    tensor = layer.weight if layer.weight is not None else layer.running_mean
    if tensor is not None:
        layer.num_features = tensor.shape[0]


def _group_norm(layer: Any) -> None:
    layer.num_groups = max(1, layer.num_groups * layer.weight.shape[0] // layer.num_channels)
    layer.num_channels = layer.weight.shape[0]


def _layer_norm(layer: Any) -> None:
    layer.normalized_shape = tuple(layer.weight.shape)


def _prelu(layer: Any) -> None:
    layer.num_parameters = layer.weight.shape[0]


_ADJUST: dict[type[nn.Module], Callable[[Any], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _prelu,
}
