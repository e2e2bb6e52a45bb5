"""Few-shot transfer of latency to unseen devices, on the measured cells of NAS-Bench-201.

    python benchmarks/transfer.py ../shared/data/nasbench201/nasbench201.csv.gz --out benchmarks/results --seeds 5

Three splits, always by physical device (batch sizes of one GPU stay together):

- devices: HELP's 13 training and validation columns are known, all other 16 columns are tested. The model was designed
  on the 13 alone.
- help: HELP's 9 training columns are known and its 6 test devices tested, next to its published figures.
- folds: every seed deals the 19 physical devices into five folds, each unseen in turn, so that all 29 columns are
  tested. Near twins (1080 Ti, Titan X, Titan Xp; 2080 Ti, Titan RTX) then often know each other.

Known devices give 900 cells each (as many as HELP has), drawn anew for every seed; the 2,000 tested cells never share a
canonical form with them. Cells whose output is cut off are left out. Nothing is tuned on a tested device. Writes
``transfer.json`` and ``transfer.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catchweight.targets.transfer.model import TransferModel
from catchweight.targets.transfer.nasbench201 import (
    NasBench201,
    cell_features,
    layer_count,
    physical_device,
    read_nasbench201,
)

KNOWN_CELLS, TESTED_CELLS, KS, FOLDS = 900, 2000, (10, 20), 5
HELP_TRAIN = [
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r", "samsung_a50"),
    *("pixel3/cifar10", "essential_ph_1", "samsung_s7"),
]
HELP_VALID = ["titanx_1", "titanx_32", "titanx_256", "gold_6240"]
HELP_PUBLISHED = {
    "titan_rtx_256": 0.987,
    "gold_6226": 0.989,
    "pixel2": 0.802,
    "raspi4/cifar10": 0.890,
    "eyeriss/cifar10": 0.940,
    "fpga/cifar10": 0.985,
}
"""Spearman with 10 samples: Lee et al., HELP, NeurIPS 2021, Table 3 (devices' names as in its repository's readme)."""
HELP_NOTE = "HELP (published, 10 samples)"
SPLITS = ("devices", "help", "folds")
METRICS = ("spearman", "kendall", "within_5", "within_10", "rmspe")


@dataclass(frozen=True)
class Probed:
    """What a method gets: known devices' table, and k measured cells of the new one. ``rows`` index the whole table."""

    features: np.ndarray
    additive: list[int]
    macs: np.ndarray
    layers: np.ndarray
    known: np.ndarray
    probes: np.ndarray
    latency: np.ndarray


def line(values: np.ndarray, probed: Probed, tested: np.ndarray) -> np.ndarray:
    """Least squares through the k points on one number a cell."""
    seen = values[probed.probes]
    if np.ptp(seen) == 0:
        return np.full(len(tested), np.median(probed.latency))
    return np.polyval(np.polyfit(seen, probed.latency, 1), values[tested])


def one_table(probed: Probed, tested: np.ndarray) -> np.ndarray:
    """Measured latencies of the known device that fits the k points best, times the median ratio."""
    measured = probed.known[:, np.isfinite(probed.known[np.r_[probed.probes, tested]]).all(axis=0)]
    ratios = np.log(probed.latency)[:, None] - np.log(measured[probed.probes])
    shifts = np.median(ratios, axis=0)
    best = int(np.abs(ratios - shifts).mean(axis=0).argmin())
    return measured[tested, best] * np.exp(shifts[best])


def points_alone(probed: Probed, tested: np.ndarray) -> np.ndarray:
    """Ridge regression of log latency on operator counts, MACs and layers; no other device is asked."""
    inputs = np.column_stack([probed.features[:, probed.additive], probed.macs, probed.layers])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 11)))
    model.fit(inputs[probed.probes], np.log(probed.latency))
    return np.exp(model.predict(inputs[tested]))


BASELINES: dict[str, Callable[[Probed, np.ndarray], np.ndarray]] = {
    "MACs": lambda probed, tested: line(probed.macs, probed, tested),
    "layer count": lambda probed, tested: line(probed.layers, probed, tested),
    "one table, scaled": one_table,
    "k points alone": points_alone,
}
OURS, OURS_RANDOM, CEILING = "ours, informative probes", "ours, random probes", "3,400 cells of the device itself"


def figures(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    error = np.abs(predicted / truth - 1)
    return {
        "spearman": float(spearmanr(predicted, truth)[0]),
        "kendall": float(kendalltau(predicted, truth)[0]),
        "within_5": float((error <= 0.05).mean()),
        "within_10": float((error <= 0.10).mean()),
        "rmspe": float(np.sqrt((error**2).mean())),
        "spearman_trimmed": trimmed_spearman(predicted, truth),
    }


def trimmed_spearman(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Without the slowest and fastest tenth, as HELP's own evaluation does; a little lower than with them."""
    low, high = np.quantile(truth, [0.1, 0.9])
    inside = (truth >= low) & (truth <= high)
    return float(spearmanr(predicted[inside], truth[inside])[0])


class Protocol:
    """The fixed parts: which cells are tested, and which may be known."""

    def __init__(self, table: NasBench201) -> None:
        self.table = table
        self.features, self.additive = cell_features(table)
        self.layers = layer_count(table.operators).astype(float)
        order = np.random.default_rng(0).permutation(np.flatnonzero(table.connected()))
        unique = np.array(table.unique)
        self.tested = order[:TESTED_CELLS]
        self.pool = order[~np.isin(unique[order], unique[self.tested])]

    def run(self, known: list[str], tested: list[str], seed: int) -> Iterator[dict]:
        """One model of the known devices, adapted to every tested column; one row a method, device and k."""
        matrix = self.table.matrix(known)
        rows = np.random.default_rng(seed).permutation(self.pool)[:KNOWN_CELLS]
        model = TransferModel(self.additive, seed)
        model.fit(self.features[rows], matrix[rows], [physical_device(name) for name in known], probes=KS[0])
        for k, column in product(KS, tested):
            for method, metrics in self._device(model, matrix, rows, column, k, seed):
                yield {"device": column, "k": k, "method": method, "seed": seed, **metrics}

    def _device(
        self, model: TransferModel, matrix: np.ndarray, rows: np.ndarray, column: str, k: int, seed: int
    ) -> Iterator[tuple[str, dict[str, float]]]:
        latency = self.table.latencies[column]
        rows, tested = rows[np.isfinite(latency[rows])], self.tested[np.isfinite(latency[self.tested])]
        for method, how in ((OURS, "informative"), (OURS_RANDOM, "random")):
            probes = rows[model.choose_probes(self.features[rows], k, how, seed)]
            mean, std = model.adapt(self.features[probes], latency[probes]).predict(self.features[tested])
            inside = float((np.abs(mean - latency[tested]) <= std).mean())
            yield method, {**figures(mean, latency[tested]), "within_std": inside}
        probed = Probed(self.features, self.additive, self.table.macs, self.layers, matrix, probes, latency[probes])
        for method, baseline in BASELINES.items():
            yield method, figures(baseline(probed, tested), latency[tested])

    def ceiling(self, column: str) -> dict:
        """What boosted trees reach that were trained on every other cell of the device itself: about 3,400."""
        latency = self.table.latencies[column]
        rows, tested = (cells[np.isfinite(latency[cells])] for cells in (self.pool, self.tested))
        model = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.1, random_state=0)
        model.fit(self.features[rows], np.log(latency[rows]))
        metrics = figures(np.exp(model.predict(self.features[tested])), latency[tested])
        return {"device": column, "k": KS[0], "method": CEILING, "seed": 0, **metrics}


Pairs = list[tuple[list[str], list[str]]]


def splits(columns: list[str], seed: int) -> dict[str, Pairs]:
    """(known, tested) pairs of columns of each split."""
    known = HELP_TRAIN + HELP_VALID
    names = np.random.default_rng(seed).permutation(sorted(set(map(physical_device, columns))))
    folds = [set(names[start::FOLDS]) for start in range(FOLDS)]
    return {
        "devices": [(known, [name for name in columns if name not in known])],
        "help": [(HELP_TRAIN, list(HELP_PUBLISHED))],
        "folds": [
            (
                [name for name in columns if physical_device(name) not in fold],
                [name for name in columns if physical_device(name) in fold],
            )
            for fold in folds
        ],
    }


def averaged(rows: list[dict]) -> list[dict]:
    """Mean over seeds for every device, k and method; then "mean" over devices."""
    cells: dict[tuple, list[dict]] = {}
    for row in rows:
        cells.setdefault((row["device"], row["k"], row["method"]), []).append(row)
        cells.setdefault(("mean", row["k"], row["method"]), []).append(row)
    return [
        {"device": device, "k": k, "method": method, **_means(group)} for (device, k, method), group in cells.items()
    ]


def _means(group: list[dict]) -> dict[str, float]:
    names = [name for name in (*METRICS, "within_std", "spearman_trimmed") if name in group[0]]
    return {name: round(float(np.mean([row[name] for row in group])), 4) for name in names}


def markdown(report: dict) -> str:
    parts = [
        _summary(report),
        *(_per_device(report, name) for name in ("devices", "folds") if name in report["splits"]),
    ]
    if "help" in report["splits"]:
        parts.insert(1, _against_help(report))
    return "\n\n".join(parts) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = "|---" * len(header) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def _find(report: dict, split: str, **wanted: object) -> list[dict]:
    results = report["splits"][split]["results"]
    return [row for row in results if all(row[name] == value for name, value in wanted.items())]


def _summary(report: dict) -> str:
    rows = [
        [split, str(row["k"]), row["method"], *(f"{row[name]:.3f}" for name in METRICS)]
        for split in report["splits"]
        for row in sorted(_find(report, split, device="mean"), key=lambda row: row["k"])
    ]
    note = f"Mean over the tested devices and {report['seeds']} seeds; {report['tested_cells']} cells a device."
    return note + "\n\n" + _table(["split", "k", "method", *(name.replace("_", " ") for name in METRICS)], rows)


def _against_help(report: dict) -> str:
    methods = (OURS, OURS_RANDOM, "MACs", "one table, scaled", CEILING)
    rows = [[HELP_NOTE, *(f"{value:.3f}" for value in [*HELP_PUBLISHED.values(), np.mean([*HELP_PUBLISHED.values()])])]]
    for name, label in (("spearman_trimmed", "trimmed"), ("spearman", "all cells")):
        for method in methods:
            found = {row["device"]: row for row in _find(report, "help", method=method, k=10)}
            rows.append([f"{method}, {label}", *(f"{found[device][name]:.3f}" for device in [*HELP_PUBLISHED, "mean"])])
    note = "Split help, Spearman, k = 10; trimmed: without the slowest and fastest tenth, as HELP evaluates."
    return note + "\n\n" + _table(["method", *HELP_PUBLISHED, "mean"], rows)


def _per_device(report: dict, split: str) -> str:
    shown = (OURS, OURS_RANDOM, "one table, scaled", "MACs", CEILING)
    rows = []
    for device in [*report["splits"][split]["tested"], "mean"]:
        found = {row["method"]: row for row in _find(report, split, device=device, k=10)}
        cells = [f"{found[method]['spearman']:.3f} / {found[method]['within_10']:.2f}" for method in shown]
        rows.append([device, *cells, f"{found[OURS]['rmspe']:.3f}", f"{found[OURS]['within_std']:.2f}"])
    note = f"Split {split}, k = 10: Spearman / share within 10 %; RMSPE and share within one std of ours, informative."
    return note + "\n\n" + _table(["device", *shown, "RMSPE", "within std"], rows)


def _split(protocol: Protocol, name: str, seeds: int, ceilings: list[dict]) -> dict:
    start, rows, columns = time.process_time(), [], protocol.table.columns()
    for seed in range(seeds):
        for known, tested in splits(columns, seed)[name]:
            rows += protocol.run(known, tested, seed)
    tested = [column for column in columns if any(row["device"] == column for row in rows)]
    rows += [row for row in ceilings if row["device"] in tested]
    known = "all columns of the other folds" if name == "folds" else splits(columns, 0)[name][0][0]
    seconds = round(time.process_time() - start)
    print(f"{name}: {seconds} CPU s", flush=True)
    return {"known": known, "tested": tested, "cpu_s": seconds, "results": averaged(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="nasbench201.csv.gz")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    options = parser.parse_args()
    protocol = Protocol(read_nasbench201(options.data))
    report: dict = {"seeds": options.seeds, "known_cells": KNOWN_CELLS, "tested_cells": TESTED_CELLS, "splits": {}}
    report["help_published"] = HELP_PUBLISHED
    columns = protocol.table.columns()
    ceilings = [protocol.ceiling(column) for column in columns]
    for name in options.splits:
        report["splits"][name] = _split(protocol, name, options.seeds, ceilings)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "transfer.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "transfer.md").write_text(markdown(report))


if __name__ == "__main__":
    main()
