"""Run by :mod:`.memory` in a process of its own, as a script: it imports nothing but the runtime it measures.

Reads one JSON object on stdin, writes one on stdout. Resident memory is read from /proc: before the network is loaded,
after, and at its highest while it runs. Inputs are ones: pages of zeros need not be resident.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_RUNS = 3


def main() -> None:
    sys.path.pop(0)  # this file's folder, whose modules must not stand in for others of their names
    request = json.load(sys.stdin)
    json.dump({"onnx": _onnx, "torch": _torch}[request["kind"]](request), sys.stdout)


def _onnx(request: dict[str, Any]) -> dict[str, int]:
    import numpy as np
    import onnxruntime

    def session(path: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = options.enable_mem_pattern = request["pooled"]
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def prepare(path: str, shape: list[int]) -> Callable[[], object]:
        loaded = session(path)
        name = loaded.get_inputs()[0].name

        def run() -> None:
            binding = loaded.io_binding()
            image = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(shape, np.float32))
            binding.bind_ortvalue_input(name, image)
            for output in loaded.get_outputs():
                binding.bind_output(output.name)
            loaded.run_with_iobinding(binding)

        return run

    return _measured(prepare, request)


def _torch(request: dict[str, Any]) -> dict[str, int]:
    import torch

    torch.set_num_threads(request["threads"])

    def prepare(path: str, shape: list[int]) -> Callable[[], object]:
        net = torch.export.load(path).module()
        dtype = getattr(torch, request["dtype"])

        def run() -> None:
            with torch.inference_mode():
                net(torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last))

        return run

    return _measured(prepare, request)


def _measured(prepare: Callable[[str, list[int]], Callable[[], object]], request: dict[str, Any]) -> dict[str, int]:
    """``request["warm"]`` is a tiny network, so that the runtime's own pages are there before the baseline is read."""
    warm = prepare(request["warm"], request["warm_shape"])
    warm()
    baseline = _settled()
    run = prepare(request["path"], request["shape"])
    loading, loaded = _status("VmHWM"), _settled()
    peaks = []
    if request["pooled"]:  # what the pool took with the first runs it keeps
        for _ in range(_RUNS):
            run()
        peaks.append(_status("VmHWM"))
    else:
        run()  # pages of code that only this network needs are there after it
        loaded = _settled()
        for _ in range(_RUNS):
            run()
            peaks.append(_status("VmHWM"))
            _settled()
    return {"baseline": baseline, "loading": loading, "loaded": loaded, "peak": int(statistics.median(peaks))}


def _settled() -> int:
    """Resident bytes once what is free has gone back to the system; the high-water mark begins there again."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


if __name__ == "__main__":
    main()
