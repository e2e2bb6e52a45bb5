"""How long training will take, from one timed step."""

from __future__ import annotations

import time

import torch

from ..data.classes import ClassSet
from ..nets import SegmentationNet
from ..tasks.losses import SegmentationLoss
from .recipes import Recipe
from .setup import build_fabric
from .step import Objective, PlainLoss


def step_seconds(
    net: SegmentationNet, recipe: Recipe, classes: ClassSet, repeats: int = 2, objective: Objective | None = None
) -> float:
    """Seconds of one training step (forward, loss, backward) on random pixels, the fastest of ``repeats``.

    On the recipe's device. The network's weights, its norms' statistics and its place are left as they were.
    """
    fabric = build_fabric(recipe)
    device, home = fabric.device, next(net.parameters()).device
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    state = {name: value.clone() for name, value in net.state_dict().items()}
    loss = SegmentationLoss(recipe.loss)
    step = (objective or PlainLoss())(net.to(memory_format=memory_format), loss, recipe.channels_last).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (max(1, recipe.batch // recipe.accumulate), 3, *recipe.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, len(classes), (shape[0], *recipe.size), dtype=torch.uint8, generator=generator)
    images, masks = images.to(device), masks.to(device)
    step.train()
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        with fabric.autocast():
            loss_value = step(images, masks)
        loss_value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # launched is not done
        times.append(time.perf_counter() - start)
    net.zero_grad(set_to_none=True)
    net.load_state_dict(state)
    net.to(home)
    return min(times[1:]) * recipe.accumulate
