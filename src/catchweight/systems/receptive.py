"""Effective receptive field: how far from a point the image still matters to it.

Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016:
the gradient of one output with respect to every input pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Pick = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) -> the quantity at one point, one value per image, (B,)."""


def gradient_mass(pick: Pick, images: Tensor) -> Tensor:
    """Sum over channels and mean over images of ``|d pick / d pixel|``: ``(B, C, H, W) -> (H, W)``, float64.

    Nothing is changed in the network: parameter gradients are neither used nor kept.
    """
    inputs = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(pick(inputs).sum(), inputs)
    return gradient.detach().double().abs().sum(1).mean(0)


def centre(maps: Tensor) -> Tensor:
    """The channels at the middle cell of ``(B, C, h, w)``: ``(B, C)``."""
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]


def distances(mass: Tensor, point: tuple[float, float]) -> Tensor:
    """Euclidean distance in pixels of every cell of ``mass`` (H, W) from ``point`` (row, column)."""
    rows = torch.arange(mass.shape[0], dtype=torch.float64) - point[0]
    columns = torch.arange(mass.shape[1], dtype=torch.float64) - point[1]
    return torch.hypot(rows[:, None], columns[None, :])


def centroid(mass: Tensor) -> tuple[float, float]:
    """Mean (row, column) of the mass."""
    total = mass.sum()
    row = (mass.sum(1) * torch.arange(mass.shape[0], dtype=mass.dtype)).sum() / total
    column = (mass.sum(0) * torch.arange(mass.shape[1], dtype=mass.dtype)).sum() / total
    return float(row), float(column)


def mass_radius(mass: Tensor, share: float = 0.5, point: tuple[float, float] | None = None) -> float:
    """Radius in pixels of the smallest disc around ``point`` (the centroid if not given) that holds ``share``."""
    distance = distances(mass, point or centroid(mass)).flatten()
    order = torch.argsort(distance)
    held = torch.cumsum(mass.double().flatten()[order], 0)
    # A hair below the share, so that a disc which holds exactly the share counts despite rounding.
    first = int((held >= share * held[-1] * (1 - 1e-12)).nonzero()[0])
    return float(distance[order[first]])


def mass_beyond(mass: Tensor, radius: float, point: tuple[float, float]) -> float:
    """Share of the mass farther than ``radius`` pixels from ``point``."""
    return float(mass[distances(mass, point) > radius].sum() / mass.sum())


@torch.no_grad()
def settle_norms(net: nn.Module, images: Tensor) -> None:
    """Set every batch norm's running statistics to those of ``images`` and put ``net`` into evaluation mode.

    At initialisation the running statistics mean nothing, and in training mode the gradient also flows through the
    batch statistics, which reach every pixel: neither shows a receptive field.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()
