"""The training loop: one function, read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric

from ..data import SegmentationData
from ..data.cache import PixelCache
from ..data.loading import EvalLoader, TrainLoader
from ..nets import SegmentationNet, save_network
from ..spaces.segmentation import SegmentationSpace
from ..tasks.metrics import SegmentationScore
from .batches import BringsBatches
from .checkpoints import Checkpoint, identity
from .epoch import Training, run_epoch
from .evaluate import eager_predict, evaluate
from .logs import Logs
from .pictures import draw_pictures
from .progress import Live
from .recipes import Recipe
from .setup import batch_per_process, begin, build_fabric
from .step import Objective, PlainLoss

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with.

    ``score`` is the best validation mIoU (0..1) of the averaged weights, which are in ``best`` (read it with
    ``load_network``); ``epochs`` how many were done; ``seconds`` the training time over all calls. ``status``:
    "finished", "paused" at ``until_epoch``, or "stopped" by the deadline.
    """

    score: float
    best_epoch: int
    epochs: int
    history: list[dict[str, Any]]
    best: Path
    last: Path
    seconds: float
    status: Literal["finished", "paused", "stopped"]


def train(
    net: SegmentationNet,
    data: SegmentationData,
    recipe: Recipe,
    folder: Path,
    *,
    split: tuple[str, str] = ("train", "val"),
    cache: PixelCache | None = None,
    until_epoch: int | None = None,
    deadline: float | None = None,
    on_event: OnEvent | None = None,
    fabric: Fabric | None = None,
    objective: Objective | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train ``net`` in place; kill it at any moment, call it again, and it ends with the same weights.

    Args:
        net: built by ``build_network``; a checkpoint in ``folder`` replaces its weights.
        data: a data set that has both splits.
        recipe: how to train.
        folder: takes ``last.pt`` (full state), ``best.pt`` (network), ``metrics.csv``, events and pictures.
        split: names of the splits to train on and to evaluate on.
        cache: decoded pixels on disk, to share between trainings.
        until_epoch: stop after this many epochs with the schedule of ``recipe.epochs``; call again to go on.
        deadline: in seconds of ``time.monotonic``; the epoch during which it passes is the last one.
        on_event: called with ("epoch", row of the history) after each epoch.
        fabric: devices to use instead of those of the recipe (and of ``torchrun``).
        objective: what a step optimises; by default the recipe's loss of ``net`` alone.
        quiet: print nothing.

    Raises:
        CatchweightError: loss or weights are not finite, the folder cannot be written, or it holds another
            training; ``last.pt`` is then the last good state.
    """
    folder = Path(folder)
    fabric = fabric or build_fabric(recipe, partial=isinstance(net, SegmentationSpace))
    objective = objective or PlainLoss()
    fabric.launch()
    make = partial(
        TrainLoader,
        data=data,
        size=recipe.size,
        batch=batch_per_process(recipe, fabric.world_size),
        augment=recipe.augment,
        seed=recipe.seed,
        cache=cache,
        workers=recipe.workers,
        split=split[0],
        rank=fabric.global_rank,
        world=fabric.world_size,
        pin=fabric.device.type == "cuda",
    )
    train_loader = objective.batches(make, recipe) if isinstance(objective, BringsBatches) else make()
    val_loader = EvalLoader(data, split[1], recipe.size, recipe.eval_batch, cache, workers=recipe.workers)
    about = identity(net, data, recipe, split, fabric.world_size, objective.describe())
    checkpoint = Checkpoint(folder / "last.pt", about, fabric.strategy.precision)
    training = begin(fabric, net, data, recipe, train_loader, checkpoint, split[0], objective)
    progress, best = training.progress, folder / "best.pt"
    end = recipe.epochs if until_epoch is None else min(until_epoch, recipe.epochs)
    late = False
    show = fabric.is_global_zero and not quiet
    with (
        Live(recipe.epochs, len(train_loader), progress, quiet=not show) as live,
        Logs(folder, progress.history, recipe.tensorboard, enabled=fabric.is_global_zero) as logs,
    ):
        while progress.epoch < end and not late:
            run_epoch(training, live)
            late = fabric.broadcast(deadline is not None and time.monotonic() >= deadline)
            epoch = progress.epoch + 1
            score = None
            if epoch % recipe.eval_every == 0 or epoch == end or late:
                score = _validate(training, val_loader, data)
                if score.miou > progress.best_score:
                    progress.best_score, progress.best_epoch = score.miou, epoch
                    if fabric.is_global_zero:
                        save_network(best, training.ema.net, _meta(recipe, data, epoch, score))
            row = training.end_epoch(score)
            # The checkpoint comes before the logs: they are rebuilt from it, never the other way round.
            training.save()
            logs.write(progress.history)
            live.epoch(row, progress.best_score)
            if on_event is not None and fabric.is_global_zero:
                on_event("epoch", row)
    done = progress.epoch == recipe.epochs
    if fabric.is_global_zero and (done or late):
        draw_pictures(folder, data, recipe, progress.history, split[1], cache)
    fabric.barrier()
    return TrainResult(
        score=max(0.0, progress.best_score),
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        history=list(progress.history),
        best=best,
        last=checkpoint.path,
        seconds=progress.seconds,
        status="finished" if done else "stopped" if late else "paused",
    )


def _validate(training: Training, loader: EvalLoader, data: SegmentationData) -> SegmentationScore:
    """Score of the averaged weights; the first process does the work and tells the others."""
    score = None
    if training.fabric.is_global_zero:
        training.ema.copy_counters()
        predict = eager_predict(training.ema.net, training.recipe.channels_last)
        score = evaluate(predict, loader, data.classes)
    told = training.fabric.broadcast(score)
    assert told is not None, "the first process always has a score"
    return told


def _meta(recipe: Recipe, data: SegmentationData, epoch: int, score: SegmentationScore) -> dict[str, Any]:
    """What is kept with the weights: enough to export them and to know what they scored."""
    return {
        "classes": data.classes.to_json(),
        "size": list(recipe.size),
        "epoch": epoch,
        "val_miou": score.miou,
        "recipe": recipe.model_dump(mode="json"),
    }
