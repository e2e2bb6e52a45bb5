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
from catchweight.nets import build_network, save_network
from catchweight.targets import RUNTIMES, Target, count_params
from catchweight.targets.clock.rounds import Session
from catchweight.targets.runtimes.file_target import FileTarget
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


def test_a_target_that_runs_no_files_is_given_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target.parse("torch:cpu", threads=1)
    job, point = SimpleNamespace(target=target), SimpleNamespace(say=lambda line: None)
    net = build_network("timm/test_efficientnet+fpn", 3, width=0.25)
    save_network(tmp_path / "model.pt", net, {"size": [64, 96]})
    file = to_onnx(net.eval(), tmp_path / "model.onnx", (64, 96))
    asked: list[tuple[int, tuple[int, int] | None]] = []
    prepare = type(target).prepare

    def noted(self: Target, given: nn.Module, size: tuple[int, int] | None = None) -> Session:
        asked.append((count_params(given), size))
        return prepare(self, given, size)

    monkeypatch.setattr(type(target), "prepare", noted)
    found = measured(job, point, file, Cost(latency_ms=1.0, macs=7))
    assert asked == 3 * [(count_params(net), (64, 96))]
    assert found.latency_ms == read_json(tmp_path / "latency.json")["used"]["median_ms"] > 0
    assert (found.macs, found.file_bytes) == (7, file.stat().st_size)


def test_targets_tell_for_which_precisions_it_is_a_copy_that_runs(tmp_path: Path) -> None:
    """``fit`` refuses those: it would promise the latency of a file that it does not deliver."""
    file = to_onnx(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), tmp_path / "model.onnx", (64, 64))
    told, made = set(), set()
    for kind in (kind for kind in RUNTIMES.values() if issubclass(kind, FileTarget)):
        for precision in kind.precisions:
            target = kind(1, 1, precision)
            told |= {str(target)} if precision in target.converted else set()
            with target.written(file, (64, 64)) as opened:
                made |= {str(target)} if opened != file else set()
    assert told == made == {"onnxruntime:cpu:int8", "openvino:cpu:int8", "onnxruntime:cuda:fp16"}
