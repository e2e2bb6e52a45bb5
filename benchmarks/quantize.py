"""int8 on this machine: latency and validation mIoU of trained networks, float against int8, and the verdict.

    python benchmarks/quantize.py make ../shared/data/camvid ffnet=runs/ffnet/best.pt eseg=runs/eseg/best.pt \
        --untrained fasterseg_student timm/resnet18+bifpn --threads 1
    python benchmarks/quantize.py measure --threads 1 2

``make`` quantises each checkpoint (``NAME=FILE``) in a run folder of its own; networks named under ``--untrained`` get
random weights, and for them only latency means anything. A verdict needs a quiet machine: with ``--calibrate-only`` it
does what comes before the first latency, and the same call without it goes on from there. ``measure`` times every
float file and its int8 file in turns, for each number of threads. Both go on where they stopped. Writes
``quantize.json`` and ``quantize.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from catchweight.compress.quantize import QuantizeSettings, quantize
from catchweight.compress.quantize.calibrate import METHODS
from catchweight.compress.quantize.settings import Latency, Recipe
from catchweight.compress.quantize.trials import PLAIN, Trials
from catchweight.data import SegmentationData, open_data
from catchweight.deploy.export import export
from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json, write_json, write_text
from catchweight.nets import build_network
from catchweight.targets import Target, distinguishable, interleaved

RUNTIME = "onnxruntime:cpu"
SIZE = (180, 240)


def main() -> None:
    options = read_options()
    results = read_json(options.out.with_suffix(".json")) if options.out.with_suffix(".json").exists() else {"rows": {}}
    if options.step == "make":
        data = open_data(options.data)
        for entry in options.checkpoints:
            name, _, path = entry.partition("=")
            if not path:
                raise UsageError(f'"{entry}" is not NAME=FILE, e.g. ffnet=runs/ffnet/best.pt')
            make(name, results, options, lambda folder, path=path: trained(Path(path), data, folder, options))
        for name in options.untrained:
            make(name, results, options, lambda folder, name=name: untrained(name, data, folder, options))
    else:
        for row in results["rows"].values():
            for threads in options.threads:
                measure(row, threads, options)
                save(results, options.out)
    save(results, options.out)
    print(markdown(results))


def make(name: str, results: dict[str, Any], options: argparse.Namespace, work: Any) -> None:
    """One row, unless it is there."""
    if name not in results["rows"]:
        folder = options.runs / name.replace("/", "_")
        try:
            results["rows"][name] = {"name": name, "folder": str(folder), "latency": {}, **work(folder)}
        except Later:
            print(f"{name}: calibrated", flush=True)
        save(results, options.out)


def trained(path: Path, data: SegmentationData, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    target = Target.parse(RUNTIME, threads=options.threads[0])
    settings = QuantizeSettings(methods=tuple(METHODS), seconds=options.seconds)
    timer = stop if options.calibrate_only else None
    result = quantize(
        path, data, target=target, tolerance=options.tolerance, folder=folder, settings=settings, timer=timer
    )
    files = {"float": str(result.float_file), "int8": str(result.file)}
    return {"trained": True, "files": files, "verdict": result.to_json()}


class Later(Exception):  # noqa: N818 - not an error
    """What is left needs a quiet machine."""


def stop(plain: Path, int8: Path) -> Latency:
    """A timer that leaves timing for later."""
    raise Later


def untrained(name: str, data: SegmentationData, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Random weights: the files exist to be timed."""
    torch.manual_seed(0)
    net = build_network(name, len(data.classes))
    file = export(net, folder / "float.onnx", size=SIZE, classes=data.classes)
    settings = QuantizeSettings(images=8)
    trials = Trials(file, data, Target.parse(RUNTIME, threads=options.threads[0]), settings, folder)
    int8 = trials.write(folder / "int8.onnx", Recipe(PLAIN, "minmax"))
    return {"trained": False, "files": {"float": str(file), "int8": str(int8)}, "verdict": None}


def measure(row: dict[str, Any], threads: int, options: argparse.Namespace) -> None:
    """Both files in turns with this many threads, unless it has been done."""
    key = str(threads)
    if key in row["latency"] or row["files"]["float"] == row["files"]["int8"]:
        return
    target = Target.parse(RUNTIME, threads=threads)
    sessions = [target.prepare(Path(row["files"][kind])) for kind in ("float", "int8")]
    plain, int8 = interleaved(sessions, options.seconds)
    row["latency"][key] = {
        **Latency.of((plain, int8), distinguishable(plain, int8)).to_json(),
        "float": plain.to_json(),
        "int8": int8.to_json(),
        "fingerprint": target.fingerprint(),
    }
    print(f"{row['name']}, {threads} threads: {row['latency'][key]['speedup']:.2f}x", flush=True)


def save(results: dict[str, Any], out: Path) -> None:
    write_json(out.with_suffix(".json"), results)
    write_text(out.with_suffix(".md"), markdown(results))


def markdown(results: dict[str, Any]) -> str:
    threads = sorted({key for row in results["rows"].values() for key in row["latency"]}, key=int)
    print_ = next((one["fingerprint"] for row in results["rows"].values() for one in row["latency"].values()), None)
    head = f"{print_['processor']}, {print_['runtime']}, batch 1, interleaved medians.\n\n" if print_ else ""
    columns = "".join(f" float, int8 ms ({count} threads) | speedup (95 %) |" for count in threads)
    title = f"| network |{columns} val mIoU float | int8 | points lost | float layers | verdict |\n"
    rule = "|---|" + "---:|---:|" * len(threads) + "---:|---:|---:|---:|---|\n"
    return head + title + rule + "\n".join(line(row, threads) for row in results["rows"].values()) + "\n"


def line(row: dict[str, Any], threads: list[str]) -> str:
    cells = [row["name"], *(cell for count in threads for cell in timed(row["latency"].get(count)))]
    verdict = row["verdict"]
    if verdict is None:
        return "| " + " | ".join([*cells, "untrained", "", "", "", ""]) + " |"
    scored = verdict["int8_miou"] is not None
    cells += [f"{verdict['float_miou']:.4f}", f"{verdict['int8_miou']:.4f}" if scored else ""]
    cells.append(f"{100 * (verdict['float_miou'] - verdict['int8_miou']):+.2f}" if scored else "")
    cells += [str(len(verdict["kept_float"])), "accepted" if verdict["accepted"] else verdict["reason"]]
    return "| " + " | ".join(cells) + " |"


def timed(one: dict[str, Any] | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    noise = " ~" if one["float"]["noisy"] or one["int8"]["noisy"] else ""
    return (
        f"{one['float_ms']:.2f}, {one['int8_ms']:.2f}{noise}",
        f"{one['speedup']:.2f} ({one['low']:.2f} to {one['high']:.2f})",
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    makes, measures = steps.add_parser("make"), steps.add_parser("measure")
    makes.add_argument("--calibrate-only", action="store_true")
    makes.add_argument("data", type=Path)
    makes.add_argument("checkpoints", nargs="*", metavar="NAME=FILE")
    makes.add_argument("--untrained", nargs="+", default=[], metavar="NETWORK")
    makes.add_argument("--runs", type=Path, default=Path("runs/quantize"))
    makes.add_argument("--tolerance", type=float, default=0.5)
    for one in (makes, measures):
        one.add_argument("--out", type=Path, default=Path("benchmarks/results/quantize"), help="file, without suffix")
        one.add_argument("--threads", type=int, nargs="+", default=[2])
        one.add_argument("--seconds", type=float, default=5.0, help="time limit per file")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CatchweightError as error:
        raise SystemExit(f"error: {error}") from error
