"""Targets: parsing, preparing, measuring, cost. No machine's speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from catchweight.budget import Cost
from catchweight.errors import CatchweightError, UsageError
from catchweight.targets import RUNTIMES, Target, interleaved, to_onnx
from catchweight.targets.target import default_threads


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def exported(net: nn.Module, tmp_path_factory) -> Path:
    return to_onnx(net, tmp_path_factory.mktemp("onnx") / "a.onnx", (64, 80))


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_target_costs_a_network(name: str, net: nn.Module) -> None:
    net.train()
    target = Target.parse(name, threads=1)
    cost = target.cost(net, (64, 80), seconds=0.05)
    assert str(target) == name
    assert cost.latency_ms is not None
    assert cost.latency_ms > 0
    assert cost.macs == (3 * 8 * 9 + 8 * 4) * 64 * 80
    assert cost.params == 3 * 8 * 9 + 8 + 16 + 8 * 4 + 4
    assert cost.memory_bytes is None
    assert (cost.file_bytes or 0) > 4 * cost.params or name.startswith("torch")
    assert net.training
    assert Cost.from_json(cost.to_json()) == cost


def test_onnx_and_torch_share_a_measurement_and_threads_are_put_back(net: nn.Module, exported: Path) -> None:
    before = torch.get_num_threads()
    sessions = [
        Target.parse("onnxruntime:cpu", threads=1).prepare(exported),
        Target.parse("torch:cpu", threads=before + 1).prepare(net, (64, 80)),
    ]
    for one in interleaved(sessions, seconds=0.05):
        assert one.n >= 1
    assert torch.get_num_threads() == before


def test_file_size_and_batch_are_taken_or_asked(net: nn.Module, exported: Path, tmp_path: Path) -> None:
    one, two = Target.parse(threads=1), Target.parse(threads=1, batch=2)
    assert one.prepare(exported).batch == 1
    with pytest.raises(UsageError, match="export it again"):
        two.prepare(exported)
    with pytest.raises(UsageError, match="export it again"):
        one.prepare(exported, (64, 64))
    free = to_onnx(net, tmp_path / "free.onnx", (64, 80), dynamic=True)
    with pytest.raises(UsageError, match="any size"):
        two.prepare(free)
    session = two.prepare(free, (65, 71))
    session.run()
    assert session.batch == 2
    with pytest.raises(UsageError, match="size"):
        one.prepare(net)


@pytest.mark.parametrize("text", ["onnxruntim:cpu", "onnxruntime", "onnxruntime:npu", ""])
def test_unknown_targets_name_the_available(text: str) -> None:
    with pytest.raises(UsageError, match="Available here: onnxruntime:cpu, torch:cpu"):
        Target.parse(text)


def test_an_unavailable_target_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(RUNTIMES["torch:cpu"]):  # type: ignore[name-defined,misc]
        @staticmethod
        def missing() -> str:
            return "package unobtainium is not installed"

    monkeypatch.setitem(RUNTIMES, "absent:cpu", Absent)
    with pytest.raises(UsageError, match="unobtainium is not installed.*Available here: onnxruntime:cpu, torch:cpu"):
        Target.parse("absent:cpu")


def test_threads() -> None:
    assert Target.parse().threads == default_threads() >= 1
    assert Target.parse("ONNXRuntime:CPU ", threads=3).threads == 3
    with pytest.raises(UsageError, match="threads"):
        Target.parse(threads=0)


def test_fingerprint_tells_threads_apart_and_is_json(tmp_path: Path) -> None:
    one, two = Target.parse(threads=1).fingerprint(), Target.parse(threads=2).fingerprint()
    assert one != two
    assert {key: one[key] for key in one if one[key] != two[key]} == {"threads": 1}
    assert json.loads(json.dumps(one)) == one


def test_what_cannot_be_prepared(tmp_path: Path, net: nn.Module, exported: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:300])
    with pytest.raises(CatchweightError, match="broken.onnx"):
        Target.parse().prepare(broken)
    with pytest.raises(UsageError, match="networks, not files"):
        Target.parse("torch:cpu").prepare(exported)
