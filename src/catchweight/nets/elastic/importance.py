"""Most important channels first, so that a leading slice of a pretrained network is its best part.

Once-for-All (Cai et al., ICLR 2020) sorts the inside of every bottleneck by the L1 norm of the weights that read it.
Here every group of channels is sorted, those joined by residual additions together, and the norm is taken after
folding batch norms, as weights count only relative to their channels' scale: a channel matters as much as the
absolute weights that read it, each in units of its own output's deviation, times the channel's root mean square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import TimmBackbone
from ..encoder_decoder import EncoderDecoder
from .layout import IMAGE, Layer, Layout, group_of, read_layout


@torch.no_grad()
def sort_channels(net: EncoderDecoder) -> None:
    """Reorder the backbone's channels in place, and what neck and auxiliary heads read of them.

    The network computes what it did, up to rounding.

    Raises:
        UsageError: its backbone is not of EfficientNet's kind.
    """
    orders = sort_backbone(net.backbone)
    for conv, index in _readers(net):
        conv.weight.copy_(conv.weight[:, orders[index]])


@torch.no_grad()
def sort_backbone(backbone: TimmBackbone) -> list[Tensor]:
    """Reorder a backbone's channels in place; for each of its maps the old channels (n,) in their new order."""
    layout = read_layout(backbone.name, backbone.net)
    orders = {group: scores.argsort(descending=True, stable=True) for group, scores in importance(layout).items()}
    for layer in layout.layers:
        _reorder(layer, orders)
    return [orders[group_of(info, layout)] for info in backbone.info]


@torch.no_grad()
def importance(layout: Layout) -> dict[str, Tensor]:
    """Scores (n,) of every group's channels; of the image and the inside of squeeze-and-excites there are none."""
    found = {}
    for group in dict.fromkeys(layer.gives for layer in layout.layers):
        given = _given(layout, group)
        if given:
            found[group] = _read(layout, group, _root_mean_square(given))
    return found


def _given(layout: Layout, group: str) -> list[nn.BatchNorm2d]:
    """Norms of what the group's convolutions of all channels give: in a stage the terms of its residual sum."""
    pairs = zip(layout.layers, layout.layers[1:], strict=False)
    return [norm.module for conv, norm in pairs if norm.gives == group and _mixes(conv) and _is_norm(norm)]


def _read(layout: Layout, group: str, given: Tensor) -> Tensor:
    """Absolute folded weights that read each channel, each times the root mean square of what is read.

    Where only the decoder reads, that of what is given.
    """
    total = torch.zeros_like(given)
    inside: Layer | None = None  # the norm before, in the same block: its depthwise convolution's result is read
    for layer, after in zip(layout.layers, layout.layers[1:], strict=False):
        if _is_norm(layer):
            inside = layer
        elif layer.reads == group and _mixes(layer) and _is_norm(after):
            here = inside is not None and inside.gives == group and inside.block == layer.block
            scale = _root_mean_square([inside.module]) if inside is not None and here else given
            total += scale * _folded(layer.module, after.module).abs().sum((0, 2, 3))
    return total if bool(total.any()) else given


def _root_mean_square(norms: list[nn.BatchNorm2d]) -> Tensor:
    """By gain and offset: what a batch norm gives has this deviation and mean; terms of a sum add up."""
    return torch.stack([norm.weight.square() + norm.bias.square() for norm in norms]).sum(0).sqrt()


def _is_norm(layer: Layer) -> bool:
    return isinstance(layer.module, nn.BatchNorm2d)


def _mixes(layer: Layer) -> bool:
    return isinstance(layer.module, nn.Conv2d) and layer.module.groups == 1


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * gain[:, None, None, None]


def _reorder(layer: Layer, orders: Mapping[str, Tensor]) -> None:
    module = layer.module
    if layer.gives in orders:
        for tensor in (module.weight, module.bias, *module.buffers()):
            if tensor is not None and tensor.ndim:
                tensor.copy_(tensor[orders[layer.gives]])
    if layer.reads in orders and layer.reads != IMAGE and _mixes(layer):
        module.weight.copy_(module.weight[:, orders[layer.reads]])


def _readers(net: Any) -> list[tuple[nn.Conv2d, int]]:
    """Convolutions that read the backbone's maps, with the map's index."""
    inputs = net.neck.inputs
    beyond = [] if inputs.beyond is None else [(inputs.beyond[0], -1)]
    laterals = [(lateral[0], index) for index, lateral in enumerate(inputs.laterals)]
    return [*laterals, *beyond, *((head[0][0], index) for index, head in enumerate(net.aux_heads, start=1))]


__all__ = ["importance", "sort_backbone", "sort_channels"]
