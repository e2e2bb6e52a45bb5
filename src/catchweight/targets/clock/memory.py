"""Peak memory of inference, measured as resident memory of a fresh process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import CatchweightError
from ..tracing.graph import evaluating, fixed_input, to_onnx

_CHILD = Path(__file__).with_name("memory_child.py")
_WARM_SHAPE = (1, 3, 32, 32)
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
_LIMIT = 300  # seconds


@dataclass(frozen=True)
class Memory:
    """Bytes of resident memory above a process that has the runtime loaded and has run a tiny network.

    Attributes:
        weights_bytes: held by the loaded network: weights, also those repacked for the processor, and the graph.
        activation_bytes: the peak of a run above that: input, output, activations and operators' workspaces.
        loading_bytes: the peak while the network was loaded.
    """

    weights_bytes: int
    activation_bytes: int
    loading_bytes: int

    @property
    def total_bytes(self) -> int:
        """Peak while running: weights and activations."""
        return self.weights_bytes + self.activation_bytes


def file_memory(
    path: Path, size: tuple[int, int] | None, batch: int = 1, threads: int = 1, *, pooled: bool = True
) -> Memory:
    """Memory of an ONNX file at (H, W) in ONNX Runtime on the processor.

    Args:
        pooled: as ONNX Runtime runs unless told otherwise: freed buffers stay in its arena, which grows by powers of
            two, and the buffers of a run come in one block (its memory pattern). Without, every buffer of 64 kB or
            more goes back to the system when it is freed, so the peak is that of live buffers: what counts by
            liveness predict, and the least that the runtime can do with.

    Raises:
        CatchweightError: the file cannot be run, or the system is not Linux.
        UsageError: the file is for another size or batch, or takes any and none was named.
    """
    from ..runtimes.file_target import run_shape  # here: it imports the targets, which import this

    fixed_batch, fixed_size = fixed_input(path)
    shape = run_shape(path, (fixed_batch, 3, *(fixed_size or (None, None))), batch, size)
    with tempfile.TemporaryDirectory() as folder:
        warm = to_onnx(_tiny(), Path(folder) / "warm.onnx", _WARM_SHAPE[2:])
        request = {"kind": "onnx", "path": str(path), "shape": shape, "warm": str(warm), "threads": threads}
        return _measured({**request, "pooled": pooled})


def module_memory(net: nn.Module, size: tuple[int, int], batch: int = 1, threads: int = 1) -> Memory:
    """Memory of a network's graph, as torch.export traces it, run operator by operator in torch on the processor.

    torch keeps no pool on the processor; the workspaces in which it repacks weights at each run are in the peak.

    Raises:
        CatchweightError: the network cannot be traced or run, or the system is not Linux.
    """
    parameter = next(net.parameters(), torch.empty(0))
    shape = (batch, 3, *size)
    with tempfile.TemporaryDirectory() as folder:
        path, warm = Path(folder) / "network.pt2", Path(folder) / "warm.pt2"
        _save(net, torch.zeros(shape, dtype=parameter.dtype), path)
        _save(_tiny().to(parameter.dtype), torch.zeros(_WARM_SHAPE, dtype=parameter.dtype), warm)
        request = {"kind": "torch", "path": str(path), "shape": shape, "warm": str(warm), "threads": threads}
        return _measured({**request, "pooled": False, "dtype": str(parameter.dtype).removeprefix("torch.")})


def _save(net: nn.Module, example: torch.Tensor, path: Path) -> None:
    try:
        with evaluating(net):
            torch.export.save(torch.export.export(net, (example,)), path)
    except Exception as error:  # torch.export wraps whatever the network's own code raised
        reason = str(error).strip().splitlines()[:1]
        raise CatchweightError(f"{type(net).__name__} cannot be traced: {''.join(reason)}") from error


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))


def _measured(request: dict[str, Any]) -> Memory:
    if not Path("/proc/self/clear_refs").exists():
        raise CatchweightError("peak memory is measured through /proc, which only Linux has")
    try:
        child = subprocess.run(
            [sys.executable, str(_CHILD)],
            input=json.dumps({**request, "warm_shape": _WARM_SHAPE}),
            capture_output=True,
            text=True,
            env={**os.environ, **_MALLOC},
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CatchweightError(
            f"peak memory of {request['path']} cannot be measured: a run of it takes more than {_LIMIT} s"
        ) from error
    if child.returncode:
        raise CatchweightError(f"peak memory of {request['path']} cannot be measured: {_reason(child)}")
    read = json.loads(child.stdout)
    return Memory(
        weights_bytes=read["loaded"] - read["baseline"],
        activation_bytes=read["peak"] - read["loaded"],
        loading_bytes=read["loading"] - read["baseline"],
    )


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return f"its process was killed ({name}), as the system does when memory is short; free some, then run it again"
    return (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
