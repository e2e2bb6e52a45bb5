"""Every member of the elastic space as a plain network: ESeg's plan (see :mod:`..eseg`) on any part of its backbone.

A member has the first blocks of every stage and fewer channels, all else as published. Pretrained weights become those
of the most important channels.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import nn

from ..backbones import TimmBackbone, load_weights
from ..backbones.timm_backbone import STRIDES
from ..encoder_decoder import EncoderDecoder
from ..segmentation import Family, NetSpec, Weights
from .importance import sort_backbone
from .layout import read_layout
from .name import PREFIX, parse_options
from .narrow import narrow
from .shape import Published


@lru_cache(maxsize=16)
def _template(backbone: str, strides: tuple[int, ...] = STRIDES) -> TimmBackbone:
    """As published, cut off after the coarsest of these strides, without memory for weights; never changed."""
    with torch.device("meta"):
        return TimmBackbone(backbone, strides)


@lru_cache(maxsize=16)
def published(backbone: str) -> Published:
    """What timm's network of this name is made of.

    Raises:
        UsageError: there is none, or it is not of EfficientNet's kind.
    """
    return Published(backbone, read_layout(backbone, _template(backbone).net))


def build_member(spec: NetSpec, weights: Weights = "none") -> EncoderDecoder:
    """The network of a name; errors as ``build_network`` raises them."""
    backbone, _, options = spec.name.removeprefix(PREFIX).partition(":")
    known = published(backbone)
    shape, decoder = parse_options(known, options)
    features = copy.deepcopy(_template(backbone, decoder.strides))
    if weights == "none":
        narrow(features, shape, known)
        _initialise(features)
    else:
        _initialise(features)
        load_weights(features, weights)
        if shape != known.shape:
            sort_backbone(features)
            narrow(features, shape, known)
    net = EncoderDecoder(spec, features, decoder)
    net.pretrained = weights != "none"
    return net


def _initialise(backbone: TimmBackbone) -> None:
    """Draw the weights as timm does, on the device where new tensors are made; none are drawn for ``meta``."""
    device = torch.empty(0).device
    if device.type == "meta":
        return
    backbone.to_empty(device=device)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    efficientnet_init_weights(backbone.net)


FAMILY = Family(
    names={
        f"{PREFIX}tf_efficientnet_lite0": "a member of the elastic space: ESeg (Meng et al., 2022) with other depths, "
        "widths and levels",
    },
    build=build_member,
    prefix=PREFIX,
)

__all__ = ["FAMILY", "build_member", "published"]
