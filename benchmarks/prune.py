"""Pruning to 60 % and 40 % of a network's latency: HALP against three ways that do not know the device.

    python benchmarks/prune.py ../shared/data/camvid --out runs/prune-benchmark
    python benchmarks/prune.py ../shared/data/camvid --out runs/prune-smoke --smoke

For every network and seed: train it, then prune the same weights to each latency by every method, each with the same
schedule and the same fine-tuning. All methods fill the budget they are given, as measured; the latency table is
profiled once a network and shared. Every finished arm is a line of ``arms.jsonl`` at once; called again, the rest
is done.
``prune.json`` and ``prune.md`` sum up: validation mIoU, importance kept and latency of every arm, HALP against each
baseline under equal seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from catchweight.cli.options import parse_size
from catchweight.compress import HalpSettings, prune
from catchweight.data import SegmentationData, open_data
from catchweight.data.cache import PixelCache
from catchweight.files import write_json, write_text
from catchweight.nets import SegmentationNet, build_network, load_network
from catchweight.targets import Target
from catchweight.train import Recipe, finetune, scratch, train

OURS = "halp-refined"
METHODS = (OURS, "halp", "uniform", "magnitude", "macs")


@dataclass(frozen=True)
class Subject:
    """A network, and how it is trained before it is pruned."""

    name: str
    recipe: Recipe
    weights: str = "auto"
    width: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Everything that a run of the benchmark does."""

    subjects: tuple[Subject, ...]
    tune: Recipe
    """Of the fine-tuning, the same for every method."""
    settings: HalpSettings
    shares: tuple[float, ...] = (0.6, 0.4)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    variants: int = 24


SIZE = (180, 240)
TRAINED = {"size": SIZE, "eval_every": 5, "tensorboard": False}
FULL = Plan(
    subjects=(
        Subject("timm/resnet18+bifpn", finetune().model_copy(update=TRAINED)),
        Subject("eseg_lite_l", finetune().model_copy(update=TRAINED)),
        Subject("ffnet_22s_bbb_mobile", scratch().model_copy(update=TRAINED)),
    ),
    tune=finetune().model_copy(update={**TRAINED, "epochs": 15, "lr": 1e-3}),
    settings=HalpSettings(steps=10, interval=100),
)
_TOY = {"size": (64, 64), "batch": 4, "epochs": 1, "eval_every": 1, "tensorboard": False}
SMOKE = replace(
    FULL,
    subjects=(Subject("ffnet_22s_bcc_mobile", scratch().model_copy(update=_TOY), "none", 0.5),),
    tune=finetune().model_copy(update=_TOY),
    settings=HalpSettings(steps=2, interval=2, attempts=3),
    shares=(0.7,),
    seeds=(0,),
    methods=(OURS, "uniform"),
    variants=10,
)


def arms(plan: Plan) -> Iterator[tuple[Subject, float, int, str]]:
    """Whole comparisons first: all methods of one network, latency and seed before the next."""
    for subject in plan.subjects:
        for seed in plan.seeds:
            for share in plan.shares:
                for method in plan.methods:
                    yield subject, share, seed, method


def run(data: SegmentationData, plan: Plan, out: Path, threads: int) -> None:
    """Every arm that ``arms.jsonl`` lacks."""
    done = {_key(row) for row in read_rows(out)}
    cache, target = PixelCache(out / "pixels"), Target.parse("onnxruntime:cpu", threads=threads)
    total = len(list(arms(plan)))
    for number, (subject, share, seed, method) in enumerate(arms(plan), start=1):
        if (subject.name, share, seed, method) in done:
            continue
        print(f"arm {number} of {total}: {subject.name} to {share:.0%} by {method}, seed {seed}", flush=True)
        row = arm(data, plan, subject, share, seed, method, out, cache, target)
        with (out / "arms.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        summarise(plan, read_rows(out), out, target)


def arm(
    data: SegmentationData, plan: Plan, subject: Subject, share: float, seed: int, method: str, out: Path,
    cache: PixelCache, target: Target,
) -> dict[str, Any]:  # fmt: skip
    """Prune the trained network of a seed by one method; what came of it."""
    folder = out / subject.name.replace("/", "_")
    net = trained(data, subject, seed, folder / f"seed{seed}", cache)
    whole_ms = latency(net, subject, folder, target)
    result = prune(
        net, data, target, f"latency<={share * whole_ms:.4f}ms", plan.tune.model_copy(update={"seed": seed}),
        folder / f"seed{seed}-{share:g}-{method}", settings=plan.settings.model_copy(update={"method": method}),
        variants=plan.variants, table=shared_table(folder), cache=cache, whole_ms=whole_ms, quiet=True,
    )  # fmt: skip
    share_table(folder / f"seed{seed}-{share:g}-{method}" / "table", folder)
    return {
        "network": subject.name, "share": share, "seed": seed, "method": method, "miou": 100 * result.score,
        "miou_before": 100 * result.score_before, "kept": result.kept, "limit_ms": result.limit_ms,
        "latency_ms": result.latency_ms, "latency_before_ms": result.latency_before_ms, "met": result.met,
    }  # fmt: skip


def trained(data: SegmentationData, subject: Subject, seed: int, folder: Path, cache: PixelCache) -> SegmentationNet:
    """The unpruned network of a seed; trained once."""
    torch.manual_seed(seed)
    net = build_network(subject.name, len(data.classes), width=subject.width, weights=subject.weights)
    result = train(net, data, subject.recipe.model_copy(update={"seed": seed}), folder, cache=cache, quiet=True)
    return load_network(result.best)[0]


def latency(net: SegmentationNet, subject: Subject, folder: Path, target: Target) -> float:
    """Of the unpruned network in ms, measured once: all seeds and methods get the same limits."""
    path = folder / "latency.json"
    if not path.exists():
        write_json(path, {"ms": target.measure(net, subject.recipe.size, seconds=10).median_ms})
    return float(json.loads(path.read_text(encoding="utf-8"))["ms"])


def shared_table(folder: Path) -> Path:
    """Where a network's latency table is kept for all of its arms."""
    return folder / "table"


def share_table(source: Path, folder: Path) -> None:
    """Keep what an arm has profiled: the next one finds it and profiles nothing."""
    shared_table(folder).mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.parquet"):
        if not (kept := shared_table(folder) / path.name).exists():
            kept.write_bytes(path.read_bytes())


def read_rows(out: Path) -> list[dict[str, Any]]:
    path = out / "arms.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, float, int, str]:
    return row["network"], row["share"], row["seed"], row["method"]


def summarise(plan: Plan, rows: Sequence[dict[str, Any]], out: Path, target: Target) -> None:
    """``prune.json`` with every row and comparison, and ``prune.md`` with the means."""
    table = {_key(row): row for row in rows}
    places = [(subject.name, share) for subject in plan.subjects for share in plan.shares]
    compared = [c for place in places for other in plan.methods if (c := against(table, *place, other, plan.seeds))]
    write_json(out / "prune.json", {"device": target.fingerprint(), "arms": list(rows), "against": compared})
    lines = ["| network | latency | method | seeds | mIoU | kept | measured / asked |", "|---|---|---|---|---|---|---|"]
    for name, share in places:
        for method in plan.methods:
            found = [table[key] for seed in plan.seeds if (key := (name, share, seed, method)) in table]
            if found:
                landed = [row["latency_ms"] / row["latency_before_ms"] / row["share"] for row in found]
                ratios = ", ".join(f"{ratio:.3f}" for ratio in landed)
                mean, kept = fmean(row["miou"] for row in found), fmean(row["kept"] for row in found)
                lines.append(f"| {name} | {share:.0%} | {method} | {len(found)} | {mean:.2f} | {kept:.3f} | {ratios} |")
    lines += ["", f"{OURS} against each baseline, same seeds:", ""]
    lines += [
        f"- {c['network']} at {c['share']:.0%} against {c['method']}: mIoU {c['miou']:+.2f} points "
        f"({c['miou_wins']} of {c['seeds']} seeds), importance kept more in {c['kept_wins']} of {c['seeds']}"
        for c in compared
    ]
    write_text(out / "prune.md", "\n".join(lines) + "\n")


def against(
    table: dict[tuple[str, float, int, str], dict[str, Any]], name: str, share: float, other: str, seeds: Sequence[int]
) -> dict[str, Any] | None:
    """HALP less another method over the seeds that both have; None for itself and where there are none."""
    pairs = [
        (table[name, share, seed, OURS], table[name, share, seed, other])
        for seed in seeds
        if (name, share, seed, OURS) in table and (name, share, seed, other) in table
    ]
    if other == OURS or not pairs:
        return None
    gains = [ours["miou"] - theirs["miou"] for ours, theirs in pairs]
    return {
        "network": name, "share": share, "method": other, "seeds": len(pairs), "miou": fmean(gains),
        "differences": gains, "miou_wins": sum(gain > 0 for gain in gains),
        "kept_wins": sum(ours["kept"] > theirs["kept"] for ours, theirs in pairs),
    }  # fmt: skip


def resized(plan: Plan, size: tuple[int, int] | None) -> Plan:
    """The same plan at another input size (H, W); it wants a folder of its own."""
    subjects = tuple(replace(s, recipe=s.recipe.model_copy(update={"size": size})) for s in plan.subjects)
    return replace(plan, subjects=subjects, tune=plan.tune.model_copy(update={"size": size}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data set with the splits train and val")
    parser.add_argument("--out", type=Path, required=True, help="run folder; called again with it, the rest is done")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="*", help="of the plan, by name; default: all")
    parser.add_argument("--seeds", type=int, help="at most so many")
    parser.add_argument("--size", help="input HxW of all trainings instead of 180x240: 96x128 is five times cheaper")
    parser.add_argument("--smoke", action="store_true", help="toy sizes: shows that it runs, and nothing else")
    given = parser.parse_args()
    plan = SMOKE if given.smoke else FULL
    subjects = tuple(s for s in plan.subjects if not given.networks or s.name in given.networks)
    plan = replace(plan, subjects=subjects, seeds=plan.seeds[: given.seeds])
    if given.size:
        plan = resized(plan, parse_size(given.size))
    given.out.mkdir(parents=True, exist_ok=True)
    run(open_data(given.data), plan, given.out, given.threads)


if __name__ == "__main__":
    main()
