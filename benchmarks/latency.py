"""Latency of every whole network: ONNX Runtime against eager torch, interleaved, at both CamVid sizes.

    python benchmarks/latency.py --out benchmarks/results/latency --only eseg ffnet_4 ffnet_22

Writes ``latency.json`` after each row and ``latency.md`` at the end. The same command goes on where it stopped; rows of
another machine, runtime version or number of threads are refused, so that one table is one device.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json, write_json, write_text
from catchweight.nets import build_network, network_names
from catchweight.targets import Target, count_macs, count_params, distinguishable, interleaved

SIZES = ((180, 240), (360, 480))
CLASSES = 11
RUNTIMES = ("onnxruntime:cpu", "torch:cpu")


def main() -> None:
    options = read_options()
    file = options.out.with_suffix(".json")
    targets = [Target.parse(name, threads=options.threads) for name in RUNTIMES]
    results = load(file, [target.fingerprint() for target in targets])
    names = [name for name in network_names() if name.startswith(tuple(options.only))]
    if not names:
        raise UsageError(f"no network begins with {' or '.join(options.only)}; known: {', '.join(network_names())}")
    done = {(row["network"], tuple(row["size"])) for row in results["rows"]}
    for name in names:
        for size in SIZES:
            if (name, size) not in done:
                results["rows"].append(measure(name, size, targets, options.seconds))
                write_json(file, results)
                print(line(results["rows"][-1]), flush=True)
    write_text(file.with_suffix(".md"), markdown(results))


def measure(name: str, size: tuple[int, int], targets: list[Target], seconds: float) -> dict[str, Any]:
    """One row; a network that cannot be exported gives a row that says why."""
    row: dict[str, Any] = {"network": name, "size": list(size)}
    try:
        net = build_network(name, CLASSES).eval()
        row |= {"params": count_params(net), "macs": count_macs(net, size)}
        onnx, eager = interleaved([target.prepare(net, size) for target in targets], seconds)
    except CatchweightError as error:
        return {**row, "error": str(error)}
    row |= {target.name: one.to_json() for target, one in zip(targets, (onnx, eager), strict=True)}
    return {**row, "eager_against_onnx": str(distinguishable(onnx, eager))}


def load(file: Path, fingerprints: list[dict[str, Any]]) -> dict[str, Any]:
    if not file.exists():
        return {"fingerprints": fingerprints, "rows": []}
    results: dict[str, Any] = read_json(file)
    if results.get("fingerprints") != fingerprints:
        raise UsageError(f"{file} was measured on another machine, version or number of threads: give another --out")
    return results


def markdown(results: dict[str, Any]) -> str:
    first = results["fingerprints"][0]
    head = f"{first['processor']}, {first['threads']} threads, batch 1; median ms (p10 to p90), ~ marks noise.\n\n"
    title = "| network | size (HxW) | params | MACs | ONNX Runtime ms | eager torch ms | eager slower by |\n"
    return head + title + "|---|---|---:|---:|---:|---:|---:|\n" + "\n".join(map(line, results["rows"])) + "\n"


def line(row: dict[str, Any]) -> str:
    """One row as Markdown."""
    size = "{}x{}".format(*row["size"])
    if "error" in row:
        return f"| {row['network']} | {size} | {row['error']} | | | | |"
    onnx, eager = (row[name] for name in RUNTIMES)
    factor = eager["median_ms"] / onnx["median_ms"]
    counts = f"{row['params'] / 1e6:.2f}M | {row['macs'] / 1e9:.3f}G"
    return f"| {row['network']} | {size} | {counts} | {shown(onnx)} | {shown(eager)} | {factor:.2f}x |"


def shown(one: dict[str, Any]) -> str:
    noise = " ~" if one["noisy"] else ""
    return f"{one['median_ms']:.2f} ({one['p10_ms']:.2f} to {one['p90_ms']:.2f}){noise}"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency"), help="file, without suffix")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of network names")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit per network, size and runtime")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CatchweightError as error:
        raise SystemExit(f"error: {error}") from error
