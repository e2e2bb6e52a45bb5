"""The elastic family: every part of an EfficientNet-like backbone under a BiFPN, by name."""

from __future__ import annotations

from .importance import sort_channels
from .layout import Layer, Layout, read_layout
from .name import default_decoder, member_name, parse_options
from .network import FAMILY, build_member, published
from .shape import Published, Shape

__all__ = [
    "FAMILY",
    "Layer",
    "Layout",
    "Published",
    "Shape",
    "build_member",
    "default_decoder",
    "member_name",
    "parse_options",
    "published",
    "read_layout",
    "sort_channels",
]
