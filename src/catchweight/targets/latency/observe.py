"""Latency of every block of a network, read while the whole network runs: each block in its own context."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from torch import nn

from ...errors import CatchweightError, UsageError
from ...files import read_json, write_json
from ..clock.measure import Measurement, interleaved
from ..clock.rounds import Round, rounds
from ..target import Target
from ..tracing.blocks import Signature, blocks
from ..tracing.graph import save_graph, traced_graph
from ..tracing.trace import trace

RUNS, WARM = 40, 10
SECONDS = 1.0
"""Time limit of the profiled runs; they may take three times as long on a machine that is not itself."""
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Observed:
    """A block's signature, the module it comes from, and its milliseconds in one run of the whole network.

    They hold for the machine's usual pace, as ``Measurement.steady_ms`` does.
    """

    signature: Signature
    module: str
    ms: float


@dataclass(frozen=True)
class Observation:
    """One network's blocks with their times, and its latency as a whole.

    Attributes:
        rows: every block, also those the runtime computes for nothing (0 ms).
        rest_ms: kernels that belong to no block.
        kernels: how many kernels the runtime ran.
        whole: the network timed without any profiler.
        disturbed: whether the machine was not itself while either was taken, so that they do not belong together.
    """

    rows: tuple[Observed, ...]
    rest_ms: float
    kernels: int
    whole: Measurement
    disturbed: bool = False

    @property
    def sum_ms(self) -> float:
        """All kernels together; more than the whole, since the profiler's own work is in it."""
        return sum(row.ms for row in self.rows) + self.rest_ms


def observe(target: Target, net: nn.Module, size: tuple[int, int], seconds: float = 2.0) -> Observation:
    """Time every block of ``net`` at (H, W) on ``target``, in the context of the whole network.

    Raises:
        UsageError: this target's runtime cannot be observed kernel by kernel.
        CatchweightError: the network cannot be traced or exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepare(net, size, target, Path(folder))
        return observe_prepared(target, Path(folder), seconds)


def observable(target: Target) -> bool:
    """Whether :func:`observe` knows this target's runtime."""
    return str(target) in OBSERVERS


def prepare(net: nn.Module, size: tuple[int, int], target: Target, folder: Path) -> None:
    """The slow half of :func:`observe`, which may run in another process: trace, group, export into ``folder``."""
    traced = trace(net, size, target.batch, exportable=True)
    model, origins = traced_graph(traced.program)
    save_graph(model, folder / "network.onnx")
    found = blocks(traced, target.precision)
    owner = {op.name: place for place, block in enumerate(found) for op in block.ops}
    write_json(
        folder / "blocks.json",
        {
            "size": list(size),
            "blocks": [[block.signature.key, block.module] for block in found],
            "owner": {name: owner[op] for name, op in origins.items() if op in owner},
        },
    )


def observe_prepared(target: Target, folder: Path, seconds: float = 2.0) -> Observation:
    """The quick half: run what :func:`prepare` wrote."""
    if not observable(target):
        raise UsageError(
            f"{target} cannot be observed kernel by kernel, so it has no latency table; measure whole networks on it. "
            f"Tables can be made for: {', '.join(OBSERVERS)}"
        )
    plan: dict[str, Any] = read_json(folder / "blocks.json")
    seen = OBSERVERS[str(target)](target, folder / "network.onnx", plan["owner"])
    spent: dict[int, float] = defaultdict(float)
    for place, ms in seen.times:
        spent[place] += ms
    rows = tuple(
        Observed(Signature.from_key(key), module, spent.get(place, 0.0))
        for place, (key, module) in enumerate(plan["blocks"])
    )
    session = target.prepare(folder / "network.onnx", tuple(plan["size"]))
    (whole,) = interleaved([session], seconds)
    return Observation(rows, spent.get(_NOWHERE, 0.0), len(seen.times), whole, seen.disturbed or whole.disturbed)


_NOWHERE = -1


@dataclass(frozen=True)
class Kernels:
    """Block (or -1) and milliseconds of every kernel of a file, and whether the machine was not itself meanwhile."""

    times: list[tuple[int, float]]
    disturbed: bool


Observer = Callable[[Target, Path, Mapping[str, int]], Kernels]
"""Takes a target, an exported file, and the block of every name in it."""


def _onnxruntime(target: Target, path: Path, owner: Mapping[str, int]) -> Kernels:
    """ONNX Runtime's own profiler names every kernel after the node it was made from.

    A kernel that the runtime put in by itself (a change of memory layout) goes to the block whose result it
    rearranges, or, when it prepares an input, to the block that reads it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own untyped family
        raise CatchweightError(f"ONNX Runtime cannot load the network ({str(error).splitlines()[0]})") from error
    entry = session.get_inputs()[0]
    image = {entry.name: np.random.default_rng(0).standard_normal(entry.shape, dtype=np.float32)}
    profiled = _Profiled(lambda: session.run(None, image), target.threads)
    scales, disturbed = _profiled_runs(profiled)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    places = _Places(onnx.load(options.optimized_model_filepath, load_external_data=False), owner)
    times = [(places.of(kernel), ms) for kernel, ms in _kernel_times(events, scales).items()]
    return Kernels(times, disturbed)


class _Profiled:
    """A session under the runtime's profiler, which knows the number of each run that was timed."""

    runtime, batch = "profiled", 1

    def __init__(self, run: Callable[[], object], threads: int) -> None:
        self._run, self.threads = run, threads
        self.timed: list[int] = []
        self._done = 0

    def run(self) -> None:
        self._run()
        self._done += 1

    def timed_run(self) -> float:
        self.timed.append(self._done)
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()


def _profiled_runs(session: _Profiled) -> tuple[dict[int, float], bool]:
    """Run until enough runs had the machine to themselves.

    Returns:
        The number of each, and what brings it to the usual pace; and whether even these were disturbed.
    """

    def enough(good: Sequence[Round]) -> bool:
        return sum(len(turn.runs) for (turn,) in good) >= RUNS

    done = rounds([session], SECONDS, WARM, True, enough)
    scales: dict[int, float] = {}
    for number, (turn,) in zip(done.numbers, done.counted, strict=True):
        first = WARM + number * len(turn.runs)  # every turn has the same number of runs
        pace, usual = turn.pace_ms, done.usual_ms[0]
        scale = usual / pace if pace and usual else 1.0
        scales |= dict.fromkeys(session.timed[first : first + len(turn.runs)], scale)
    return scales, bool(done.disturbances)


def _kernel_times(events: Sequence[Mapping[str, Any]], scales: Mapping[int, float]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1000)
    return {
        name: _middle([durations[run] * scale for run, scale in scales.items()]) for name, durations in found.items()
    }


def _middle(values: Sequence[float]) -> float:
    """Mean of the middle half: the profiler counts whole microseconds, and a median would stay on one of them."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    kept = ordered[quarter : len(ordered) - quarter]
    return sum(kept) / len(kept) if kept else 0.0


class _Places:
    """Finds the block to which a kernel of the optimised graph belongs."""

    def __init__(self, optimised: onnx.ModelProto, owner: Mapping[str, int]) -> None:
        self.owner = owner
        self.nodes = {node.name: node for node in optimised.graph.node}
        self.makers = {result: node for node in optimised.graph.node for result in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in optimised.graph.node:
            for source in node.input:
                self.readers[source].append(node)

    def of(self, kernel: str) -> int:
        """Number of the block, or -1 if there is none."""
        node = self.nodes.get(kernel)
        known = self._named(kernel, node)
        if known is not None or node is None:
            return _NOWHERE if known is None else known
        makers = [self.makers[source] for source in node.input if source in self.makers]
        readers = [reader for result in node.output for reader in self.readers[result]]
        around = readers + makers if node.op_type == "ReorderInput" else makers + readers
        near = (self._named(other.name, other) for other in around)
        return next((place for place in near if place is not None), _NOWHERE)

    def _named(self, kernel: str, node: onnx.NodeProto | None) -> int | None:
        names = (kernel, kernel.removesuffix("_nchwc"), *(node.output if node is not None else ()))
        return next((self.owner[name] for name in names if name in self.owner), None)


OBSERVERS: dict[str, Observer] = {"onnxruntime:cpu": _onnxruntime}
"""Runtimes that can be observed; a new one is one function and one line."""
