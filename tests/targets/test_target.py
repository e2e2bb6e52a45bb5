"""Targets: parsing, preparing, measuring, cost, on every runtime that is here. No machine's speed is asserted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from catchweight.budget import Cost
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.targets import RUNTIMES, Target, interleaved, listing, to_onnx
from catchweight.targets.runtimes.onnxruntime_cuda import to_half
from catchweight.targets.runtimes.quantized import is_quantized, quantize_for_latency
from catchweight.targets.target import default_threads

SIZE = (64, 80)
FILES = ("onnxruntime", "openvino", "tensorrt")


def here(*, compiled: bool = True) -> list[object]:
    """Every target that works on this machine; compiling takes up to a minute, so that is marked slow."""
    names = [name for name, missing in listing().items() if missing is None]
    plain: list[object] = [name for name in names if not name.startswith("torch-compile")]
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in names if name.startswith("torch-compile")]
    return plain + slow if compiled else plain


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def exported(net: nn.Module, tmp_path_factory) -> Path:
    return to_onnx(net, tmp_path_factory.mktemp("onnx") / "a.onnx", SIZE)


@pytest.mark.parametrize("name", here())
def test_every_target_costs_a_network(name: str, net: nn.Module) -> None:
    net.train()
    target = Target.parse(name, threads=1)
    cost = target.cost(net, SIZE, seconds=0.05)
    assert str(target) == name
    assert cost.latency_ms is not None
    assert cost.latency_ms > 0
    assert cost.macs == (3 * 8 * 9 + 8 * 4) * 64 * 80
    assert cost.params == 3 * 8 * 9 + 8 + 16 + 8 * 4 + 4
    assert cost.memory_bytes is None
    assert (cost.file_bytes is None) == name.startswith("torch")
    assert net.training
    assert next(net.parameters()).dtype == torch.float32
    assert Cost.from_json(cost.to_json()) == cost


@pytest.mark.parametrize("name", here())
def test_every_target_takes_odd_sizes_and_batches(name: str, net: nn.Module) -> None:
    target = Target.parse(name, threads=2, batch=3, size=(37, 51))
    session = target.prepare(net)
    measured = target.measure(session, seconds=0.02)
    assert (measured.batch, measured.threads, session.batch) == (3, 2, 3)
    assert measured.runtime == session.runtime
    assert measured.reference_ms is not None
    assert measured.relative == pytest.approx(measured.relative)
    with pytest.raises(UsageError, match="size"):
        Target.parse(name, threads=1).prepare(net)


@pytest.mark.parametrize("name", here(compiled=False))
def test_files_are_run_or_refused(name: str, exported: Path, tmp_path: Path) -> None:
    target = Target.parse(name, threads=1)
    if not name.startswith(FILES):
        with pytest.raises(UsageError, match="networks, not files"):
            target.prepare(exported)
        return
    target.prepare(exported).run()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:300])
    with pytest.raises(CatchweightError, match="broken.onnx"):
        target.prepare(broken)


@pytest.mark.parametrize("name", [name for name in here(compiled=False) if str(name).startswith(FILES)])
def test_file_size_and_batch_are_taken_or_asked(name: str, net: nn.Module, exported: Path, tmp_path: Path) -> None:
    one, two = Target.parse(name, threads=1), Target.parse(name, threads=1, batch=2)
    assert one.prepare(exported).batch == 1
    with pytest.raises(UsageError, match="export it again"):
        two.prepare(exported)
    with pytest.raises(UsageError, match="export it again"):
        one.prepare(exported, (64, 64))
    free = to_onnx(net, tmp_path / "free.onnx", SIZE, dynamic=True)
    with pytest.raises(UsageError, match="any size"):
        two.prepare(free)
    session = two.prepare(free, (65, 71))
    session.run()
    assert session.batch == 2


def test_runtimes_share_a_measurement_and_threads_are_put_back(net: nn.Module, exported: Path) -> None:
    before = torch.get_num_threads()
    sessions = [
        Target.parse("onnxruntime:cpu", threads=1).prepare(exported),
        Target.parse("torch:cpu", threads=before + 1).prepare(net, SIZE),
    ]
    measured = interleaved(sessions, seconds=0.05)
    assert len(measured) == 2
    for one, session in zip(measured, sessions, strict=True):
        assert one.n >= 1
        assert one.runtime == session.runtime
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("text", ["onnxruntim:cpu", "onnxruntime", "onnxruntime:npu", "", "a:b:c:d"])
def test_unknown_targets_name_the_available(text: str) -> None:
    with pytest.raises(UsageError, match="unknown target.*Available here: onnxruntime:cpu, onnxruntime:cpu:int8"):
        Target.parse(text)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError, match='did you mean "onnxruntime:cpu"'):
        Target.parse("onnxruntim:cpu")
    with pytest.raises(UsageError, match='precision of onnxruntime:cpu "int9": did you mean "int8"'):
        Target.parse("onnxruntime:cpu:int9")


def test_an_unavailable_target_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(RUNTIMES["torch:cpu"]):  # type: ignore[name-defined,misc]
        @staticmethod
        def missing() -> str:
            return "package unobtainium is not installed"

    monkeypatch.setitem(RUNTIMES, "absent:cpu", Absent)
    with pytest.raises(UsageError, match="unobtainium is not installed.*Available here: onnxruntime:cpu, "):
        Target.parse("absent:cpu")


@pytest.mark.parametrize("name", listing())
def test_names_round_trip_or_say_what_is_missing(name: str) -> None:
    missing = listing()[name]
    if missing is None:
        target = Target.parse(name, threads=1)
        assert str(target) == name
        assert Target.parse(str(target), threads=1) == target
        assert f"{target.runtime}:{target.device}" == target.name
    else:
        with pytest.raises(UsageError) as caught:
            Target.parse(name)
        assert missing in str(caught.value)


def test_the_issue_s_names_are_all_known() -> None:
    names = {
        "onnxruntime:cpu", "onnxruntime:cpu:int8", "onnxruntime:cuda", "onnxruntime:cuda:fp16", "openvino:cpu",
        "torch:cpu", "torch:cpu:bf16", "torch:cuda", "torch:cuda:fp16", "torch-compile:cpu",
        "torch-compile:cuda:fp16", "tensorrt:cuda:fp16",
    }  # fmt: skip
    assert names <= set(listing())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_targets_say_why_not() -> None:
    for name, missing in listing().items():
        if ":cuda" in name:
            assert missing, name
            assert any(word in missing for word in ("CUDA", "GPU", "Provider", "triton")), missing


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler"):
        Target.parse("torch-compile:cpu")


def test_threads() -> None:
    assert Target.parse().threads == default_threads() >= 1
    assert Target.parse("ONNXRuntime:CPU ", threads=3).threads == 3
    assert Target.parse("torch:cpu:fp32", threads=3) == Target.parse("torch:cpu", threads=3)
    with pytest.raises(UsageError, match="threads"):
        Target.parse(threads=0)


def test_fingerprints_tell_what_differs_and_are_json() -> None:
    one = Target.parse(threads=1).fingerprint()
    for other, key in (
        (Target.parse(threads=2), "threads"),
        (Target.parse(threads=1, batch=2), "batch"),
        (Target.parse("onnxruntime:cpu:int8", threads=1), "target"),
    ):
        two = other.fingerprint()
        assert {name for name in {*one, *two} if one.get(name) != two.get(name)} == {key}
    assert json.loads(json.dumps(one)) == one


@pytest.mark.skipif("openvino:cpu" not in here(), reason="openvino is not installed")
def test_openvino_gives_what_eager_torch_gives(net: nn.Module) -> None:
    session = Target.parse("openvino:cpu", threads=1).prepare(net.eval(), (33, 47))
    session.run()
    with torch.no_grad():
        expected = net(torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 33, 47), dtype=np.float32)))
    np.testing.assert_allclose(session.outputs(), expected.numpy(), atol=1e-4)


def test_a_network_that_cannot_run_in_half_says_so() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.float())

    with pytest.raises(CatchweightError, match="cannot run in bf16"):
        Target.parse("torch:cpu:bf16", threads=1).prepare(Stubborn(), SIZE)


def _outputs(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0].ravel()


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_int8_files_are_quantised_and_near_the_float_ones(size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = to_onnx(build_network("timm/tf_efficientnet_lite0+fpn", 5), tmp_path / "plain.onnx", size)
    level = logging.root.level
    int8 = quantize_for_latency(plain, tmp_path / "int8.onnx")
    assert logging.root.level == level
    operators = [node.op_type for node in onnx.load(str(int8)).graph.node]
    assert operators.count("QuantizeLinear") > operators.count("Conv") > 20
    assert is_quantized(int8)
    assert not is_quantized(plain)
    assert int8.stat().st_size < 0.4 * plain.stat().st_size
    image = np.random.default_rng(7).standard_normal((1, 3, *size), dtype=np.float32)
    assert np.corrcoef(_outputs(plain, image), _outputs(int8, image))[0, 1] > 0.9
    assert quantize_for_latency(plain, tmp_path / "again.onnx").read_bytes() == int8.read_bytes()


def test_half_files_keep_their_interface(exported: Path, tmp_path: Path) -> None:
    half = to_half(exported, tmp_path / "half.onnx")
    model = onnx.load(str(half))
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    image = np.random.default_rng(7).standard_normal((1, 3, *SIZE), dtype=np.float32)
    np.testing.assert_allclose(_outputs(half, image), _outputs(exported, image), atol=2e-2)
