"""Counted peak of activations against the measured one: fifteen networks, two sizes, ONNX Runtime on the processor.

    python benchmarks/memory.py --out benchmarks/results/memory

Each measurement is a fresh process: resident memory at its highest during a run, above what the loaded and warm session
holds, image included. Large buffers go back to the system when they are freed (``MALLOC_MMAP_THRESHOLD_``). Three
policies of ONNX Runtime are measured, on the same file:

needed    no arena, and a buffer is freed after its last reader. This is what the count is of.
planned   no arena; the runtime's default plan keeps a freed buffer when a later tensor has exactly its size.
default   all defaults: arena and memory pattern, after the second run. What a service holds unless it sets options.

Writes ``memory.json`` and ``memory.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from catchweight.errors import CatchweightError
from catchweight.files import write_json, write_text
from catchweight.nets import build_network
from catchweight.targets import to_onnx
from catchweight.targets.counts import count

NETWORKS = (
    "eseg_lite_s",
    "ffnet_22s_bcc_mobile",
    "timm/mobilenetv3_small_100+fpn",
    "timm/pvt_v2_b0+fpn",
    "timm/resnet18+bifpn",
    "ffnet_46n_cbb",
    "timm/regnety_002+fpn",
    "timm/convnext_atto+fpn",
    "timm/efficientnet_b0+bifpn",
    "timm/res2net50_14w_8s+fpn",
)
UNSEEN = (
    "ffnet_54s_bbb_mobile",
    "timm/ghostnet_100+fpn",
    "timm/rexnet_100+bifpn",
    "timm/edgenext_xx_small+fpn",
    "timm/hrnet_w18_small+fpn",
)
"""Named before any of them was measured; the rules were written with the graphs of ``NETWORKS`` in view."""
SIZES = ((180, 240), (360, 480))
CLASSES = 11
POLICIES = {"needed": (False, False, False), "planned": (False, False, True), "default": (True, True, True)}
"""Arena, memory pattern, reuse of buffers by equal size."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "1073741824"}


def main() -> None:
    options = read_options()
    if options.child:
        json.dump(run(**json.loads(options.child)), sys.stdout)
        return
    rows = [measure(name, size) for name in (*NETWORKS, *UNSEEN) for size in SIZES]
    write_json(options.out.with_suffix(".json"), rows)
    write_text(options.out.with_suffix(".md"), markdown(rows))
    print(markdown(rows))


def measure(name: str, size: tuple[int, int]) -> dict[str, Any]:
    net = build_network(name, CLASSES).eval()
    counted = count(net, size)
    row: dict[str, Any] = {
        "network": name,
        "size": list(size),
        "counted": counted.activation_bytes,
        "peak_op": counted.peak_op,
        "weights_counted": counted.weights_bytes,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(net, Path(folder) / "network.onnx", size)
        for policy in POLICIES:
            row[policy] = in_fresh_process(path, size, policy)
    row["error"] = row["counted"] / row["needed"]["peak"] - 1
    print(line(row), flush=True)
    return row


def in_fresh_process(path: Path, size: tuple[int, int], policy: str) -> dict[str, int]:
    request = json.dumps({"path": str(path), "shape": [1, 3, *size], "policy": policy})
    done = subprocess.run(
        [sys.executable, __file__, "--child", request],
        capture_output=True,
        text=True,
        env={**os.environ, **_MALLOC},
        check=True,
    )
    read: dict[str, int] = json.loads(done.stdout)
    return read


def run(path: str, shape: list[int], policy: str) -> dict[str, int]:
    """In the child: bytes held by the loaded session, and the peak of a run above it, image included.

    The first runs bring in code pages and threads. They are part of the base where buffers are given back; with an
    arena they are what is measured.
    """
    import numpy as np
    import onnxruntime

    arena, pattern, reuse = POLICIES[policy]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena, options.enable_mem_pattern, options.enable_mem_reuse = arena, pattern, reuse
    before = resident("VmRSS")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ctypes.CDLL(None).malloc_trim(0)
    loaded = resident("VmRSS")

    def once() -> None:
        session.run(None, {"image": np.ones(shape, np.float32)})

    if not arena:
        once(), once()
    base = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    for _ in range(3):
        once()
    return {"loaded": loaded - before, "peak": resident("VmHWM") - base}


def resident(key: str) -> int:
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(f"{key}:"):
            return 1024 * int(entry.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def markdown(rows: list[dict[str, Any]]) -> str:
    seen = [row for row in rows if row["network"] in NETWORKS]
    unseen = [row for row in rows if row["network"] not in NETWORKS]
    return "\n".join(
        [
            "# Peak memory of activations, counted and measured",
            "",
            "ONNX Runtime on the processor, fp32, batch 1, one thread, MB.",
            "*Needed*: each buffer freed after its last reader, which is what the count is of.",
            "*Planned*: the runtime's default plan of buffers.",
            "*Default*: with arena and memory pattern too, which no count here models.",
            "*Weights*: as counted, and what the loaded session holds (graph, code and repacked weights included).",
            "",
            f"Networks whose graphs were in view when the rules were written: {verdict(seen)}.",
            "",
            *table(seen),
            "",
            f"Networks that were not: {verdict(unseen)}.",
            "",
            *table(unseen),
            "",
        ]
    )


def verdict(rows: list[dict[str, Any]]) -> str:
    within = sum(abs(row["error"]) <= 0.1 for row in rows)
    return f"{within} of {len(rows)} within 10 %, worst {max((abs(row['error']) for row in rows), default=0):.1%}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    title = "| network | size (HxW) | counted | needed | off by | planned | default | weights counted | session |"
    return [title, "|---|---|---:|---:|---:|---:|---:|---:|---:|", *map(line, rows)]


def line(row: dict[str, Any]) -> str:
    """One row as Markdown."""
    size = "{}x{}".format(*row["size"])
    peaks = [f"{row[policy]['peak'] / 1e6:.1f}" for policy in POLICIES]
    return (
        f"| {row['network']} | {size} | {row['counted'] / 1e6:.1f} | {peaks[0]} | {row['error']:+.1%} | {peaks[1]} "
        f"| {peaks[2]} | {row['weights_counted'] / 1e6:.1f} | {row['needed']['loaded'] / 1e6:.1f} |"
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory"), help="file, without suffix")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CatchweightError as error:
        raise SystemExit(f"error: {error}") from error
