"""Eager PyTorch, watched by marks between the operators of the traced network.

The network's operators are called in their order with a mark after each: a reading of the clock on the processor, an
event in the stream on a GPU. The time from mark to mark is what an operator adds to the whole, whether the device
computes or waits for the next launch: small networks on a large GPU are all waiting.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.fx import GraphModule

from ....errors import CatchweightError
from ...clock.rounds import Session
from ...runtimes.torch_target import TorchSession, converted
from ...target import Target
from ...tracing.trace import Trace, trace
from .base import NOWHERE, Kernels, Observer, Watched, middle, watched_runs

FILE = "network.pt2"
_MARKS = "catchweight_marks"


class EagerObserver(Observer):
    """Operators of the exported program, which are those that the network's own code calls."""

    def write(
        self, net: nn.Module, size: tuple[int, int], target: Target, folder: Path
    ) -> tuple[Trace, dict[str, str]]:
        traced = trace(converted(net, target.precision, target.device), size, target.batch)
        with warnings.catch_warnings():  # torch's own notes about how it stores weights
            warnings.simplefilter("ignore")
            torch.export.save(traced.program, folder / FILE)
        return traced, _origins(traced)

    def kernels(self, target: Target, folder: Path, size: tuple[int, int], owner: Mapping[str, int]) -> Kernels:
        with warnings.catch_warnings():  # ... and copies graphs
            warnings.simplefilter("ignore")
            graph, names = marked(torch.export.load(folder / FILE), target.device)
            session = target.prepare(graph, size)
        assert isinstance(session, TorchSession), "eager targets make eager sessions"
        marks = session.net.get_submodule(_MARKS)  # the session may hold a copy of the network
        assert isinstance(marks, Marks)
        runs: list[list[float]] = []

        def run() -> None:
            session.run()
            runs.append(marks.intervals())

        with session.ready():
            scales, disturbed = watched_runs(Watched(run, target.threads, target.device))
        times = [
            (owner.get(name, NOWHERE), middle([runs[number][place] * scale for number, scale in scales.items()]))
            for place, name in enumerate(names)
        ]
        return Kernels(times, disturbed)

    def whole(
        self, target: Target, folder: Path, size: tuple[int, int], build: Callable[[], nn.Module] | None
    ) -> Session:
        if build is None:
            raise CatchweightError(f"{target} runs networks, not files: it cannot be profiled from files alone")
        return target.prepare(build(), size)


def _origins(traced: Trace) -> dict[str, str]:
    """The traced operator behind every operator of the program.

    What depends on weights alone is not in the trace, for runtimes compute it once. Eager PyTorch does it at every run:
    it belongs to the operator that reads it.
    """
    found = {op.name: op.name for op in traced.ops}
    for node in reversed(list(traced.program.graph.nodes)):
        reader = next((found[user.name] for user in node.users if user.name in found), None)
        if node.op == "call_function" and node.name not in found and reader:
            found[node.name] = reader
    return found


class Marks(nn.Module):
    """Called between operators with the number of the place; remembers when it was passed.

    Args:
        count: of the intervals, one less than places.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, count: int, device: str) -> None:
        super().__init__()
        self.count, self.on_gpu = count, device == "cuda"
        self._stamps: list[float] = [0.0] * (count + 1)
        self._events: list[torch.cuda.Event] = []

    def forward(self, place: int) -> None:
        if not self.on_gpu:
            self._stamps[place] = time.perf_counter()
            return
        if not self._events:  # not before the module is where it stays: events cannot be copied
            self._events = [torch.cuda.Event(enable_timing=True) for _ in self._stamps]
        self._events[place].record()

    def intervals(self) -> list[float]:
        """Milliseconds between neighbouring places in the last run, which must be over."""
        if self.on_gpu:
            return [a.elapsed_time(b) for a, b in zip(self._events, self._events[1:], strict=False)]
        return [1000 * (b - a) for a, b in zip(self._stamps, self._stamps[1:], strict=False)]


def marked(program: torch.export.ExportedProgram, device: str) -> tuple[GraphModule, list[str]]:
    """The program as a module with a mark before its first operator and after each; the operators' names."""
    module = program.module()
    assert isinstance(module, GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and not node.users:  # checks of the input that torch.export adds
            graph.erase_node(node)
    calls = [node for node in graph.nodes if node.op == "call_function"]
    module.add_module(_MARKS, Marks(len(calls), device))
    with graph.inserting_before(calls[0]):
        graph.call_module(_MARKS, (0,))
    for place, node in enumerate(calls, start=1):
        with graph.inserting_after(node):
            graph.call_module(_MARKS, (place,))
    # A module of its own: the exported one refuses eval().
    return GraphModule(module, graph), [node.name for node in calls]
