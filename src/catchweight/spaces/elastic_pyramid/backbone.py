"""A pretrained backbone made elastic: stage depths, widths and expansions, the most important channels first."""

from __future__ import annotations

from typing import Any

from ...nets.backbones import TimmBackbone
from ...nets.elastic import Published, read_layout
from ...nets.elastic.layout import stage_of
from ...nets.elastic.shape import STEM
from ..choices import Choice, Width
from ..structure import Depth
from .options import Options
from .sliced import sliced

Group = int | Width


def open_backbone(backbone: TimmBackbone, known: Published, options: Options) -> None:
    """Open a backbone of published sizes in place; parameters keep their names.

    The choices are called ``depth1``, ``width1``, ``expand1`` after timm's ``blocks.1``, and ``stem``. What has one
    option only is no choice.
    """
    net: Any = backbone.net
    groups = channel_groups(known, options)
    for layer in read_layout(backbone.name, net).layers:
        net.set_submodule(layer.path, sliced(layer.module, groups[layer.gives]))
    for stage, blocks in enumerate(net.blocks):
        least = options.least_depth(len(blocks))
        if least < len(blocks):
            net.blocks[stage] = Depth(list(blocks), least, name=f"depth{stage}")


def channel_groups(known: Published, options: Options) -> dict[str, Group]:
    """The open or fixed width of every channel group."""
    found: dict[str, Group] = dict(known.sizes)
    for group in (STEM, *known.layout.stages):
        widths = options.channels(known.sizes[group])
        if len(widths) > 1:
            found[group] = Width(widths, name=width_name(group))
    expand = {stage: _expand(known, options, stage) for stage in range(len(known.layout.stages))}
    for group in known.sizes:
        choice = expand[stage_of(group)] if group.endswith(".inner") else None
        if choice is not None:
            found[group] = Width([known.inner(group, ratio) for ratio in choice.options], tie=choice)
    return found


def width_name(group: str) -> str:
    """The choice of a stage's or the stem's width: ``width_name("stage3") == "width3"``."""
    return group.replace("stage", "width")


def _expand(known: Published, options: Options, stage: int) -> Choice[float] | None:
    ratios = options.expansions(known, stage)
    if len(ratios) < 2:
        return None
    choice = Choice(ratios, name=f"expand{stage}")
    choice.kind = "expand"
    return choice


__all__ = ["channel_groups", "open_backbone", "width_name"]
