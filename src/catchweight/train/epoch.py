"""One epoch: the inner loop of training, and the state it moves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor
from torch.optim import Optimizer

from ..data.loading import Batch
from ..nets import SegmentationNet
from ..quiet import give_way
from ..tasks.metrics import SegmentationScore
from .batches import Batches
from .checkpoints import Checkpoint, Progress
from .ema import Ema
from .optim import lr_factor, set_lr
from .progress import Live
from .recipes import Recipe
from .step import LossWatch

WATCH_EVERY = 16
"""Steps between looks at the loss on devices where looking makes the host wait."""


@dataclass
class Training:
    """Everything that a training moves, and how far it is.

    ``step`` and ``stepper`` are the objective's step and ``optimizer`` as Fabric has wrapped them; ``beside`` is what
    the step holds besides ``net``. ``files`` are the images by id, as paths below the data set's folder.
    """

    fabric: Fabric
    recipe: Recipe
    net: SegmentationNet
    step: _FabricModule
    optimizer: Optimizer
    stepper: Any
    ema: Ema[SegmentationNet]
    loader: Batches
    checkpoint: Checkpoint
    progress: Progress
    class_names: tuple[str, ...]
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def lr(self, at: int) -> float:
        """Learning rate of global step ``at`` (from 0)."""
        recipe, steps = self.recipe, len(self.loader)
        return recipe.lr * lr_factor(at, recipe.epochs * steps, int(recipe.warmup * steps), recipe)

    def save(self) -> None:
        """Write the checkpoint (first process only)."""
        if self.fabric.is_global_zero:
            self.checkpoint.save(self.net, self.ema, self.optimizer, self.progress, self.beside)

    def end_epoch(self, score: SegmentationScore | None) -> dict[str, Any]:
        """Close the epoch under way: its row goes into the history."""
        progress, recipe = self.progress, self.recipe
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "lr": self.lr((progress.epoch + 1) * len(self.loader) - 1),
            "train_loss": progress.loss_total / max(1, progress.loss_count),
            "val_miou": score.miou if score else None,
            "pixel_accuracy": score.pixel_accuracy if score else None,
            "seconds": progress.epoch_s,
            "data_wait_share": progress.wait_s / max(progress.epoch_s, 1e-9),
            "images_per_s": recipe.batch * len(self.loader) / max(progress.epoch_s, 1e-9),
        }
        row |= {f"iou/{name}": score.per_class.get(name) if score else None for name in self.class_names}
        progress.history.append(row)
        progress.seconds += progress.epoch_s
        progress.epoch += 1
        progress.begin_epoch()
        return row


def run_epoch(training: Training, live: Live) -> None:
    """Train from where ``progress`` stands to the end of its epoch.

    Raises:
        CatchweightError: the loss is not finite, an image cannot be read, or a checkpoint cannot be written.
    """
    fabric, recipe, progress = training.fabric, training.recipe, training.progress
    loader, steps = training.loader, len(training.loader)
    every = 1 if fabric.device.type == "cpu" else WATCH_EVERY
    watch = LossWatch(progress, every, training.files)
    waited, spent, began = progress.wait_s, progress.epoch_s, time.monotonic()
    saved = began
    training.net.train()
    for index, batch in enumerate(loader.epoch(progress.epoch, progress.step), start=progress.step):
        give_way()
        at = progress.epoch * steps + index
        # Dropout and drop-path draw from the step's own seed, so a resumed step draws the same.
        torch.manual_seed(step_seed(recipe.seed, at, fabric.global_rank))
        set_lr(training.optimizer, training.lr(at))
        training.optimizer.zero_grad(set_to_none=True)
        _backward(training, batch, watch, index)
        if recipe.clip:
            # Not torch's own function: under 16-mixed the gradients must be brought back to their scale before.
            fabric.clip_gradients(training.step, training.optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
        training.stepper.step()
        training.ema.update(at)
        now = time.monotonic()
        progress.step = index + 1
        progress.wait_s, progress.epoch_s = waited + loader.wait_seconds, spent + now - began
        live.step(progress, watch.mean)
        if now - saved > recipe.checkpoint_every_s and index + 1 < steps:
            watch.check()
            training.save()
            saved = now
    watch.check()


def _backward(training: Training, batch: Batch, watch: LossWatch, index: int) -> None:
    """Forward and backward of one batch, in ``accumulate`` parts; the loss is looked at before it does harm."""
    fabric, parts = training.fabric, micro_batches(batch, training.recipe.accumulate)
    for number, (images, masks) in enumerate(parts, start=1):
        with fabric.no_backward_sync(training.step, enabled=number < len(parts)):
            loss = training.step(fabric.to_device(images), fabric.to_device(masks)) / len(parts)
            watch.add(loss, training.progress.epoch, index, batch.ids)
            fabric.backward(loss)


def micro_batches(batch: Batch, parts: int) -> list[tuple[Tensor, Tensor]]:
    """The batch cut into up to ``parts`` pairs of images and masks."""
    return list(zip(batch.images.chunk(parts), batch.masks.chunk(parts), strict=True))


def step_seed(seed: int, at: int, rank: int) -> int:
    """A seed for one step of one process; a plain hash, far apart for neighbours."""
    return (seed * 0x9E3779B97F4A7C15 + at * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % (1 << 63)
