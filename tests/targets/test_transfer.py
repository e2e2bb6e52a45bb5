"""Few-shot transfer on devices of known structure, its invariants, and the real table."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from catchweight.errors import UsageError
from catchweight.targets.transfer.model import TransferModel
from conftest import DATA, REPOSITORY

NASBENCH = DATA / "nasbench201" / "nasbench201.csv.gz"
needs_nasbench = pytest.mark.skipif(
    not NASBENCH.exists(), reason=f"no table at {NASBENCH}: set CATCHWEIGHT_DATA to the folder that holds nasbench201"
)


class Devices:
    """A made family: each device has a price per operator of four kinds and an overhead; prices mix two extremes."""

    def __init__(self, noise: float = 0.02, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise = noise
        self.counts = self.rng.integers(0, 8, (400, 4)).astype(float)
        self.macs = self.counts @ [9.0, 4.0, 1.0, 0.2]
        self.known = np.column_stack([self.measured(share) for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)])
        self.new = self.measured(0.5, factor=7.0)

    def truth(self, share: float, factor: float = 1.0) -> np.ndarray:
        compute, launch = np.array([9.0, 4.0, 1.0, 0.2]) / 10, np.array([0.6, 0.6, 0.7, 1.5])
        return factor * (2.0 + self.counts @ (share * compute + (1 - share) * launch))

    def measured(self, share: float, factor: float = 1.0) -> np.ndarray:
        return self.truth(share, factor) * np.exp(self.noise * self.rng.standard_normal(len(self.counts)))


@cache
def family() -> tuple[Devices, TransferModel]:
    devices = Devices()
    return devices, TransferModel().fit(devices.counts[:200], devices.known[:200])


def within(predicted: np.ndarray, truth: np.ndarray, share: float) -> float:
    return float((np.abs(predicted / truth - 1) <= share).mean())


@pytest.mark.parametrize("how", ["informative", "random"])
def test_beats_one_number_and_one_table(how: str) -> None:
    devices, model = family()
    probes = model.choose_probes(devices.counts[:200], 10, how, seed=3)
    predicted, _ = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[200:])
    truth = devices.truth(0.5, 7.0)[200:]
    line = np.polyval(np.polyfit(devices.macs[probes], devices.new[probes], 1), devices.macs[200:])
    tables = devices.known * np.median(devices.new[probes, None] / devices.known[probes], axis=0)
    best_table = max(within(table, truth, 0.05) for table in tables[200:].T)
    assert within(predicted, truth, 0.05) > max(best_table, within(line, truth, 0.05)) + 0.05
    assert spearmanr(predicted, truth)[0] > max(0.99, spearmanr(line, truth)[0])


def test_spread_covers_the_error() -> None:
    devices, model = family()
    probes = model.choose_probes(devices.counts[:200], 10)
    mean, std = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[200:])
    share = float((np.abs(mean - devices.new[200:]) <= 2 * std).mean())
    assert share > 0.85
    assert np.median(std / mean) < 0.1


def test_one_wrong_probe_bends_little() -> None:
    devices, model = family()
    probes = model.choose_probes(devices.counts[:200], 10, "random", seed=1)
    latency = devices.new[probes].copy()
    latency[4] *= 3
    predicted, _ = model.adapt(devices.counts[probes], latency).predict(devices.counts[200:])
    assert np.median(np.abs(predicted / devices.truth(0.5, 7.0)[200:] - 1)) < 0.06


def test_one_known_device_is_enough() -> None:
    """Our own table: one device, a few measurements on another, whose prices differ a little."""
    devices = Devices()
    model = TransferModel().fit(devices.counts[:200], devices.known[:200, 3:4])
    probes = model.choose_probes(devices.counts[:200], 10)
    predicted, _ = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[200:])
    truth = devices.truth(0.5, 7.0)[200:]
    assert within(predicted, truth, 0.1) > 0.95


def test_missing_measurements_of_known_devices() -> None:
    devices = Devices()
    known = devices.known.copy()
    known[::3, 2] = np.nan
    model = TransferModel().fit(devices.counts[:200], known[:200], devices=["a", "a", "b", "c", "c", "d"])
    probes = model.choose_probes(devices.counts[:200], 10)
    predicted, _ = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[200:])
    assert within(predicted, devices.truth(0.5, 7.0)[200:], 0.05) > 0.9


@pytest.mark.parametrize("measured", [25, 35])
def test_a_known_device_with_few_measurements_keeps_some_to_be_judged_by(measured: int) -> None:
    """Of 80 architectures, fewer than the probes that are expected, or hardly more."""
    devices = Devices()
    known = devices.known[:80].copy()
    known[measured:, 2] = np.nan
    model = TransferModel().fit(devices.counts[:80], known, probes=30)
    trials = list(model._trials(np.log(known), range(6), 30))
    sizes = {(len(trial.seen), len(trial.truth)) for trial in trials}
    assert sizes == {(30, 50), (measured // 2, measured - measured // 2)}
    full = TransferModel().fit(devices.counts[:80], devices.known[:80], probes=30)
    assert model.calibration == pytest.approx(full.calibration, rel=0.25)


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 50), k=st.integers(2, 15))
def test_scaling_the_device_scales_the_prediction(factor: float, seed: int, k: int) -> None:
    devices, model = family()
    probes = model.choose_probes(devices.counts, k, "random", seed)
    mean, std = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[:50])
    scaled, spread = model.adapt(devices.counts[probes], devices.new[probes] * factor).predict(devices.counts[:50])
    np.testing.assert_allclose(scaled, mean * factor, rtol=1e-4)
    np.testing.assert_allclose(spread, std * factor, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(10)), seed=st.integers(0, 50))
def test_order_of_probes_does_not_matter(order: list[int], seed: int) -> None:
    devices, model = family()
    probes = model.choose_probes(devices.counts, 10, "random", seed)
    mean, std = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts[:50])
    moved = probes[order]
    again, spread = model.adapt(devices.counts[moved], devices.new[moved]).predict(devices.counts[:50])
    np.testing.assert_allclose(again, mean, rtol=1e-4)
    np.testing.assert_allclose(spread, std, rtol=1e-3)


def test_probes_are_distinct_and_repeatable() -> None:
    devices, model = family()
    chosen = model.choose_probes(devices.counts, 12)
    assert len(set(chosen.tolist())) == 12
    assert chosen.tolist() == model.choose_probes(devices.counts, 12).tolist()
    assert chosen[:5].tolist() == model.choose_probes(devices.counts, 5).tolist()


def test_informative_probes_inform() -> None:
    devices, model = family()

    def error(probes: np.ndarray) -> float:
        predicted, _ = model.adapt(devices.counts[probes], devices.new[probes]).predict(devices.counts)
        return float(np.abs(predicted / devices.truth(0.5, 7.0) - 1).mean())

    random = [error(model.choose_probes(devices.counts[:200], 6, "random", seed)) for seed in range(8)]
    assert error(model.choose_probes(devices.counts[:200], 6)) < np.mean(random)


def test_mistakes_are_named() -> None:
    devices, model = family()
    some = devices.counts[:30]
    with pytest.raises(UsageError, match="call fit first"):
        TransferModel().choose_probes(some, 3)
    with pytest.raises(UsageError, match=r'"informatve": did you mean "informative"\?'):
        model.choose_probes(some, 3, "informatve")
    with pytest.raises(UsageError, match="cannot choose 31 probes among 30"):
        model.choose_probes(some, 31)
    with pytest.raises(UsageError, match="knows 4 features, but got 3"):
        model.choose_probes(some[:, :3], 3)
    with pytest.raises(UsageError, match="positive latency"):
        model.adapt(some[:2], np.array([1.0, 0.0]))
    with pytest.raises(UsageError, match=r"2 architectures, but latencies of shape \(3,\)"):
        model.adapt(some[:2], np.ones(3))
    with pytest.raises(UsageError, match="6 columns of latencies, but 2 device names"):
        TransferModel().fit(some, devices.known[:30], ["a", "b"])
    with pytest.raises(UsageError, match="positive ms, or NaN"):
        TransferModel().fit(some, -devices.known[:30])
    with pytest.raises(UsageError, match="only 19 architectures"):
        TransferModel().fit(some[:19], devices.known[:19])
    with pytest.raises(UsageError, match=r"additive features \[9\] are not all among the 4"):
        TransferModel([9]).fit(some, devices.known[:30])


@pytest.mark.slow
@needs_nasbench
def test_real_devices(tmp_path: Path) -> None:
    """Unseen real devices: better on average than every baseline given the same ten cells, and than with fewer."""
    script = REPOSITORY / "benchmarks" / "transfer.py"
    command = [
        sys.executable,
        str(script),
        str(NASBENCH),
        "--out",
        str(tmp_path),
        "--seeds",
        "2",
        "--splits",
        "devices",
    ]
    subprocess.run(command, check=True)
    rows = json.loads((tmp_path / "transfer.json").read_text())["splits"]["devices"]["results"]
    mean = {(row["method"], row["k"]): row for row in rows if row["device"] == "mean"}
    baselines = ("MACs", "layer count", "one table, scaled", "k points alone")
    for ours in ("ours, informative probes", "ours, random probes"):
        assert mean[ours, 10]["spearman"] > max(mean[name, 10]["spearman"] for name in baselines)
        assert mean[ours, 10]["within_10"] > max(mean[name, 10]["within_10"] for name in baselines)
        assert mean[ours, 20]["rmspe"] < mean[ours, 10]["rmspe"]
    assert "| HELP" not in (tmp_path / "transfer.md").read_text(), "published figures belong to split help alone"
