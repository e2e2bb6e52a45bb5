"""``count`` and ``bench --roofline``, called as functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from catchweight.cli.counts import count
from catchweight.cli.deploy import bench
from catchweight.errors import UsageError
from catchweight.targets.tracing.graph import to_onnx


def test_count_prints_modules_to_a_depth_and_writes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count("ffnet_22s_bcc_mobile", "64x96", "module", 1, 1, 11, tmp_path / "counts.json")
    text = capsys.readouterr().out
    assert "backbone" in text
    assert "backbone.stem" not in text
    found = json.loads((tmp_path / "counts.json").read_text())
    assert found["macs"] == sum(op["macs"] for op in found["ops"])
    assert f"{found['macs'] / 1e9:.3f} G multiply-adds" in text


def test_count_by_operator(capsys: pytest.CaptureFixture[str]) -> None:
    count("ffnet_22s_bcc_mobile", "64x96", "op", 1, 1, 11, None)
    assert capsys.readouterr().out.count("conv2d") >= 38
    with pytest.raises(UsageError, match="module"):
        count("ffnet_22s_bcc_mobile", "64x96", "modul", 1, 1, 11, None)


def test_bench_with_roofline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATCHWEIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("catchweight.targets.latency.roofline._PROBES", ((16, 1, 8),))
    monkeypatch.setattr("catchweight.targets.latency.roofline._STREAM", (64, 64))
    monkeypatch.setattr("catchweight.targets.latency.roofline._SECONDS", 0.02)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()).eval()
    path, figures = to_onnx(net, tmp_path / "net.onnx", (64, 64)), tmp_path / "figures.json"
    bench([path], 1, None, 0.02, False, None, True, figures)
    text = capsys.readouterr().out
    assert "roofline" in text
    assert "Conv" in text
    found = json.loads(figures.read_text())
    assert found["latency"][0]["file"] == "net.onnx"
    (whole,) = (one["whole"] for one in found["roofline"].values())
    assert whole["macs"] == 3 * 16 * 9 * 64 * 64
