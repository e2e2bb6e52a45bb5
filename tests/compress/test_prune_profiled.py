"""Pruning with nothing taken for granted: prunings of the network are profiled on this device first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catchweight.compress import HalpSettings, PruneResult, prune
from catchweight.data import open_data
from catchweight.data.scenes import make_scenes
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.train import Recipe

SIZE = (128, 160)


@pytest.mark.slow
def test_with_a_table_profiled_on_this_device(tmp_path: Path) -> None:
    """A killed profile goes on, and the pruned network is faster as measured."""
    data = open_data(make_scenes(tmp_path / "scenes", {"train": 8, "val": 4}, (64, 64)))
    target = Target.parse("onnxruntime:cpu", threads=1)
    torch.manual_seed(0)
    net = build_network("ffnet_22s_bcc_mobile", len(data.classes), width=0.5)
    recipe = Recipe(epochs=1, batch=4, size=SIZE, lr=2e-3, warmup=0.0, tensorboard=False, workers=0)
    limit = 0.7 * target.measure(net, recipe.size).median_ms
    lines: list[str] = []

    def call() -> PruneResult:
        return prune(
            net, data, target, f"latency<={limit:.6f}ms", recipe, tmp_path / "run", variants=12,
            settings=HalpSettings(steps=2, interval=2, attempts=3, close=0.5), table=tmp_path / "none", say=say,
            quiet=True,
        )  # fmt: skip

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call()
    assert call().latency_ms < limit / 0.7
    assert sum(line.startswith("profile:") for line in lines) == 12
