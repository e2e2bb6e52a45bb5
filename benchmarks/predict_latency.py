"""How well a latency table predicts networks it never saw, and what MACs alone would say.

    python benchmarks/predict_latency.py --out benchmarks/results/predict --minutes 10

Profiles random relatives of the project's networks for ``--minutes`` (a table of its own, under ``--work``), then
measures 100 others, drawn with another seed: 80 random ESeg, ESeg-Lite and FFNet variants and 20 pyramids over timm
backbones that no profiled network has. Killed, it goes on. Nothing is tuned on the 100. All milliseconds hold for the
machine's usual pace (``Measurement.steady_ms``): a shared machine is up to twice as slow for seconds at a time.
Networks during which it was not itself are measured again, up to twice; whether that helped is told, all of them count.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from rich.console import Console

from catchweight.files import write_json, write_text
from catchweight.spaces.variants import Variant, random_variants
from catchweight.targets import Target
from catchweight.targets.latency.predictor import ErrorStatement, LatencyPredictor
from catchweight.targets.latency.profile import export_all, profile
from catchweight.targets.latency.table import LatencyTable, ProfiledNetwork

UNSEEN = (
    "resnet34", "resnet26d", "resnet14t", "mobilenetv3_small_100", "mobilenetv2_140", "mnasnet_100", "fbnetc_100",
    "spnasnet_100", "semnasnet_100", "lcnet_100", "tinynet_c", "ghostnet_100", "regnetx_006", "regnety_006",
    "ese_vovnet19b_dw", "repvgg_a1", "rexnet_100", "efficientnet_es", "hardcorenas_a", "mixnet_s",
)  # fmt: skip
PROFILE_SEED, TEST_SEED = 0, 1000


def unseen_variants(own: int, seed: int = TEST_SEED) -> list[Variant]:
    """``own`` random variants of our families and one pyramid over each backbone of ``UNSEEN``."""
    drawn = (v for v in random_variants(3 * own, seed) if not v.name.startswith("timm/"))
    rng = random.Random(seed)
    pyramids = []
    for backbone in UNSEEN:
        height = rng.randint(96, 268)
        pyramids.append(
            Variant(f"timm/{backbone}+{rng.choice(('fpn', 'bifpn'))}", 1.0, (height, round(height * 4 / 3)))
        )
    return [variant for variant, _ in zip(drawn, range(own), strict=False)] + pyramids


def by_macs(known: list[ProfiledNetwork], asked: list[ProfiledNetwork]) -> ErrorStatement:
    """The line latency = a + b MACs, fitted to relative errors on the profiled networks."""
    macs, ms = _macs(known), np.array([network.whole_ms for network in known])
    terms = np.stack([np.ones_like(macs), macs], 1)
    line, *_ = np.linalg.lstsq(terms / ms[:, None], np.ones_like(ms), rcond=None)
    return ErrorStatement.of(line[0] + line[1] * _macs(asked), [network.whole_ms for network in asked])


def _macs(networks: list[ProfiledNetwork]) -> np.ndarray:
    return np.array([sum(signature.macs for signature in network.signatures) / 1e6 for network in networks])


def measure(
    table: LatencyTable,
    variants: list[Variant],
    exported: Path,
    console: Console,
    *,
    minutes: float | None,
    seconds: float,
    again: int,
    workers: int,
) -> dict:
    """Profile into ``table``; every network told as it comes."""
    report = profile(
        table, [variant.subject() for variant in variants], minutes=minutes, seconds=seconds, keep=exported,
        again=again, workers=workers,
        told=lambda done, total, text: console.print(f"{done}/{total} {text}", markup=False),
    )  # fmt: skip
    return {"new": report.new, "known": report.known, "left": report.left, "disturbed": report.disturbed,
            "seconds": round(report.seconds, 1),
            "failed": list(report.failed)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/predict"))
    parser.add_argument("--work", type=Path, default=Path("runs/predict"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of profiling")
    parser.add_argument("--networks", type=int, default=150, help="at most so many are profiled")
    parser.add_argument("--again", type=int, default=2, help="times that disturbed networks are measured again")
    parser.add_argument("--export-only", action="store_true", help="do the half that needs no quiet machine, and stop")
    parser.add_argument("--own", type=int, default=80, help="unseen variants of our own families")
    parser.add_argument("--target", default="onnxruntime:cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes that export networks")
    parser.add_argument("--seconds", type=float, default=1.5, help="of timing each network as a whole")
    asked = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    target = Target.parse(asked.target, threads=asked.threads)
    known, test = LatencyTable(target, asked.work / "known"), LatencyTable(target, asked.work / "test")
    mine, theirs = random_variants(asked.networks, PROFILE_SEED), unseen_variants(asked.own)
    exported = asked.work / "exported"
    if asked.export_only:
        export_all(target, [variant.subject() for variant in mine + theirs], exported, asked.workers)
        return
    how = {"seconds": asked.seconds, "again": asked.again, "workers": asked.workers}
    profiled = measure(known, mine, exported, console, minutes=asked.minutes, **how)
    tested = measure(test, theirs, exported, console, minutes=None, **how)
    predictor = LatencyPredictor(known)
    rows, usual = [], known.networks[0].usual_ms
    for network in (network.at(usual) if usual else network for network in test.networks):
        predicted = predictor.signatures(network.signatures)
        rows.append({
            "network": network.label, "size": list(network.size), "measured_ms": network.whole_ms,
            "noisy": network.noisy, "disturbed": network.disturbed, "predicted_ms": predicted.ms,
            "low_ms": predicted.low_ms, "high_ms": predicted.high_ms, "known": predicted.known,
        })  # fmt: skip
    parts = {
        "all": rows,
        "measured undisturbed": [row for row in rows if not row["disturbed"]],
        "own families": [row for row in rows if not row["network"].startswith("timm/")],
        "unseen timm": [row for row in rows if row["network"].startswith("timm/")],
    }
    errors = {
        name: ErrorStatement.of([r["predicted_ms"] for r in part], [r["measured_ms"] for r in part])
        for name, part in parts.items()
        if part
    }
    macs = by_macs(list(known.networks), list(test.networks))
    inside = float(np.mean([row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in rows]))
    write_json(
        asked.out.with_suffix(".json"),
        {
            "device": target.fingerprint(), "profiled": profiled, "tested": tested, "networks": len(known.networks),
            "trusted": len(known.trusted), "signatures": len(known), "stated": predictor.error.to_json(),
            "macs_alone": macs.to_json(),
            "errors": {name: error.to_json() for name, error in errors.items()}, "inside_interval": inside,
            "rows": rows,
        },
    )  # fmt: skip
    text = [
        "| prediction | networks | median error | RMSPE | within 5 % | within 10 % | Kendall tau |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_line(f"table and model, {name}", error) for name, error in errors.items()),
        _line("stated by the table itself (cross-validated)", predictor.error),
        _line("MACs alone", macs),
    ]
    write_text(asked.out.with_suffix(".md"), "\n".join(text) + "\n")
    console.print("\n".join(text), markup=False)
    console.print(f"{inside:.0%} of the networks lie inside their stated interval")


def _line(name: str, error: ErrorStatement) -> str:
    return (
        f"| {name} | {error.n} | {error.median:.1%} | {error.rmspe:.1%} | {error.within5:.0%} | {error.within10:.0%} "
        f"| {error.tau:.3f} |"
    )


if __name__ == "__main__":
    main()
