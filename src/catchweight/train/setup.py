"""What a training is put together from: devices, network, loss, optimiser, average, and where it had got to."""

from __future__ import annotations

import os
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import nn

from ..data import SegmentationData
from ..data.loading import TrainLoader
from ..errors import UsageError
from ..nets import SegmentationNet
from ..tasks.segmentation import SegmentationTask, class_pixels
from .checkpoints import Checkpoint
from .ema import Ema
from .epoch import Training
from .optim import build_optimizer
from .recipes import Recipe
from .step import Step


def build_fabric(recipe: Recipe) -> Fabric:
    """One device, or under ``torchrun`` all that it started processes for."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    try:
        return Fabric(
            accelerator=recipe.accelerator,
            strategy="ddp" if world > 1 else "auto",
            devices=local,
            num_nodes=world // local,
            precision=recipe.precision,
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot train with accelerator={recipe.accelerator}: {error}") from error


def batch_per_process(recipe: Recipe, world: int) -> int:
    """Images per process and step.

    Raises:
        UsageError: the recipe's batch cannot be shared out evenly.
    """
    if recipe.batch % (world * recipe.accumulate):
        raise UsageError(
            f"batch={recipe.batch} cannot be cut evenly into {world} processes x {recipe.accumulate} accumulated "
            f"rounds: use a multiple of {world * recipe.accumulate}"
        )
    return recipe.batch // world


def begin(
    fabric: Fabric,
    net: SegmentationNet,
    data: SegmentationData,
    recipe: Recipe,
    loader: TrainLoader,
    checkpoint: Checkpoint,
    split: str,
) -> Training:
    """Put network, loss, optimiser and average on the device and go to where the checkpoint stands."""
    if recipe.channels_last:
        net.to(memory_format=torch.channels_last)
    pixels = class_pixels(data, split) if recipe.loss.class_balance else None
    loss = SegmentationTask(data.classes).loss(recipe.loss, pixels)
    optimizer = build_optimizer(net, recipe)
    module: nn.Module = Step(net, loss, recipe.channels_last)
    if recipe.compile:
        module = cast(nn.Module, torch.compile(module))
    step, stepper = fabric.setup(module, optimizer)
    ema = Ema(net, recipe.ema)
    progress = checkpoint.restore(net, ema, optimizer)
    return Training(
        fabric, recipe, net, step, optimizer, stepper, ema, loader, checkpoint, progress, tuple(data.classes.names)
    )
