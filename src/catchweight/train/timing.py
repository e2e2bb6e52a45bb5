"""How long training will take, from one timed step."""

from __future__ import annotations

import time

import torch

from ..data.classes import ClassSet
from ..nets import SegmentationNet
from ..tasks.losses import SegmentationLoss
from .recipes import Recipe
from .step import Objective, PlainLoss


def step_seconds(
    net: SegmentationNet, recipe: Recipe, classes: ClassSet, repeats: int = 2, objective: Objective | None = None
) -> float:
    """Seconds of one training step (forward, loss, backward) on random pixels, the fastest of ``repeats``.

    The network's weights and its norms' statistics are left as they were.
    """
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    state = {name: value.clone() for name, value in net.state_dict().items()}
    loss = SegmentationLoss(recipe.loss)
    step = (objective or PlainLoss())(net.to(memory_format=memory_format), loss, recipe.channels_last)
    generator = torch.Generator().manual_seed(0)
    shape = (max(1, recipe.batch // recipe.accumulate), 3, *recipe.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, len(classes), (shape[0], *recipe.size), dtype=torch.uint8, generator=generator)
    step.train()
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        step(images, masks).backward()
        times.append(time.perf_counter() - start)
    net.zero_grad(set_to_none=True)
    net.load_state_dict(state)
    return min(times[1:]) * recipe.accumulate
