"""``fit`` with compression at toy size on the formula device: scenes, settings, and the job as a command of its own.

python tiny_chain.py SCENES RUN BUDGET
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import catchweight as cw
from catchweight.compress import HalpSettings
from catchweight.compress.quantize import QuantizeSettings
from catchweight.data.scenes import make_scenes
from catchweight.fitting import CompressionSettings, FitResult, FitSettings, SearchSettings
from catchweight.nets import build_network
from catchweight.targets import Target
from catchweight.targets.latency.table import default_folder
from catchweight.train import Recipe

NETWORK = "timm/test_resnet+fpn:width=32,levels=2-3"
SIZE, SMALL = (96, 96), (64, 64)


def toy_scenes(folder: Path) -> Path:
    return make_scenes(folder, {"train": 8, "val": 4}, SIZE)


def profiled(classes: int) -> None:
    """Give the device's table what pruning wants to know of it."""
    sys.path.append(str(Path(__file__).parents[1]))
    from analytic_table import analytic_table

    torch.manual_seed(0)
    target = Target.parse("onnxruntime:cpu", threads=1)
    analytic_table(build_network(NETWORK, classes), SIZE, target, default_folder(target))


def settings(**compress: Any) -> FitSettings:
    """One network at two input sizes; each training is an epoch of two steps."""
    steps = CompressionSettings(
        **{
            "steps": "all", "tolerance": 100, "epochs": 1, "variants": 0,
            "prune": HalpSettings(steps=2, interval=2, close=0.1),
            "int8": QuantizeSettings(methods=("minmax",), images=2, probe=1, equalise=False, correct_bias=False),
            **compress,
        }
    )  # fmt: skip
    return FitSettings(
        search=SearchSettings(strategy="whole", networks=(NETWORK,), widths=(1.0,), scales=(1.0, 2 / 3), most=1),
        train=Recipe(epochs=1, batch=4, lr=2e-3, warmup=0.0, tensorboard=False, workers=0, accelerator="cpu"),
        compress=steps,
    )


def toy_fit(
    scenes: Path,
    run: Path,
    budget: str | list[str],
    say: Callable[[str], None] = lambda _: None,
    minutes: float | None = None,
    **compress: Any,
) -> FitResult:
    return cw.fit(
        scenes, budget, run=run, settings=settings(**compress), threads=1, weights="none", say=say, minutes=minutes
    )


if __name__ == "__main__":
    from formula_target import formula

    with formula():
        toy_fit(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], say=print)
