"""How claim checks train and time their arms: seeds, recipe and target shared by all arms of a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import SegmentationData
from ..data.loading import EvalLoader
from ..errors import CatchweightError
from ..nets import build_network, load_network
from ..nets.segmentation import SegmentationNet
from ..targets.clock.measure import distinguishable, interleaved
from ..targets.target import Target
from ..train import Recipe, eager_predict, evaluate, train
from ..train.step import Objective
from .system import CheckContext

Make = Callable[[], SegmentationNet]

THREADS = 2


def trained_score(
    context: CheckContext,
    arm: str,
    seed: int,
    make: Make,
    recipe: Recipe,
    *,
    objective: Callable[[], Objective] | None = None,
    data: SegmentationData | None = None,
) -> float:
    """Validation mIoU in points (0..100) after the recipe's last epoch; done once, continued when interrupted.

    The seed decides the initial weights, and with the recipe's own seed the order and augmentation of the data, so
    arms with one seed see the same batches. ``objective`` (made only if there is something to train) replaces the plain
    loss, ``data`` the data set of the check.
    """

    def work() -> dict[str, Any]:
        torch.manual_seed(seed)
        result = train(
            make(),
            data or context.need_data(),
            recipe.model_copy(update={"seed": seed}),
            training_folder(context, arm, seed),
            cache=context.cache,
            objective=objective() if objective else None,
            quiet=True,
        )
        return {"miou": 100 * result.score, "train_seconds": result.seconds}

    return float(context.stage(f"{arm}-seed{seed}", work)["miou"])


def training_folder(context: CheckContext, arm: str, seed: int) -> Path:
    return context.folder / f"{arm}-seed{seed}"


def trained_network(context: CheckContext, arm: str, seed: int) -> SegmentationNet:
    """The network that ``trained_score`` scored, in evaluation mode."""
    net, _ = load_network(training_folder(context, arm, seed) / "best.pt")
    return net


def offline_weights(context: CheckContext, network: str) -> str:
    """ "offline" where the ImageNet weights of this network's backbone are installed, else "none"; asked once."""

    def work() -> str:
        try:
            build_network(network, 2, weights="offline")
        except CatchweightError:
            return "none"
        return "offline"

    return str(context.stage("weights", work))


def score(context: CheckContext, net: SegmentationNet, size: tuple[int, int]) -> float:
    """Validation mIoU in points of a network as it is."""
    data = context.need_data()
    loader = EvalLoader(data, "val", size, 8, context.cache)
    return 100 * evaluate(eager_predict(net), loader, data.classes).miou


def validation_images(context: CheckContext, count: int, size: tuple[int, int]) -> Tensor:
    """The first images of the validation split: ``(count, 3, H, W)`` uint8."""
    loader = EvalLoader(context.need_data(), "val", size, count, context.cache)
    return next(iter(loader)).images


def latency_ratio(first: Path, second: Path, seconds: float) -> float:
    """Latency of the first exported file over that of the second: ONNX Runtime, two threads, interleaved turns."""
    target = Target.parse("onnxruntime:cpu", threads=THREADS)
    one, two = interleaved([target.prepare(file) for file in (first, second)], seconds)
    return distinguishable(two, one).ratio
