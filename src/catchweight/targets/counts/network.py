"""Costs that need no clock: multiply-adds, parameters, bytes of weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..tracing.graph import evaluating
from ..tracing.liveness import liveness, result_bytes
from ..tracing.trace import trace
from .macs import node_macs


@dataclass(frozen=True)
class OpCount:
    """One operator call.

    Attributes:
        macs: multiply-adds; None when nobody here knows how to count this operator.
        bytes: moved at least: inputs read once, weights read once, results written once; 0 for a view.
        live_bytes: activations that exist while it runs (see :mod:`.liveness`).
    """

    name: str
    kind: str
    module: str
    macs: int | None
    bytes: int
    live_bytes: int


@dataclass(frozen=True)
class ModuleCount:
    """One module with everything inside it.

    Attributes:
        path: dotted; "" for the network.
        type: class name.
        macs: of all calls inside it; counted operators only.
        params: a parameter shared inside it counts once.
        weights_bytes: of its parameters and buffers that evaluation reads.
        peak_bytes: most activations that exist while one of its operators runs.
        complete: False when an operator inside it could not be counted.
    """

    path: str
    type: str
    macs: int
    params: int
    weights_bytes: int
    peak_bytes: int
    complete: bool


@dataclass(frozen=True)
class Unsupported:
    """Operators of one kind whose multiply-adds are unknown: in which modules, how many calls."""

    kind: str
    calls: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """What a network costs at (batch, 3, H, W), by operator and by module.

    Attributes:
        macs: multiply-adds of the batch; a lower bound when ``unsupported`` is not empty.
        params: as :func:`count_params`, auxiliary heads included.
        weights_bytes: parameters and buffers that evaluation reads, in the network's own precision.
        activation_bytes: peak by liveness, input and outputs included.
        peak_op: name of the operator at the peak.
        ops: in execution order.
        modules: every module that computes something, in order of definition, the network itself first.
    """

    size: tuple[int, int]
    batch: int
    macs: int
    params: int
    weights_bytes: int
    activation_bytes: int
    peak_op: str
    ops: tuple[OpCount, ...]
    modules: tuple[ModuleCount, ...]
    unsupported: tuple[Unsupported, ...]

    @cached_property
    def by_module(self) -> dict[str, ModuleCount]:
        return {module.path: module for module in self.modules}

    def to_depth(self, depth: int) -> tuple[ModuleCount, ...]:
        """Modules at most ``depth`` dots below the network; 0 is the network alone."""
        return tuple(one for one in self.modules if (one.path.count(".") + 1 if one.path else 0) <= depth)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def count(net: nn.Module, size: tuple[int, int], batch: int = 1) -> Counts:
    """Count one evaluation pass over ``(batch, 3, H, W)``; nothing is computed.

    Multiply-adds are those of convolutions, linear layers, matrix products and attention. Elementwise work,
    norms, pooling and interpolation are free, as is the field's habit (``macs.FREE`` lists them); what is neither
    counted nor free is in ``Counts.unsupported``.

    Raises:
        CatchweightError, UsageError: as :func:`trace`.
    """
    traced = trace(net, size, batch)
    nodes = {node.name: node for node in traced.program.graph.nodes}
    life = liveness(traced)
    ops = tuple(
        OpCount(op.name, op.kind, op.module, node_macs(nodes[op.name]), _moved(nodes[op.name]), live)
        for op, live in zip(traced.ops, life.curve, strict=True)
    )
    read = _read_weights(net, traced.program)
    return Counts(
        size=size,
        batch=batch,
        macs=sum(op.macs or 0 for op in ops),
        params=count_params(net),
        weights_bytes=_bytes(read.values()),
        activation_bytes=life.peak_bytes,
        peak_op=life.peak_op,
        ops=ops,
        modules=tuple(_modules(net, ops, read)),
        unsupported=_unsupported(ops),
    )


def count_params(net: nn.Module) -> int:
    """Number of parameters, shared ones counted once; buffers are not parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one (1, 3, H, W) image: ``count(net, size).macs``, several times as fast.

    Counted by torch's own flop counter on fake tensors: nothing is computed, and nothing is said about operators
    that it does not know; :func:`count` does.
    """
    parameter = next(net.parameters(), torch.empty(0))
    counter, fake = FlopCounterMode(display=False), FakeTensorMode(allow_non_fake_inputs=True)
    # A network may keep tensors from run to run, and must not keep fake ones: a copy runs, whose tensors have no data.
    with FakeCopyMode(fake):
        shadow = copy.deepcopy(net)
    # Attention as plain products: not every version of torch counts its fused kernel for processors.
    with evaluating(shadow), sdpa_kernel(SDPBackend.MATH), fake, counter:
        shadow(torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device))
    return int(counter.get_total_flops()) // 2


def _moved(node: Node) -> int:
    """Inputs and weights read once, results written once; a view moves nothing."""
    if _is_view(node):
        return 0
    sources = {source.name: source for source in node.all_input_nodes}
    return result_bytes(node) + sum(result_bytes(source) for source in sources.values())


def _is_view(node: Node) -> bool:
    return bool(getattr(node.target, "is_view", False))


def _read_weights(net: nn.Module, program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters and buffers that the evaluation graph reads, by the dotted path of their (first) owner."""
    used = {node.name for node in program.graph.nodes if node.users}
    paths = {spec.target for spec in program.graph_signature.input_specs if spec.arg.name in used and spec.target}
    owned = dict([*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)])
    return {path: owned[path] for path in sorted(paths) if path in owned}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def _modules(net: nn.Module, ops: Iterable[OpCount], read: Mapping[str, torch.Tensor]) -> Iterator[ModuleCount]:
    inside: dict[str, list[OpCount]] = {}
    for op in ops:
        for path in _ancestors(op.module):
            inside.setdefault(path, []).append(op)
    for path, module in net.named_modules(remove_duplicate=False):
        calls = inside.get(path)
        if calls is None:
            continue
        start = f"{path}." if path else ""
        yield ModuleCount(
            path=path,
            type=type(module).__name__,
            macs=sum(op.macs or 0 for op in calls),
            params=count_params(module),
            weights_bytes=_bytes(tensor for name, tensor in read.items() if name.startswith(start)),
            peak_bytes=max(op.live_bytes for op in calls),
            complete=all(op.macs is not None for op in calls),
        )


def _ancestors(path: str) -> list[str]:
    """``a.b.c`` to "", a, a.b, a.b.c."""
    parts = path.split(".") if path else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _unsupported(ops: Iterable[OpCount]) -> tuple[Unsupported, ...]:
    found: dict[str, list[str]] = {}
    for op in ops:
        if op.macs is None:
            found.setdefault(op.kind, []).append(op.module)
    return tuple(
        Unsupported(kind, len(modules), tuple(dict.fromkeys(modules))) for kind, modules in sorted(found.items())
    )
