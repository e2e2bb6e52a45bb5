"""What a training is put together from: devices, network, loss, optimiser, average, and where it had got to."""

from __future__ import annotations

import os
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..data import SegmentationData
from ..errors import UsageError
from ..nets import SegmentationNet
from ..tasks.segmentation import SegmentationTask, class_pixels
from .batches import Batches
from .checkpoints import Checkpoint
from .ema import Ema
from .epoch import Training
from .optim import build_optimizer
from .recipes import Recipe
from .step import Objective


def build_fabric(recipe: Recipe, partial: bool = False) -> Fabric:
    """One device, or under ``torchrun`` all that it started processes for.

    Args:
        partial: whether a step may leave weights out, as that of a supernet of which members are trained. Processes
            then find out which, at some cost, instead of waiting for gradients that never come.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    try:
        return Fabric(
            accelerator=recipe.accelerator,
            strategy="auto" if world == 1 else "ddp_find_unused_parameters_true" if partial else "ddp",
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
    loader: Batches,
    checkpoint: Checkpoint,
    split: str,
    objective: Objective,
) -> Training:
    """Put network, loss, optimiser and average on the device and go to where the checkpoint stands."""
    if recipe.channels_last:
        net.to(memory_format=torch.channels_last)
    pixels = class_pixels(data, split) if recipe.loss.class_balance else None
    loss = SegmentationTask(data.classes).loss(recipe.loss, pixels)
    torch.manual_seed(recipe.seed)  # what the objective adds starts alike for the same recipe
    module = objective(net, loss, recipe.channels_last)
    extra = [value for value in state_beside(module, net).values() if isinstance(value, nn.Parameter)]
    optimizer = build_optimizer(net, recipe, extra)
    compiled = cast(nn.Module, torch.compile(module)) if recipe.compile else module
    step, stepper = fabric.setup(compiled, optimizer)
    ema = Ema(net, recipe.ema)
    beside = state_beside(module, net)  # only now: moving to a device replaces buffers
    progress = checkpoint.restore(net, ema, optimizer, beside)
    names = tuple(data.classes.names)
    files = {record.id: os.path.relpath(record.image, data.root) for record in data.splits[split]}
    return Training(
        fabric, recipe, net, step, optimizer, stepper, ema, loader, checkpoint, progress, names, beside, files
    )


def state_beside(module: nn.Module, net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a step that are not its network's, by their names in the step."""
    own = {id(value) for value in net.state_dict(keep_vars=True).values()}
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if id(value) not in own}
