"""Images/s of real training (loader, Fabric, logging, checkpoints) against a bare loop on cached tensors.

    python benchmarks/train_overhead.py                               # demo scenes, a tiny network
    python benchmarks/train_overhead.py --data DIR --net eseg_lite_s  # CamVid-half: 180x240, batch 8

Both do the same arithmetic: same network, loss, clipping, optimiser and average of weights. The bare loop has all
its batches in memory as uint8 tensors, as if the loader cost nothing. Stretches of the two alternate in one process
and each pair gives a ratio, so that a machine that slows down slows both. Prints JSON; the target is a median of
0.95 or more. Validation and epoch-end files are outside of both, as they are no part of a step; what an epoch's
checkpoint costs is reported on its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch

from catchweight.data import SegmentationData, open_data
from catchweight.data.cache import PixelCache
from catchweight.data.loading import Batch, TrainLoader
from catchweight.data.scenes import make_scenes
from catchweight.nets import build_network
from catchweight.tasks.losses import SegmentationLoss
from catchweight.train import Recipe, finetune
from catchweight.train.checkpoints import Checkpoint, identity
from catchweight.train.ema import Ema
from catchweight.train.epoch import Training, run_epoch
from catchweight.train.optim import build_optimizer, set_lr
from catchweight.train.progress import Live
from catchweight.train.setup import begin, build_fabric


def make_training(data: SegmentationData, name: str, recipe: Recipe, folder: Path) -> tuple[Training, Live]:
    """The product's own training, as ``train`` sets it up."""
    torch.manual_seed(0)
    net = build_network(name, len(data.classes))
    fabric = build_fabric(recipe)
    loader = TrainLoader(
        data, recipe.size, recipe.batch, recipe.augment, recipe.seed, PixelCache(folder / "pixels"), recipe.workers
    )
    checkpoint = Checkpoint(folder / "last.pt", identity(net, data, recipe, ("train", "val"), 1))
    training = begin(fabric, net, data, recipe, loader, checkpoint, "train")
    return training, Live(recipe.epochs, len(loader), training.progress, quiet=True)


def product(training: Training, live: Live) -> Callable[[], float]:
    """Each call runs one whole epoch and returns its images/s."""

    def stretch() -> float:
        run_epoch(training, live)
        return training.end_epoch(None)["images_per_s"]

    return stretch


def bare(name: str, classes: int, recipe: Recipe, batches: list[Batch]) -> Callable[[], float]:
    """Each call trains on every cached batch once and returns images/s."""
    torch.manual_seed(0)
    net = build_network(name, classes).to(memory_format=torch.channels_last).train()
    optimizer, loss_of, ema = build_optimizer(net, recipe), SegmentationLoss(recipe.loss), Ema(net, recipe.ema)
    set_lr(optimizer, 1e-4)
    moved, steps = list(net.parameters()), iter(range(10**9))

    def stretch() -> float:
        start = time.perf_counter()
        for batch in batches:
            inputs = net.normalise(batch.images).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            loss_of(net.train_logits(inputs), batch.masks).backward()
            torch.nn.utils.clip_grad_norm_(moved, recipe.clip)
            optimizer.step()
            ema.update(next(steps))
        return sum(len(batch.images) for batch in batches) / (time.perf_counter() - start)

    return stretch


def compare(one: Callable[[], float], other: Callable[[], float], pairs: int) -> Iterator[tuple[float, float]]:
    """Images/s of both in turn, the order swapped every time; a first pair warms up."""
    one(), other()
    for swapped in islice(cycle((False, True)), pairs):
        if swapped:
            second, first = other(), one()
        else:
            first, second = one(), other()
        yield first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set; default: demo scenes")
    parser.add_argument("--net", default="timm/test_resnet+fpn")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default 64 64, with --data 180 240")
    parser.add_argument("--steps", type=int, default=20, help="steps a stretch")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, help="torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    size = tuple(options.size or ((180, 240) if options.data else (64, 64)))
    recipe = finetune().model_copy(update={"size": size, "epochs": 1000, "accelerator": "cpu"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = options.steps * recipe.batch
        data = open_data(options.data or make_scenes(folder / "scenes", {"train": count, "val": 1}, (64, 64)))
        data = replace(data, splits={"train": data.splits["train"][:count], "val": data.splits["val"][:1]})
        training, live = make_training(data, options.net, recipe, folder)
        batches = list(training.loader.epoch(0))
        measured = list(
            compare(product(training, live), bare(options.net, len(data.classes), recipe, batches), options.pairs)
        )
        waits = [row["data_wait_share"] for row in training.progress.history[1:]]
        start = time.perf_counter()
        training.save()
        saving = time.perf_counter() - start
    ratios = sorted(full / plain for full, plain in measured)
    report = {
        "network": options.net,
        "size": size,
        "batch": recipe.batch,
        "threads": torch.get_num_threads(),
        "steps": len(batches),
        "training_images_per_s": round(statistics.median(full for full, _ in measured), 2),
        "bare_images_per_s": round(statistics.median(plain for _, plain in measured), 2),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "data_wait_share": round(statistics.median(waits), 4),
        "checkpoint_s": round(saving, 3),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
