"""How much memory activations need: which tensors exist at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.fx import Node

from ...errors import unknown
from .runtime_steps import Step, runtime_steps
from .trace import IMAGE, Trace

Mode = Literal["runtime", "eager"]
MODES: tuple[Mode, ...] = ("runtime", "eager")


@dataclass(frozen=True)
class Liveness:
    """Activations in memory while each operator runs.

    Attributes:
        mode: "runtime" or "eager".
        peak_bytes: the largest of ``curve``.
        peak_op: name of the operator that runs at the peak.
        curve: bytes that exist while operator i of the trace runs, input and results included.
    """

    mode: Mode
    peak_bytes: int
    peak_op: str
    curve: tuple[int, ...]


def liveness(traced: Trace, mode: Mode = "runtime") -> Liveness:
    """Bytes of activations by liveness analysis (Aho, Lam, Sethi, Ullman, Compilers, 2006, ch. 9).

    A buffer exists from the operator that writes it to its last reader; the image exists throughout and outputs to
    the end, as they are the caller's.

    Args:
        mode: "runtime": as ONNX Runtime computes on a processor, see :func:`.runtime_steps`.
            "eager": each operator writes a buffer of its own, views share storage, ``relu_`` and its like
            overwrite. A lower bound of eager torch, where a module's variables hold some tensors longer.

    Raises:
        UsageError: no such mode.
    """
    if mode not in MODES:
        raise unknown("mode of liveness", str(mode), MODES)
    steps = runtime_steps(traced) if mode == "runtime" else _eager_steps(traced)
    by_step = live_bytes(steps, traced.image.bytes, traced.outputs)
    curve = _by_op(traced, steps, by_step)
    if not curve:
        return Liveness(mode, traced.image.bytes, IMAGE, ())
    peak = max(range(len(curve)), key=curve.__getitem__)
    return Liveness(mode, curve[peak], traced.ops[peak].name, curve)


def live_bytes(steps: Sequence[Step], image_bytes: int, outputs: Iterable[str]) -> list[int]:
    """Bytes that exist while each step runs.

    A step that may overwrite an operand does so when it is the last to read that buffer and the result has exactly
    its bytes; the image and the outputs are never overwritten.
    """
    last = {name: index for index, step in enumerate(steps) for name in (*step.reads, step.result)}
    kept = {IMAGE, *outputs}
    last |= dict.fromkeys(kept, len(steps))
    holder, size, born, dies = {IMAGE: IMAGE}, {IMAGE: image_bytes}, {IMAGE: 0}, {IMAGE: len(steps)}
    for index, step in enumerate(steps):
        free = (holder[name] for name in step.over)
        fitting = (one for one in free if size[one] == step.bytes and dies[one] <= index)
        target = holder[step.view] if step.view else next(fitting, step.result)
        holder[step.result] = target
        size.setdefault(target, step.bytes)
        born.setdefault(target, index)
        dies[target] = max(dies.get(target, 0), last[step.result])
    change = [0] * (len(steps) + 2)
    for name, count in size.items():
        change[born[name]] += count
        change[dies[name] + 1] -= count
    live, found = 0, []
    for index in range(len(steps)):
        live += change[index]
        found.append(live)
    return found


def _by_op(traced: Trace, steps: Sequence[Step], by_step: Sequence[int]) -> tuple[int, ...]:
    """The largest of each operator's steps; operators that run as part of another have that one's."""
    most: dict[str, int] = {}
    for step, live in zip(steps, by_step, strict=True):
        for name in step.ops:
            most[name] = max(most.get(name, 0), live)
    return tuple(most[op.name] for op in traced.ops)


def _eager_steps(traced: Trace) -> list[Step]:
    nodes = {node.name: node for node in traced.program.graph.nodes}
    steps = []
    for op in traced.ops:
        node = nodes[op.name]
        storage = _storage(node)
        shares = storage is not None and any(_storage(source) == storage for source in node.all_input_nodes)
        view = op.inputs[0] if shares and op.inputs else None
        steps.append(Step((op.name,), op.inputs, op.name, result_bytes(node), view=view))
    return steps


def result_bytes(node: Node) -> int:
    """Bytes of all results of an operator call."""
    values = node.meta["val"] if isinstance(node.meta["val"], (list, tuple)) else (node.meta["val"],)
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor))


def _storage(node: Node) -> int | None:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None
