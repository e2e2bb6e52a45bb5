"""Does this machine change its state under a measurement, which reference kernel sees it, and what brings it back?

    python benchmarks/machine_states.py --seconds 100 --out benchmarks/results/machine_states.json

Both reference kernels and three networks take turns for ``--seconds``. Each turn's time is told as a multiple of the
least one seen. A kernel that correlates with a network tells when that network is slowed down from outside.

Then, for as long again, a tenth of a second of one thing or another is done between two looks at both kernels: nothing,
sleep, or what measurements do (``targets/clock/gather.py``). Told is how often each led from a slow state to the best
one, and how often it lost the best one. Run it with nothing beside it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from catchweight.files import write_json
from catchweight.nets import build_network
from catchweight.targets import Target, to_onnx
from catchweight.targets.clock.gather import gather
from catchweight.targets.clock.pace import TOLERANCE
from catchweight.targets.clock.reference import references
from catchweight.targets.clock.rounds import Session, kernel_turn, settled_turn

NETWORKS = ("eseg_lite_s", "timm/mobilenetv3_small_100+fpn", "timm/resnet18+bifpn")
SIZE, CLASSES, RUNS = (180, 240), 11, 5
STEADY = 1.15
KERNEL_S = 0.002  # of one run, roughly


def turns(sessions: dict[str, Session], seconds: float) -> np.ndarray:
    """Medians in ms of every session's turns, ``(rounds, sessions)``."""
    rows, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        rows.append([1000 * median(settled_turn(session, 0.005, most=RUNS)[0]) for session in sessions.values()])
    return np.array(rows)


REMEDIES = {"nothing": lambda: None, "sleep": lambda: time.sleep(0.1), "gather": lambda: gather(0.1)}


def remedies(kernels: Sequence[Session], seconds: float) -> list[dict[str, Any]]:
    """What a tenth of a second of each does to the state: slow means a kernel over ``TOLERANCE`` times its least."""
    rng, looks, done = random.Random(0), [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        looks.append([kernel_turn(kernel, KERNEL_S)[0] for kernel in kernels])
        done.append(rng.choice(list(REMEDIES)))
        REMEDIES[done[-1]]()
    times = np.array(looks)
    slow = (times > TOLERANCE * np.quantile(times, 0.02, axis=0)).any(axis=1)
    after: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for name, before, later in zip(done, slow, slow[1:], strict=False):
        after[name, bool(before)].append(bool(later))
    return [
        {
            "done": name, "from_slow": len(after[name, True]), "from_good": len(after[name, False]),
            "slow_to_good": 1 - float(np.mean(after[name, True] or [np.nan])),
            "good_to_slow": float(np.mean(after[name, False] or [np.nan])),
        }
        for name in REMEDIES
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    target = Target.parse("onnxruntime:cpu", threads=asked.threads)
    kernels = references("cpu", asked.threads)
    sessions: dict[str, Session] = {kernel.runtime: kernel for kernel in kernels}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            path = to_onnx(build_network(name, CLASSES), Path(folder) / "network.onnx", SIZE)
            sessions[name] = target.prepare(path)
        times = turns(sessions, asked.seconds)
    relative = times / np.quantile(times, 0.02, axis=0)
    alike = np.corrcoef(relative.T)
    rows = [
        {
            "session": name, "least_ms": times[:, place].min(), "median": np.median(relative[:, place]),
            "p90": np.quantile(relative[:, place], 0.9), "steady_share": np.mean(relative[:, place] < STEADY),
            "correlation": list(alike[place, : len(kernels)]),
        }
        for place, name in enumerate(sessions)
    ]  # fmt: skip
    for row in rows:
        print(
            f"{row['session']:45s} least {row['least_ms']:6.2f} ms, median {row['median']:.2f}, p90 {row['p90']:.2f} "
            f"times that, within {STEADY - 1:.0%} in {row['steady_share']:.0%} of turns, correlation with the kernels "
            + ", ".join(f"{value:.2f}" for value in row["correlation"])
        )
    found = remedies(kernels, asked.seconds)
    for row in found:
        print(
            f"{row['done']:8s} from a slow state to the best {row['slow_to_good']:.0%} of {row['from_slow']}, "
            f"the best one lost {row['good_to_slow']:.0%} of {row['from_good']}"
        )
    if asked.out:
        write_json(
            asked.out,
            {"fingerprint": target.fingerprint(), "rounds": len(times), "rows": rows, "remedies": found},
        )


if __name__ == "__main__":
    main()
