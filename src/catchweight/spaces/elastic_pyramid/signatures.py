"""Blocks of a member without building or tracing it.

The operators of a member follow from one trace for each coarsest level, number of BiFPN layers and input size: with
fewer blocks in a stage theirs are missing, and widths are numbers in the shapes. So the supernet is traced once for
each of these, with a code in the place of every open width. What a runtime fuses, and a block's context, reach no
further than the neighbouring stages, so the blocks of a stage are found once for its own and its neighbours' depths. A
member's blocks are those of its stages, with its own widths for the codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from ...targets.tracing.blocks import Signature, blocks
from ...targets.tracing.trace import IMAGE, Op, Trace
from ..choices import Width
from ..space import Placed
from .options import COARSEST_MAP
from .sliced import SlicedConv

CODES = 1_000_000
"""Numbers of channels from here up stand for open widths."""


class Structure(NamedTuple):
    """What decides about operators and their sizes, besides the depths of stages and the channels."""

    coarsest: int
    repeats: int | None
    classify_first: bool
    size: tuple[int, int]
    batch: int


class MemberBlocks:
    """Blocks of the members of one supernet; what was traced is remembered, but does not go with a copy.

    Args:
        feature_stages: stages whose output the decoder reads.
    """

    def __init__(self, feature_stages: Sequence[int]) -> None:
        self.feature_stages = tuple(feature_stages)
        self._widths: dict[int, Width] = {}
        self._traces: dict[Structure, Trace] = {}
        self._parts: dict[Any, list[Template]] = {}

    def __reduce__(self) -> tuple[type[MemberBlocks], tuple[tuple[int, ...]]]:
        return MemberBlocks, (self.feature_stages,)

    def __call__(
        self,
        space: nn.Module,
        depths: Sequence[int],
        structure: Structure,
        precision: str,
        trace: Callable[[], Trace],
    ) -> list[Placed]:
        """Blocks, in order, of the member that ``space`` is held at.

        Args:
            depths: of its stages.
            trace: gives that of a member of full depth and this structure; called if there is none yet.
        """
        keys = [(key, precision) for key in self._keys(tuple(depths), structure)]
        if not all(key in self._parts for key in keys):
            if structure not in self._traces:
                self._traces[structure] = self._coded(space, trace())
            found: list[list[Template]] = [[] for _ in keys]
            for block in blocks(shortened(self._traces[structure], depths), precision):
                found[_part(block.module, len(depths))].append(Template(block.module, block.signature))
            self._parts |= dict(zip(keys, found, strict=True))
        widths = {code: width.value for code, width in self._widths.items()}
        return [template.at(widths) for key in keys for template in self._parts[key]]

    def _keys(self, depths: tuple[int, ...], structure: Structure) -> Iterator[tuple[Any, ...]]:
        """What the blocks of the stem, of each stage and of the decoder depend on."""
        # A stage hands its map to the next one and, where there is a level beyond the backbone's, to one layer more.
        shared = (structure.size, structure.batch, structure.coarsest > COARSEST_MAP)
        for stage in range(-1, len(depths)):
            yield (stage, depths[max(0, stage - 1) : stage + 2], shared)
        yield (tuple(depths[stage] for stage in self.feature_stages), structure)

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
        """What an operator gives, coded: a convolution of all channels has a width, all else keeps its input's."""
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
        known: those already made, by the codes' widths.
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
            self.known[key] = (self.module, _decoded(self.coded, widths))
        return self.known[key]


def shortened(trace: Trace, depths: Sequence[int]) -> Trace:
    """The trace without the blocks of each stage beyond its depth; who read the last one reads the last that stays."""
    ops: list[Op] = []
    instead: dict[str, str] = {}
    last: dict[int, str] = {}
    for op in trace.ops:
        stage, block = _block(op.module)
        if block < 0 or block < depths[stage]:
            ops.append(replace(op, inputs=tuple(instead.get(name, name) for name in op.inputs)))
            last[stage] = op.name
        else:
            instead[op.name] = last[stage]
    return replace(trace, ops=tuple(ops))


def _part(module: str, stages: int) -> int:
    """0 for the stem, then the stages, the decoder last."""
    stage, _ = _block(module)
    return 1 + stage if stage >= 0 else 0 if module.startswith("backbone") else 1 + stages


def _block(module: str) -> tuple[int, int]:
    """Stage and place of the backbone's block that a module is in; (-1, -1) outside of them."""
    found = re.match(r"backbone\.net\.blocks\.(\d+)\.(\d+)", module)
    return (int(found[1]), int(found[2])) if found else (-1, -1)


def _with_channels(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    return (shape[0], channels, *shape[2:])


def _decoded(coded: Signature, widths: Mapping[int, int]) -> Signature:
    def plain(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([widths.get(number, number) for number in shape])

    inputs, output = tuple(map(plain, coded.inputs)), plain(coded.output)
    return replace(coded, inputs=inputs, output=output, groups=widths.get(coded.groups, coded.groups))


__all__ = ["CODES", "MemberBlocks", "Structure", "Template", "shortened"]
