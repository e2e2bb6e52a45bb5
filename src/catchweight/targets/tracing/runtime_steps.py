"""What a runtime writes to memory for a traced network: fused blocks, and copies between memory layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from .blocks import ACTIVATIONS, Block, blocks
from .trace import IMAGE, Op, Trace, Value

BLOCK = 16
"""Channels of one block of the layout ``(B, C / 16, H, W, 16)`` in which convolutions run on AVX-512; AVX2 has 8."""

_RESHAPES = {"view", "squeeze", "unsqueeze"}
_POOLS = {"max_pool2d", "avg_pool2d"}
_BINARY = {"add", "mul", "sub", "div"}
_SEPARATE = {"gelu", "silu", "mish"}
"""Activations that are kernels of their own and read their input more than once: they need a second buffer."""
_TO_CHANNELS_LAST = [0, 2, 3, 1]
_OVERWRITING = (ACTIVATIONS - _SEPARATE) | _BINARY | {"batch_norm", "sqrt", "rsqrt", "exp", "neg", "abs", "pow"}


@dataclass(frozen=True)
class Step:
    """One kernel of a runtime.

    Attributes:
        ops: names of the traced operators that it computes, or prepares.
        reads: values it reads.
        result: the value it makes.
        bytes: of the result.
        over: operands whose buffer it may overwrite, the preferred one first.
        view: the operand whose buffer it hands on; then nothing is written.
    """

    ops: tuple[str, ...]
    reads: tuple[str, ...]
    result: str
    bytes: int
    over: tuple[str, ...] = ()
    view: str | None = None


def runtime_steps(traced: Trace) -> list[Step]:
    """Kernels as ONNX Runtime runs them on a processor, after its own graph optimisation.

    One kernel is a :func:`.blocks.blocks` block: padding, convolution, norm, activation; a residual sum is
    accumulated in the other operand. GELU and SiLU are kernels of their own, which do not overwrite; other
    elementwise operators overwrite what nobody reads any more. Reshapes are free, other changes of layout are
    copies, attention writes its scores and their softmax.

    Convolutions read and write channels in blocks of ``BLOCK``, the last block filled up; pooling, activations,
    sums, concatenations and integer upsampling stay in that layout when all their inputs are in it, and everything else
    reads plain (B, C, H, W), for which a copy is made, and another one back. Sources: "NCHWc transformer" of ONNX
    Runtime, and its optimised graphs of the networks in ``benchmarks/memory.py``.

    Not modelled: scratch space inside kernels, which is small, and allocators, which keep what they were given.
    """
    return _Kernels(traced).steps


class _Kernels:
    def __init__(self, traced: Trace) -> None:
        self.values: dict[str, Value] = {IMAGE: traced.image, **{op.name: op.out for op in traced.ops}}
        self.total: dict[str, int] = _bytes_of_all_results(traced)
        self.place = {op.name: index for index, op in enumerate(traced.ops)}
        self.blocked: set[str] = set()  # values whose first form is the blocked one
        self.other: dict[str, str] = {}  # a value's copy in the other layout
        self.steps: list[Step] = []
        for block in _in_order(blocks(traced), traced, self.place):
            self._add(block)
        last = tuple(op.name for op in traced.ops[-1:])
        for name in traced.outputs:
            self._in_layout(name, blocked=False, ops=last)

    def _add(self, block: Block) -> None:
        inside = {op.name for op in block.ops}
        reads = tuple(dict.fromkeys(name for op in block.ops for name in op.inputs if name not in inside))
        head, ops = block.ops[0], tuple(op.name for op in block.ops)
        anchor = next((op for op in block.ops if op.kind == "conv2d"), None)
        if anchor is not None and block.ops[-1].kind in _SEPARATE:
            self._convolution(block.ops[:-1], anchor, reads)
            self._elementwise(block.ops[-1])
        elif anchor is not None:
            self._convolution(block.ops, anchor, reads)
        elif head.kind == "scaled_dot_product_attention":
            self._attention(head, ops)
        elif head.kind in _RESHAPES or _only_moves_ones(head):
            source = self._in_layout(reads[0], blocked=False, ops=ops)
            self.steps.append(Step(ops, (source,), head.name, 0, view=source))
        elif head.kind == "permute" and head.arguments["dims"] == _TO_CHANNELS_LAST:
            self._write(ops, reads, head.name, False)  # from either layout in one copy
        else:
            blocked = self._stays_blocked(head, reads)
            sources = tuple(self._in_layout(name, blocked, ops) for name in reads)
            over = sources if head.kind in _OVERWRITING else ()
            self._write(ops, sources, block.name, blocked, over)

    def _elementwise(self, op: Op) -> None:
        """An operator on one operand, in its layout, with a buffer of its own."""
        (source,) = op.inputs
        self._write((op.name,), (source,), op.name, source in self.blocked)

    def _convolution(self, fused: Sequence[Op], conv: Op, reads: Sequence[str]) -> None:
        image, *others = reads
        summands = {name for op in fused if op.kind == "add" for name in op.inputs}
        added = [name for name in others if name in summands]
        ops, channels, result = tuple(op.name for op in fused), conv.shapes[0][1], fused[-1].name
        # Only constant weights are laid out in blocks; what is read and not added is a weight made from the image.
        if not _fits_blocks(conv) or added != others:
            sources = {name: self._in_layout(name, blocked=False, ops=ops) for name in reads}
            self._write(ops, tuple(sources.values()), result, False, tuple(sources[name] for name in added))
            return
        # Few channels (the image's) are read as they are.
        source = self._in_layout(image, blocked=channels >= BLOCK, ops=ops)
        if not added or all(name in self.blocked for name in added):
            self._write(ops, (source, *added), result, True, tuple(added))
            return
        # The other operand of the sum is plain: convolve, copy, then add.
        self._write(ops, (source,), conv.name, True)
        plain = self._in_layout(conv.name, blocked=False, ops=ops)
        summed = tuple(self._in_layout(name, blocked=False, ops=ops) for name in added)
        self._write(ops, (plain, *summed), result, False, (plain, *summed))

    def _attention(self, op: Op, ops: tuple[str, ...]) -> None:
        sources = tuple(self._in_layout(name, blocked=False, ops=ops) for name in op.inputs)
        query, key = op.shapes[0], op.shapes[1]
        scores = prod(query[:-1]) * key[-2] * op.out.itemsize
        self.steps.append(Step(ops, sources, f"{op.name} scores", scores))
        self.steps.append(Step(ops, (f"{op.name} scores",), f"{op.name} softmax", scores))
        self._write(ops, (*sources, f"{op.name} softmax"), op.name, False)

    def _stays_blocked(self, op: Op, reads: Sequence[str]) -> bool:
        shape = op.out.shape
        if not reads or len(shape) != 4:
            return False
        if op.kind in _POOLS:
            return op.shapes[0][1] % BLOCK == 0
        if not all(name in self.blocked for name in reads):
            return False
        if op.kind in _BINARY:
            return len(op.inputs) == 2 and op.shapes[0] == op.shapes[1] and op.kind in ("add", "mul")
        if op.kind == "cat":
            return op.arguments.get("dim") == 1 and all(entry[1] % BLOCK == 0 for entry in op.shapes)
        if op.kind in ("upsample_nearest2d", "upsample_bilinear2d"):
            return all(new % old == 0 for new, old in zip(shape[2:], op.shapes[0][2:], strict=True))
        return op.kind in ACTIVATIONS or op.kind == "batch_norm"

    def _in_layout(self, name: str, blocked: bool, ops: tuple[str, ...]) -> str:
        """The value in this layout; copied once when it is in the other one."""
        if (name in self.blocked) is blocked:
            return name
        if name not in self.other:
            self.other[name] = f"{name} copy"
            self.steps.append(Step(ops, (name,), f"{name} copy", self._bytes(name, blocked)))
        return self.other[name]

    def _write(
        self, ops: tuple[str, ...], reads: Sequence[str], result: str, blocked: bool, over: tuple[str, ...] = ()
    ) -> None:
        if blocked:
            self.blocked.add(result)
        self.steps.append(Step(ops, tuple(reads), result, self._bytes(result, blocked), over))

    def _bytes(self, name: str, blocked: bool) -> int:
        value = self.values[name]
        if not blocked:
            return self.total.get(name, value.bytes)
        batch, channels, *rest = value.shape
        return batch * -(-channels // BLOCK) * BLOCK * prod(rest) * value.itemsize


def _in_order(found: Sequence[Block], traced: Trace, place: Mapping[str, int]) -> Iterator[Block]:
    """Depth first from the outputs, of several operands the one defined last first: ONNX Runtime's default order."""
    maker = {op.name: block for block in found for op in block.ops}
    done: set[str] = set()
    ends = [maker[name] for name in traced.outputs if name in maker]
    stack = [(block, False) for block in [*sorted(found, key=lambda block: -place[block.name]), *ends]]
    while stack:
        block, ready = stack.pop()
        if block.name in done:
            continue
        if ready:
            done.add(block.name)
            yield block
            continue
        stack.append((block, True))
        inputs = {name for op in block.ops for name in op.inputs if name in maker and maker[name] is not block}
        sources = {maker[name].name: maker[name] for name in inputs}
        stack += [(one, False) for one in sorted(sources.values(), key=lambda one: place[one.name])]


def _bytes_of_all_results(traced: Trace) -> dict[str, int]:
    """Splitting operators have several results, of which ``Op.out`` is the first."""
    found = {}
    for node in traced.program.graph.nodes:
        value = node.meta.get("val")
        if node.name in traced.by_name and isinstance(value, (list, tuple)):
            found[node.name] = sum(one.numel() * one.element_size() for one in value)
    return found


def _fits_blocks(conv: Op) -> bool:
    """Whether the blocked kernels take this convolution; others run on plain (B, C, H, W)."""
    channels, groups = conv.shapes[0][1], int(conv.arguments.get("groups", 1))
    if conv.kind != "conv2d" or conv.arguments.get("transposed"):
        return False
    if groups == 1:
        return channels < BLOCK or channels % 4 == 0
    if groups == channels:
        return channels == conv.out.shape[1]
    return channels // groups % BLOCK == 0 and conv.out.shape[1] // groups % BLOCK == 0


def _only_moves_ones(op: Op) -> bool:
    """A permutation that moves only axes of length 1 changes nothing in memory."""
    axes = len(op.out.shape)
    if op.kind == "permute":
        order = [dim % axes for dim in op.arguments["dims"]]
    elif op.kind == "transpose":
        order = list(range(axes))
        first, second = (op.arguments[name] % axes for name in ("dim0", "dim1"))
        order[first], order[second] = order[second], order[first]
    else:
        return False
    moved = [axis for axis in order if op.shapes[0][axis] != 1]
    return moved == sorted(moved)
