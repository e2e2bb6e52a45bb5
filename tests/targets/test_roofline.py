"""The roofline by hand, and the kernels of real files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from catchweight.deploy.roofline import table, verdict
from catchweight.errors import CatchweightError
from catchweight.targets import Target
from catchweight.targets.counts import count
from catchweight.targets.latency.kernels import kernel_macs, profile_kernels
from catchweight.targets.latency.roofline import Peak, Piece, device_peak, roofline
from catchweight.targets.tracing.graph import to_onnx

PEAK = Peak(gflops=100, gbs=10)
HEAVY = Piece("a", "conv", macs=10**9, bytes=10**6, ms=40)  # 20 ms of arithmetic, 0.1 ms of memory
LIGHT = Piece("b", "resize", macs=0, bytes=10**7, ms=10)  # 1 ms of memory
CACHED = Piece("c", "add", macs=0, bytes=10**7, ms=0.5)


def test_attainable_time_bound_and_efficiency() -> None:
    found = roofline([LIGHT, HEAVY, CACHED], PEAK)
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    heavy, light, cached = found.rows
    assert (heavy.bound, light.bound) == ("compute", "memory")
    assert heavy.attainable_ms == pytest.approx(20)
    assert heavy.efficiency == pytest.approx(0.5)
    assert heavy.gflops == pytest.approx(50)
    assert heavy.intensity == pytest.approx(2000)
    assert light.efficiency == pytest.approx(0.1)
    assert cached.efficiency == pytest.approx(2)
    assert sum(row.share for row in found.rows) == pytest.approx(1)


def test_the_whole_is_not_flattered_by_caches() -> None:
    whole = roofline([LIGHT, HEAVY, CACHED], PEAK).whole
    assert whole.ms == pytest.approx(50.5)
    assert whole.attainable_ms == pytest.approx(20 + 1 + 0.5)
    assert whole.macs == 10**9
    assert whole.bound == "compute"


def test_waste_is_named_worst_first_and_what_is_not_counted_too() -> None:
    found = roofline([LIGHT, HEAVY, CACHED], PEAK, ("LSTM",))
    assert [row.name for row in found.wasteful] == ["b"]
    text = "\n".join(verdict(found))
    assert "1 of 3 blocks" in text
    assert "9.000 ms lost, 10% of the roofline" in text
    assert "LSTM" in text
    assert "cache" in text


def test_the_table_hides_the_tail_but_not_its_time() -> None:
    stream = io.StringIO()
    Console(file=stream, width=140).print(table(roofline([LIGHT, HEAVY, CACHED], PEAK), top=1))
    text = stream.getvalue()
    assert "2 more" in text
    assert "10.500" in text
    assert "50.500" in text
    assert "resize" not in text


def test_nothing_timed_is_an_error() -> None:
    with pytest.raises(CatchweightError, match="nothing was timed"):
        roofline([Piece("a", "conv", 1, 1, 0.0)], PEAK)


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "expected"),
    [
        ("Conv", [(1, 8, 10, 12), (16, 4, 3, 3)], (1, 16, 10, 12), 16 * 120 * 4 * 9),
        ("ConvTranspose", [(1, 8, 5, 6), (8, 4, 2, 2)], (1, 4, 10, 12), 8 * 30 * 4 * 4),
        ("QLinearConv", [(1, 8, 4, 4), (), (), (16, 8, 1, 1)], (1, 16, 4, 4), 16 * 16 * 8),
        ("Gemm", [(7, 5), (5, 3)], (7, 3), 7 * 5 * 3),
        ("MatMul", [(2, 7, 5), (2, 5, 3)], (2, 7, 3), 2 * 7 * 5 * 3),
        ("Resize", [(1, 8, 4, 4)], (1, 8, 8, 8), 0),
    ],
)
def test_multiply_adds_of_kernels(kind: str, inputs: list, output: tuple[int, ...], expected: int) -> None:
    assert kernel_macs(kind, inputs, output) == expected


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
        self.head = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 2])
def test_kernels_of_a_file_compute_what_the_network_counts(tmp_path: Path, batch: int) -> None:
    net, size = Small().eval(), (24, 32)
    pieces, uncounted = profile_kernels(
        to_onnx(net, tmp_path / "net.onnx", size, batch), threads=1, batch=batch, runs=3
    )
    assert sum(piece.macs for piece in pieces) == count(net, size, batch).macs
    assert uncounted == ()
    convolutions = [piece for piece in pieces if piece.kind == "Conv"]
    assert {piece.name.split(".")[0] for piece in convolutions} == {"body"}
    maps = 4 * batch * size[0] * size[1]
    assert max(piece.bytes for piece in convolutions) == 2 * 32 * maps + 4 * 32 * (32 * 9 + 1)


def test_peaks_are_measured_once_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catchweight.targets.latency.roofline._PROBES", ((16, 1, 8),))
    monkeypatch.setattr("catchweight.targets.latency.roofline._STREAM", (64, 64))
    monkeypatch.setattr("catchweight.targets.latency.roofline._SECONDS", 0.02)
    target = Target.parse("torch:cpu", threads=1)  # needs no export
    first = device_peak(target, tmp_path)
    assert first.gflops > 0
    assert first.gbs > 0
    (kept,) = tmp_path.glob("*.json")
    assert device_peak(target, tmp_path) == first
    device_peak(Target.parse("torch:cpu", threads=2), tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    kept.write_text('{"fingerprint": {}, "gflops": 1, "gbs": 1}')
    assert device_peak(target, tmp_path) != Peak(1, 1)
