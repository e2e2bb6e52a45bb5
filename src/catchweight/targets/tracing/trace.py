"""What a network computes, operator by operator: the one graph that counting, blocks and predictors read."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from ...errors import CatchweightError, UsageError
from .graph import evaluating

IMAGE = "image"
"""Name of the network's input among the inputs of operators."""

_SAME = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "hardtanh_": "hardtanh",
    "relu_": "relu",
    "add_": "add",
    "mul_": "mul",
    "silu_": "silu",
    "hardswish_": "hardswish",
    "convolution": "conv2d",
    "native_layer_norm": "layer_norm",
    **dict.fromkeys(("reshape", "_unsafe_view", "flatten", "unflatten"), "view"),
}
"""Operators of one kind. ``reshape`` and its like become ``view`` in an exportable trace, and must be found again."""
_NOTHING = {"dropout", "dropout_", "feature_dropout", "detach", "alias", "lift_fresh_copy", "contiguous", "to"}
"""Operators that do nothing in evaluation mode; what they hand on is the name of their input."""


@dataclass(frozen=True)
class Value:
    """Shape and bytes per element of a tensor."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def numel(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def bytes(self) -> int:
        return self.numel * self.itemsize


@dataclass(frozen=True)
class Op:
    """One operator call of the evaluation graph.

    Attributes:
        name: unique in the graph; also the name by which the ONNX file made from the same program knows it.
        kind: ATen's name without overload or trailing underscore, e.g. ``conv2d``, ``add``, ``upsample_bilinear2d``.
        module: dotted path of the module that makes the call; "" for the network itself.
        module_type: class name of that module.
        inputs: names of the operators (or ``image``) whose results it reads, constants left out.
        shapes: of those inputs, in order.
        out: its result; of several results the first.
        weights: parameters and buffers it reads, by dotted path.
        arguments: all other arguments by their schema's names (numbers, lists, flags).
        kernel: sides of a convolution's window, also where its weight is computed; empty for all else.
    """

    name: str
    kind: str
    module: str
    module_type: str
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    out: Value
    weights: Mapping[str, Value]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kernel: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Operators in execution order, of one (B, 3, H, W) input. What depends on weights alone is left out: runtimes
    compute it once, at loading."""

    ops: tuple[Op, ...]
    image: Value
    outputs: tuple[str, ...]
    program: ExportedProgram = field(repr=False, compare=False)

    @cached_property
    def readers(self) -> dict[str, tuple[Op, ...]]:
        """Who reads the result of each operator (and of the image)."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    @cached_property
    def by_name(self) -> dict[str, Op]:
        return {op.name: op for op in self.ops}


def trace(net: nn.Module, size: tuple[int, int], batch: int = 1, *, exportable: bool = False) -> Trace:
    """The operators of one evaluation pass over ``(batch, 3, H, W)``; nothing is computed.

    Args:
        exportable: bring the program into the form whose names survive into an ONNX file made from
            ``Trace.program`` (takes longer).

    Raises:
        UsageError: ``size`` or ``batch`` makes no sense.
        CatchweightError: the network cannot be traced (control flow that depends on pixels, say).
    """
    if min(*size, batch) < 1:
        raise UsageError(f"a trace needs a positive size and batch, but got size {size} and batch {batch}")
    parameter = next(net.parameters(), torch.empty(0))
    image = torch.zeros(batch, 3, *size, dtype=parameter.dtype, device=parameter.device)
    try:
        with evaluating(net), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(net, (image,), strict=False)
            if exportable:
                program = program.run_decompositions({})
    except Exception as error:  # whatever the network's own code raises under torch.export
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CatchweightError(f"{type(net).__name__} cannot be traced at {size[0]}x{size[1]}: {reason}") from error
    return read_program(program, Value(tuple(image.shape), image.element_size()))


def read_program(program: ExportedProgram, image: Value) -> Trace:
    """The operators of an exported program whose one input is ``image``."""
    signature = program.graph_signature
    constants = {
        spec.arg.name: str(spec.target)
        for spec in signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None
    }
    # Which name of ours a graph node stands for; nodes that do not depend on the image are absent.
    names: dict[str, str] = {spec.arg.name: IMAGE for spec in signature.input_specs if spec.arg.name not in constants}
    ops: list[Op] = []
    outputs: tuple[str, ...] = ()
    for node in program.graph.nodes:
        if node.op == "output":
            outputs = tuple(names[source.name] for source in node.all_input_nodes if source.name in names)
        if node.op != "call_function" or not any(source.name in names for source in node.all_input_nodes):
            continue
        kind = _kind(node)
        if node.target is operator.getitem or kind in _NOTHING or _contiguous_copy(node, kind):
            names[node.name] = names[node.all_input_nodes[0].name]
            continue
        ops.append(_op(node, kind, names, constants))
        names[node.name] = node.name
    return Trace(tuple(ops), image, outputs, program)


def _op(node: Node, kind: str, names: Mapping[str, str], constants: Mapping[str, str]) -> Op:
    sources = [source for source in _tensors(node) if source.name in names]
    weights = {
        constants[source.name]: _value(source.meta["val"]) for source in _tensors(node) if source.name in constants
    }
    module, module_type = _module(node)
    return Op(
        name=node.name,
        kind=kind,
        module=module,
        module_type=module_type,
        inputs=tuple(names[source.name] for source in sources),
        shapes=tuple(_value(source.meta["val"]).shape for source in sources),
        out=_value(node.meta["val"]),
        weights=weights,
        arguments=_arguments(node),
        kernel=_kernel(node, kind),
    )


def _kind(node: Node) -> str:
    if not hasattr(node.target, "_schema"):
        return getattr(node.target, "__name__", str(node.target))
    name = node.target._schema.name.split("::")[-1]
    return _SAME.get(name, name.removesuffix("_") if not name.startswith("__") else name)


def _kernel(node: Node, kind: str) -> tuple[int, ...]:
    """From the weight as it is read: it may be no parameter but computed from some, or from the image."""
    if not kind.startswith("conv"):
        return ()
    weight: Any = node.args[1]
    return _value(weight.meta["val"]).shape[2:]


def _contiguous_copy(node: Node, kind: str) -> bool:
    """What ``contiguous`` and a ``reshape`` that must copy leave in an exportable trace, beside a ``view``."""
    return kind == "clone" and node.kwargs.get("memory_format") is torch.contiguous_format


def _tensors(node: Node) -> Iterator[Node]:
    """Argument nodes in order of the call, as often as they occur (a tensor added to itself is read twice)."""
    for argument in (*node.args, *node.kwargs.values()):
        if isinstance(argument, Node):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from (entry for entry in argument if isinstance(entry, Node))


def _arguments(node: Node) -> dict[str, Any]:
    if not hasattr(node.target, "_schema"):
        return {}
    known = node.target._schema.arguments
    given: dict[str, Any] = {
        argument.name: argument.default_value for argument in known if argument.has_default_value()
    }
    given |= {argument.name: value for argument, value in zip(known, node.args, strict=False)}
    given |= node.kwargs
    return {name: value for name, value in given.items() if not _holds_node(value)}


def _holds_node(value: Any) -> bool:
    return isinstance(value, Node) or (
        isinstance(value, (list, tuple)) and any(isinstance(entry, Node) for entry in value)
    )


def _module(node: Node) -> tuple[str, str]:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1]
    # A module called twice is "name@1" the second time.
    return str(path).split("@")[0], str(getattr(kind, "__name__", kind)).split(".")[-1]


def _value(value: Any) -> Value:
    if isinstance(value, (list, tuple)):
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return Value((), 8)
    return Value(tuple(int(length) for length in value.shape), value.element_size())
