"""Semantic segmentation as a task: its loss, its metric, its drawing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data import SegmentationData
from ..data.classes import ClassSet
from ..data.drawing import overlay
from .losses import LossConfig, SegmentationLoss, class_weights
from .metrics import BoundaryF


class SegmentationTask:
    """Everything about segmentation into ``classes`` that training and evaluation ask for."""

    def __init__(self, classes: ClassSet) -> None:
        self.classes = classes

    def loss(self, config: LossConfig, pixels: Tensor | None = None) -> SegmentationLoss:
        """The loss; ``pixels`` (K,) are the training pixels of each class, wanted when classes are balanced."""
        weights = class_weights(pixels, config.class_balance) if pixels is not None else None
        return SegmentationLoss(config, weights)

    def boundary(self) -> BoundaryF:
        """A fresh boundary F-score."""
        return BoundaryF(len(self.classes))

    def draw(self, image: np.ndarray, mask: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """The mask ``(H, W)`` in the classes' colours over the image ``(H, W, 3)``."""
        return overlay(image, mask, self.classes, alpha)


def class_pixels(data: SegmentationData, split: str) -> Tensor:
    """How many pixels of each class a split holds, int64 ``(K,)``; reads every mask once."""
    counts = np.zeros(256, dtype=np.int64)
    for record in data.splits[split]:
        counts += np.bincount(data.mask(record).ravel(), minlength=256)
    return torch.from_numpy(counts[: len(data.classes)])
