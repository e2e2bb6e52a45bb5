"""Blocks: what a runtime runs as one piece, and the signature by which its latency is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .trace import IMAGE, Op, Trace

ACTIVATIONS = {
    "relu", "hardtanh", "clamp", "silu", "hardswish", "hardsigmoid", "sigmoid", "gelu", "leaky_relu", "elu", "tanh",
    "mish", "softplus",
}  # fmt: skip
VIEWS = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "unbind", "split",
    "split_with_sizes", "chunk", "select", "slice",
}  # fmt: skip
"""Operators that hand on their input's storage in eager torch; a runtime may still copy."""

_GROUPS = {
    "conv": {"conv2d", "conv_transpose2d", "conv1d", "conv3d"},
    "gemm": {"linear", "addmm", "mm", "bmm", "matmul", "scaled_dot_product_attention", "einsum"},
    "pool": {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"},
    "mean": {"mean", "sum", "amax", "max"},
    "resize": {"upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "grid_sampler"},
    "concat": {"cat", "stack"},
    "norm": {"layer_norm", "batch_norm", "group_norm", "instance_norm", "softmax", "_softmax", "log_softmax"},
    "layout": VIEWS | {"permute", "transpose", "clone", "pad", "constant_pad_nd", "pixel_shuffle", "roll", "t"},
}
GROUPS = (*_GROUPS, "depthwise", "elementwise")
"""Families of blocks that behave alike; a predictor corrects each by a factor of its own."""


@dataclass(frozen=True)
class Signature:
    """Everything a block's latency may depend on, and nothing else: equal signatures are measured once.

    Attributes:
        kind: operators run as one, e.g. ``conv2d+relu``, ``conv2d+add``, ``upsample_bilinear2d``.
        inputs: shape of every tensor that comes from another block, e.g. ``((1, 64, 45, 60),)``.
        output: shape of the result.
        kernel, stride, dilation: (rows, columns); (1, 1) where there are none.
        groups: of a convolution; 1 elsewhere.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        before, after: families of the blocks whose results it reads and which read its own: a runtime's memory
            layout depends on the neighbours. Empty in a signature without context.
    """

    kind: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    precision: str = "fp32"
    before: str = ""
    after: str = ""

    @property
    def key(self) -> str:
        """Short canonical text; equal keys, equal signatures."""
        return json.dumps(list(asdict(self).values()), separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> Signature:
        """Inverse of :attr:`key`."""
        kind, inputs, output, kernel, stride, dilation, groups, precision, before, after = json.loads(key)
        shapes = tuple(tuple(shape) for shape in inputs)
        return cls(
            kind, shapes, tuple(output), tuple(kernel), tuple(stride), tuple(dilation), groups, precision, before, after
        )

    @property
    def alone(self) -> Signature:
        """The same without its neighbours."""
        return replace(self, before="", after="")

    @property
    def group(self) -> str:
        """The family, one of :data:`GROUPS`; a convolution of one channel a group is ``depthwise``."""
        head = self.kind.split("+")[0]
        if head in _GROUPS["conv"]:
            return "depthwise" if self.groups > 1 and self.groups == self.inputs[0][1] else "conv"
        return next((name for name, kinds in _GROUPS.items() if head in kinds), "elementwise")

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products, 0 of all else."""
        head = self.kind.split("+")[0]
        if head in _GROUPS["conv"]:
            channels = self.inputs[0][1] // self.groups
            positions = self.inputs[0] if head == "conv_transpose2d" else self.output
            cells = positions[0] * positions[2] * positions[3] if len(positions) == 4 else _numel(positions)
            return cells * self.output[1] * channels * self.kernel[0] * self.kernel[1]
        if head == "scaled_dot_product_attention":
            query, key = self.inputs[0], self.inputs[1]
            return 2 * _numel(query) * key[-2]
        if head in _GROUPS["gemm"]:
            return _numel(self.output) * self.inputs[0][-1]
        return 0

    @property
    def weights(self) -> int:
        """Number of weights a convolution or linear layer reads."""
        head = self.kind.split("+")[0]
        if head in _GROUPS["conv"]:
            return self.output[1] * (self.inputs[0][1] // self.groups) * self.kernel[0] * self.kernel[1]
        return self.output[-1] * self.inputs[0][-1] if head in ("linear", "addmm") else 0

    @property
    def elements(self) -> int:
        """Activations read and written."""
        return sum(map(_numel, self.inputs)) + _numel(self.output)


@dataclass(frozen=True)
class Block:
    """Operators that run as one, in order; ``module`` is that of the first."""

    signature: Signature
    ops: tuple[Op, ...]

    @property
    def name(self) -> str:
        return self.ops[-1].name

    @property
    def module(self) -> str:
        return self.ops[0].module


def blocks(trace: Trace, precision: str = "fp32") -> tuple[Block, ...]:
    """Group a trace as runtimes fuse: padding, convolution, norm, activation and the residual addition are one.

    A follower joins only if it is the sole reader of what it follows. Whatever is not known to fuse is a block of
    its own, of whatever kind: nothing is skipped.
    """
    owner = _owners(trace)
    members: dict[str, list[Op]] = {}
    for op in trace.ops:
        members.setdefault(owner[op.name], []).append(op)
    bare = {name: _signature(ops, precision) for name, ops in members.items()}
    groups = {name: signature.group for name, signature in bare.items()}
    found = []
    for name, ops in members.items():
        before, after = _neighbours(name, ops, owner, groups, trace)
        found.append(Block(replace(bare[name], before=before, after=after), tuple(ops)))
    return tuple(found)


def _owners(trace: Trace) -> dict[str, str]:
    """For every operator, the name of the block it belongs to."""
    owner: dict[str, str] = {}
    state: dict[str, set[str]] = {}  # block -> what it has taken in already
    position = {op.name: place for place, op in enumerate(trace.ops)}
    for op in trace.ops:
        host = _host(op, owner, state, trace, position)
        owner[op.name] = host or op.name
        state.setdefault(owner[op.name], set()).add(_role(op))
    return owner


_AFTER = {
    "conv": {"pad"},
    "norm": {"conv"},
    "activation": {"conv", "norm", "add"},
    "add": {"conv", "norm"},
}
"""Roles that may come right before; ``conv`` is the anchor of every fused block."""


def _role(op: Op) -> str:
    if op.kind in _GROUPS["conv"]:
        return "conv"
    if op.kind == "batch_norm":
        return "norm"
    if op.kind in ACTIVATIONS:
        return "activation"
    if op.kind == "add" and len(op.inputs) == 2 and op.shapes[0] == op.shapes[1]:
        return "add"
    if op.kind in ("pad", "constant_pad_nd"):
        return "pad"
    return op.kind


def _host(
    op: Op, owner: dict[str, str], state: dict[str, set[str]], trace: Trace, position: Mapping[str, int]
) -> str | None:
    role = _role(op)
    if role not in _AFTER:
        return None
    # Of two inputs the one computed last is free to take the addition in: the other is already there.
    sources = sorted((name for name in op.inputs if name != IMAGE), key=lambda name: position[name], reverse=True)
    for source in sources:
        previous = trace.by_name[source]
        only = len(trace.readers[source]) == 1 and source not in trace.outputs
        if not only or _role(previous) not in _AFTER[role]:
            continue
        host = owner[source]
        if role in state[host] or (role != "conv" and "conv" not in state[host]):
            continue
        return host
    return None


def _signature(ops: Sequence[Op], precision: str) -> Signature:
    inside = {op.name for op in ops}
    anchor = next((op for op in ops if _role(op) == "conv"), ops[0])
    outer = [shape for op in ops for name, shape in zip(op.inputs, op.shapes, strict=True) if name not in inside]
    if _role(anchor) == "conv" and ops[0] is not anchor:  # padding is the convolution's own affair
        outer[0] = ops[0].shapes[0]
    kinds = [op.kind for op in ops if _role(op) not in ("norm", "pad")] or [anchor.kind]
    kernel, stride, dilation, groups = _window(anchor)
    return Signature("+".join(kinds), tuple(outer), ops[-1].out.shape, kernel, stride, dilation, groups, precision)


def _window(op: Op) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    values: Mapping[str, Any] = op.arguments
    kernel = op.kernel or values.get("kernel_size") or (1, 1)
    stride = values.get("stride") or (kernel if op.kind in _GROUPS["pool"] else (1, 1))
    return _pair(kernel), _pair(stride), _pair(values.get("dilation") or 1), int(values.get("groups") or 1)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = [int(entry) for entry in value]
    return (values[0], values[-1]) if values else (1, 1)


def _neighbours(
    name: str, ops: Sequence[Op], owner: Mapping[str, str], groups: Mapping[str, str], trace: Trace
) -> tuple[str, str]:
    inside = {op.name for op in ops}
    before = {
        groups[owner[source]] if source != IMAGE else IMAGE
        for op in ops
        for source in op.inputs
        if source not in inside
    }
    after = {
        groups[owner[reader.name]]
        for op in ops
        for reader in trace.readers.get(op.name, ())
        if reader.name not in inside
    }
    if any(op.name in trace.outputs for op in ops):
        after.add("output")
    return "/".join(sorted(before)), "/".join(sorted(after))


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
