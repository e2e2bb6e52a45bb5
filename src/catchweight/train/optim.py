"""Optimiser, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from .recipes import Recipe


def build_optimizer(net: nn.Module, recipe: Recipe, beside: Iterable[nn.Parameter] = ()) -> Optimizer:
    """AdamW or SGD over groups that differ in weight decay and in ``lr_scale``; ``beside`` are not the network's."""
    groups = parameter_groups(net, recipe, beside)
    fused = recipe.precision != "16-mixed"  # fused ones undo the loss's scale in their step, too late for clipping
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, recipe.beta2)
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused)


def parameter_groups(net: nn.Module, recipe: Recipe, beside: Iterable[nn.Parameter] = ()) -> list[dict]:
    """Up to four groups: pretrained or new, decayed or not.

    Not decayed is whatever has fewer than two dimensions: norms, biases, fusion weights, layer scales.
    """
    pretrained = pretrained_names(net)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in (*net.named_parameters(), *(("", parameter) for parameter in beside)):
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim >= 2 else 0.0
            scale = recipe.backbone_lr_scale if name in pretrained else 1.0
            groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def pretrained_names(net: nn.Module) -> frozenset[str]:
    """Names of the parameters that came pretrained; none for a network that does not say."""
    ask = getattr(net, "pretrained_parameters", None)
    return frozenset(ask()) if callable(ask) else frozenset()


def lr_factor(step: int, steps: int, warmup_steps: int, recipe: Recipe) -> float:
    """Learning rate of step ``step`` (from 0) of ``steps``, as a share of ``recipe.lr``."""
    warmup_steps = min(warmup_steps, steps // 3)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    shapes = {
        "poly": (1 - progress) ** recipe.poly_power,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }
    return recipe.lr_end + (1 - recipe.lr_end) * shapes[recipe.schedule]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
