"""A device that does not exist: a file's latency is a formula of its weights, so that no test waits or wavers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

import catchweight.compress.landing as landing
import catchweight.compress.quantize.trials as trials
import catchweight.fitting.race as race
import catchweight.fitting.space_route as space_route
import catchweight.targets.target as target_module
from catchweight.targets import RUNTIMES, OnnxRuntimeCpu
from catchweight.targets.clock.measure import Measurement
from catchweight.targets.runtimes.quantized import is_quantized

MS_PER_MB = 10.0
INT8 = 2.2
"""How much slower this device reads a byte of an int8 file: about 1.6 times as fast remain."""


@dataclass
class FormulaSession:
    """A file that is never run."""

    ms: float
    threads: int
    batch: int
    runtime: str = "formula"

    def run(self) -> None:
        raise AssertionError("nothing runs on this device")

    def ready(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class FormulaTarget(OnnxRuntimeCpu):
    """Exports and opens files as ONNX Runtime's target does; ``int8`` is the factor above."""

    int8 = INT8

    def open(self, path: Path, size: tuple[int, int] | None) -> FormulaSession:  # type: ignore[override]
        return FormulaSession(file_ms(path, self.int8), self.threads, self.batch)


def file_ms(path: Path, int8: float = INT8) -> float:
    """By the bytes of the weights and the pixels of the input."""
    graph = onnx.load(path).graph
    weights = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)
    height, width = (axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[2:])
    return MS_PER_MB * weights / 1e6 * height * width / 64**2 * (int8 if is_quantized(path) else 1.0)


def exact(sessions: Sequence[Any], seconds: float = 5.0, **_: Any) -> list[Measurement]:
    """What ``interleaved`` would say if nothing ever disturbed it."""
    return [
        Measurement(*(5 * [s.ms]), n=30, threads=s.threads, batch=s.batch, runtime=s.runtime, turns=tuple(12 * [s.ms]))
        for s in sessions
    ]


def install(patch: pytest.MonkeyPatch, int8: float = INT8) -> None:
    """Make ``onnxruntime:cpu`` this device."""
    kind = type("FormulaTarget", (FormulaTarget,), {"int8": int8})
    patch.setitem(RUNTIMES, "onnxruntime:cpu", kind)
    for module in (landing, trials, target_module):
        patch.setattr(module, "interleaved", exact)
    for module in (race, space_route):
        patch.setattr(module, "observable", lambda target: False)


@contextlib.contextmanager
def formula(int8: float = INT8) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch, int8)
        yield patch


__all__ = ["FormulaTarget", "exact", "file_ms", "formula", "install"]
