"""Measured peak memory, against networks whose largest buffers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from catchweight.errors import CatchweightError, UsageError
from catchweight.targets import Target, file_memory, module_memory, to_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")

SIZE = (192, 256)
PLANE = SIZE[0] * SIZE[1] * 4
MARGIN = 0.6e6  # bytes: pages of code, and the kernel's own bookkeeping


class Wide(nn.Module):
    """64 planes that nothing can fuse away: both convolutions' operands must exist at once.

    Widths are multiples of 16, to which ONNX Runtime pads channels on processors with 512-bit vectors.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, channels, 1)
        self.down = nn.Conv2d(channels, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


class Heavy(nn.Module):
    """Two million weights on a small map."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.Conv2d(16, 512, 3), nn.Conv2d(512, 512, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    return to_onnx(Wide(), tmp_path_factory.mktemp("memory") / "wide.onnx", SIZE)


def test_the_big_buffer_is_seen(wide: Path) -> None:
    live = file_memory(wide, SIZE, pooled=False)
    assert live.activation_bytes == pytest.approx((3 + 64 + 16) * PLANE, rel=0.1, abs=MARGIN)
    assert abs(live.weights_bytes) < 0.15 * live.activation_bytes
    pooled = file_memory(wide, SIZE)
    assert pooled.total_bytes > live.total_bytes - MARGIN


def test_weights_are_seen() -> None:
    heavy = Heavy()
    weights = 4 * sum(parameter.numel() for parameter in heavy.parameters())
    memory = module_memory(heavy, (64, 64))
    assert memory.weights_bytes > 0.9 * weights
    assert memory.total_bytes == memory.weights_bytes + memory.activation_bytes


def test_eager_torch_holds_the_buffer_too() -> None:
    memory = module_memory(Wide(), SIZE)
    assert memory.activation_bytes > 0.9 * (3 + 64) * PLANE


def test_cost_has_memory_only_when_asked() -> None:
    target = Target.parse("onnxruntime:cpu", threads=1)
    assert target.cost(Wide(), SIZE, seconds=0).memory_bytes is None
    with_memory = target.cost(Wide(), SIZE, seconds=0, memory=True).memory_bytes
    assert with_memory is not None
    assert with_memory > 64 * PLANE


def test_sizes_are_checked_before_a_process_is_started(wide: Path) -> None:
    with pytest.raises(UsageError, match="export it again"):
        file_memory(wide, (64, 64))


@pytest.mark.parametrize(
    ("does", "told"),
    [("os.kill(os.getpid(), signal.SIGKILL)", r"was killed \(SIGKILL\)"), ("time.sleep(60)", "more than 2 s")],
)
def test_a_process_that_is_killed_or_hangs_is_told(wide: Path, tmp_path: Path, monkeypatch, does, told) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import os, signal, time\n{does}\n")
    monkeypatch.setattr("catchweight.targets.clock.memory._CHILD", child)
    monkeypatch.setattr("catchweight.targets.clock.memory._LIMIT", 2)
    with pytest.raises(CatchweightError, match=rf"wide\.onnx cannot be measured: .*{told}"):
        file_memory(wide, SIZE)


def test_what_cannot_be_traced_or_run_says_so(tmp_path: Path) -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CatchweightError, match="Moody cannot be traced"):
        module_memory(Moody(), (32, 32))
    torch.manual_seed(0)
    file = to_onnx(Wide(2), tmp_path / "a.onnx", (32, 32))
    file.write_bytes(file.read_bytes().replace(b"Conv", b"Conw"))
    with pytest.raises(CatchweightError, match=r"a\.onnx cannot be measured"):
        file_memory(file, (32, 32))
