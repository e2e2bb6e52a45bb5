"""Blocks of a member without building or tracing it.

The operators of a member follow from one trace for each coarsest level, number of BiFPN layers and input size: with
fewer blocks in a stage theirs are missing, and widths are numbers in the shapes. So the supernet is traced once for each
of these with a code in the place of every open width, and blocks are made of the trace once for each combination of
depths. A member's blocks are those with its own widths for the codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ...targets.blocks import Signature, blocks
from ...targets.trace import IMAGE, Op, Trace
from ..choices import Width
from ..space import Placed
from .sliced import SlicedConv

CODES = 1_000_000
"""Numbers of channels from here up stand for open widths."""


class MemberBlocks:
    """Blocks of the members of one supernet; what was traced is remembered, but does not go with a copy."""

    def __init__(self) -> None:
        self._widths: dict[int, Width] = {}
        self._traces: dict[Any, Trace] = {}
        self._templates: dict[Any, list[Template]] = {}

    def __reduce__(self) -> tuple[type[MemberBlocks], tuple[()]]:
        return MemberBlocks, ()

    def __call__(
        self, space: nn.Module, depths: Sequence[int], structure: tuple[Any, ...], precision: str, trace: Callable[[], Trace]
    ) -> list[Placed]:
        """Blocks of the member that ``space`` is held at.

        Args:
            depths: of its stages.
            structure: whatever else decides which operators there are, and the size.
            trace: of a member of full depth and this structure, called if there is none yet.
        """
        key = (tuple(depths), structure, precision)
        if key not in self._templates:
            if structure not in self._traces:
                self._traces[structure] = self._coded(space, trace())
            found = blocks(shortened(self._traces[structure], depths), precision)
            self._templates[key] = [Template(block.module, block.signature) for block in found]
        widths = {code: width.value for code, width in self._widths.items()}
        return [template.at(widths) for template in self._templates[key]]

    def _coded(self, space: nn.Module, trace: Trace) -> Trace:
        """The trace with codes for open widths."""
        channels: dict[str, int] = {IMAGE: trace.image.shape[1]}
        ops = []
        for op in trace.ops:
            before = [channels[name] for name in op.inputs]
            channels[op.name] = self._channels(space, op, before[0])
            shapes = tuple(_with_channels(shape, n) for shape, n in zip(op.shapes, before, strict=True))
            out = replace(op.out, shape=_with_channels(op.out.shape, channels[op.name]))
            groups = {"groups": before[0]} if op.arguments.get("groups", 1) > 1 else {}
            ops.append(replace(op, shapes=shapes, out=out, arguments={**op.arguments, **groups}))
        return replace(trace, ops=tuple(ops))

    def _channels(self, space: nn.Module, op: Op, before: int) -> int:
        """What an operator gives, coded: a convolution mixes channels, all else keeps them."""
        if op.kind != "conv2d" or op.arguments["groups"] > 1:
            return before
        module = space.get_submodule(op.module)
        width = module.channels_out if isinstance(module, SlicedConv) else op.out.shape[1]
        return self._code(width) if isinstance(width, Width) else width

    def _code(self, width: Width) -> int:
        """One code for all widths that are always equal."""
        known = {(id(other.leader), other.options): code for code, other in self._widths.items()}
        code = known.get((id(width.leader), width.options), CODES + len(known))
        self._widths[code] = width
        return code


@dataclass
class Template:
    """A block with codes for open widths.

    Args:
        module: path of the module where it begins.
        coded: its signature.
    """

    module: str
    coded: Signature
    known: dict[tuple[int, ...], Placed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (number for shape in (*self.coded.inputs, self.coded.output) for number in shape)
        self.codes = tuple(dict.fromkeys(number for number in numbers if number >= CODES))

    def at(self, widths: Mapping[int, int]) -> Placed:
        """The block with these channels for codes."""
        key = tuple([widths[code] for code in self.codes])
        if key not in self.known:
            self.known[key] = (self.module, _decoded(self.coded, dict(zip(self.codes, key, strict=True))))
        return self.known[key]


def shortened(trace: Trace, depths: Sequence[int]) -> Trace:
    """The trace without the blocks of each stage beyond its depth; who read the last one reads the last that stays."""
    ops, instead, last = [], {}, dict[int, str]()
    for op in trace.ops:
        stage, block = _block(op.module) or (-1, -1)
        if block < 0 or block < depths[stage]:
            ops.append(replace(op, inputs=tuple(instead.get(name, name) for name in op.inputs)))
            last[stage] = op.name
        else:
            instead[op.name] = last[stage]
    return replace(trace, ops=tuple(ops))


def _block(module: str) -> tuple[int, int] | None:
    """Stage and place of the backbone's block that a module is in."""
    found = re.match(r"backbone\.net\.blocks\.(\d+)\.(\d+)", module)
    return (int(found[1]), int(found[2])) if found else None


def _with_channels(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    return (shape[0], channels, *shape[2:])


def _decoded(coded: Signature, widths: Mapping[int, int]) -> Signature:
    def plain(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([widths.get(number, number) for number in shape])

    inputs, output = tuple(map(plain, coded.inputs)), plain(coded.output)
    return replace(coded, inputs=inputs, output=output, groups=widths.get(coded.groups, coded.groups))


__all__ = ["CODES", "MemberBlocks", "Template", "shortened"]
