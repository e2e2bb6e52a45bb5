"""How well a measured latency repeats in fresh processes, and whether the noise flag fires on a loaded machine.

    python benchmarks/repeatability.py --out benchmarks/results/repeatability.json

Each network is measured ``--times`` times, each time in a process of its own; the spread of the medians is
(largest - smallest) / median, of the milliseconds and of the ratio to the reference kernel. Then the same with a busy
process on every core, where every measurement should call itself noisy. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from catchweight.errors import CatchweightError
from catchweight.files import write_json
from catchweight.nets import build_network
from catchweight.targets import Target, to_onnx

CLASSES, SIZE = 11, (180, 240)

CHILD = """
import json, sys
from pathlib import Path
from catchweight.targets import Target
target, threads, path, seconds = sys.argv[1:]
measured = Target.parse(target, threads=int(threads)).measure(Path(path), seconds=float(seconds))
print(json.dumps(measured.to_json()))
"""


def main() -> None:
    options = read_options()
    target = Target.parse(options.target, threads=options.threads)
    results: dict[str, Any] = {"fingerprint": target.fingerprint(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            path = to_onnx(build_network(name, CLASSES), Path(folder) / "network.onnx", SIZE)
            quiet = [measure(path, options) for _ in range(options.times)]
            with every_core_busy():
                loaded = [measure(path, options) for _ in range(options.loaded_times)]
            results["rows"].append(row(name, quiet, loaded))
            print(line(results["rows"][-1]), flush=True)
    if options.out:
        write_json(options.out, results)


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a fresh process."""
    arguments = [options.target, str(options.threads), str(path), str(options.seconds)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CatchweightError(f"measuring failed: {done.stderr.strip().splitlines()[-1:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@contextmanager
def every_core_busy() -> Iterator[None]:
    """A process that does nothing but compute, for each core; it ends with this one, however that ends."""
    busy = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def row(name: str, quiet: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "network": name,
        "size": list(SIZE),
        "times": len(quiet),
        "median_ms": median(one["median_ms"] for one in quiet),
        "spread": spread([one["median_ms"] for one in quiet]),
        "spread_relative": spread([one["relative"] for one in quiet]),
        "noisy": sum(one["noisy"] for one in quiet),
        "loaded_times": len(loaded),
        "loaded_median_ms": median(one["median_ms"] for one in loaded),
        "loaded_noisy": sum(one["noisy"] for one in loaded),
        "loaded_disturbed": sum(one["disturbed"] for one in loaded),
        "quiet": quiet,
        "loaded": loaded,
    }


def spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)


def line(one: dict[str, Any]) -> str:
    return (
        f"{one['network']}: {one['median_ms']:.2f} ms, spread {one['spread']:.1%} over {one['times']} processes "
        f"(relative to the reference kernel {one['spread_relative']:.1%}), flagged noisy {one['noisy']} times; "
        f"with all cores busy {one['loaded_median_ms']:.2f} ms, flagged {one['loaded_noisy']} of "
        f"{one['loaded_times']} times"
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["eseg_lite_s", "ffnet_22s_bcc_mobile"])
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=10, help="fresh processes per network on the quiet machine")
    parser.add_argument("--loaded-times", type=int, default=5, help="fresh processes with every core busy")
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of one measurement")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CatchweightError as error:
        raise SystemExit(f"error: {error}") from error
