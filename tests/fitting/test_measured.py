"""The last measurement of `fit`: what the exported file takes, in every quantity that the search has measured."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from catchweight.budget import Cost
from catchweight.files import read_json
from catchweight.fitting.race import measured
from catchweight.targets import Target
from catchweight.targets.tracing.graph import to_onnx


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is only measured on Linux")
def test_memory_is_measured_again_where_the_search_measured_it(tmp_path: Path) -> None:
    said: list[str] = []
    job, point = SimpleNamespace(target=Target.parse("onnxruntime:cpu", threads=1)), SimpleNamespace(say=said.append)
    wide = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1)).eval()
    file = to_onnx(wide, tmp_path / "model.onnx", (256, 256))
    plain = measured(job, point, file, Cost(latency_ms=1.0, macs=7, memory_bytes=1.0))
    assert plain.memory_bytes is not None
    assert plain.memory_bytes > 4 * 64 * 256 * 256  # the wide map alone
    assert (plain.macs, plain.file_bytes, plain.energy_j) == (7, file.stat().st_size, None)
    assert measured(job, point, file, Cost(latency_ms=1.0)).memory_bytes is None
    assert read_json(tmp_path / "latency.json")["used"]["median_ms"] > 0
    assert len(said) == 2
