"""Metrics of semantic segmentation: confusion matrix, IoU, pixel accuracy, boundary F-score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.classes import IGNORE


@dataclass(frozen=True)
class SegmentationScore:
    """What a network scored on one split.

    ``confusion`` is ``(K, K)`` int64 pixel counts, rows truth and columns prediction. ``miou`` is the mean of
    ``per_class`` over the classes that occur in truth or prediction; the names of the others are in ``absent``.
    ``boundary_f`` is None unless it was asked for. ``per_image`` holds (image id, mIoU of that image alone).
    """

    miou: float
    per_class: dict[str, float]
    pixel_accuracy: float
    confusion: np.ndarray
    boundary_f: float | None = None
    per_image: list[tuple[str, float]] = field(default_factory=list)
    absent: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        confusion: np.ndarray,
        names: tuple[str, ...],
        boundary_f: float | None = None,
        per_image: list[tuple[str, float]] | None = None,
    ) -> SegmentationScore:
        """The score that a confusion matrix ``(K, K)`` stands for."""
        iou = class_iou(confusion)
        return cls(
            miou=mean_iou(confusion),
            per_class={name: float(value) for name, value in zip(names, iou, strict=True) if value == value},
            pixel_accuracy=float(np.trace(confusion) / max(confusion.sum(), 1)),
            confusion=confusion,
            boundary_f=boundary_f,
            per_image=per_image or [],
            absent=tuple(name for name, value in zip(names, iou, strict=True) if value != value),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a report."""
        return {
            "miou": self.miou,
            "per_class": self.per_class,
            "pixel_accuracy": self.pixel_accuracy,
            "boundary_f": self.boundary_f,
            "absent": list(self.absent),
            "confusion": self.confusion.tolist(),
            "per_image": [[name, value] for name, value in self.per_image],
        }


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class ``(K,)``; NaN for a class in neither truth nor prediction."""
    confusion = np.asarray(confusion, dtype=np.float64)
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that occur; 0.0 when no pixel counted."""
    iou = class_iou(confusion)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else 0.0


def confusion_matrix(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixel counts ``(K, K)`` int64, rows truth, columns prediction; 255 in ``truth`` is left out.

    One ``bincount`` over both maps, equal to torchmetrics' ``MulticlassConfusionMatrix`` (its test
    compares the two), which matters because every validation image gets its own matrix.
    """
    index = truth.flatten().to(torch.int32) * classes + prediction.flatten().to(torch.int32)
    # Ignored pixels fall beyond classes * classes and are cut off.
    counts = torch.bincount(index.clamp_(max=classes * classes), minlength=classes * classes + 1)
    return counts[: classes * classes].view(classes, classes)


class BoundaryF:
    """Boundary F-score: do predicted class borders lie within a tolerance of the true ones? (Csurka et al., 2013)

    Per image and class, F = 2PR / (P + R) of border pixels that have a border pixel of the other map within
    ``tolerance`` times the image diagonal (Euclidean, rounded to whole pixels, at least 1); averaged over the
    classes present in the truth, then over images.
    """

    def __init__(self, classes: int, tolerance: float = 0.0075) -> None:
        self.classes = classes
        self.tolerance = tolerance
        self._scores: list[float] = []

    def update(self, prediction: Tensor, truth: Tensor) -> float:
        """Count in one image: two ``(H, W)`` uint8 maps; ignored pixels are no prediction either."""
        present = truth.unique()
        present = present[present < self.classes]
        if not len(present):
            return 0.0
        prediction = prediction.where(truth != IGNORE, torch.full_like(truth, IGNORE))
        mine = border(prediction == present[:, None, None])
        real = border(truth == present[:, None, None])
        reach = max(1, round(self.tolerance * math.hypot(*truth.shape)))
        precision = _share(mine & within(real, reach), mine)
        recall = _share(real & within(mine, reach), real)
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        # A class that fills the picture has no border at all; it is right when the prediction has none either.
        none = ~real.flatten(1).any(1)
        f = torch.where(none, (~mine.flatten(1).any(1)).double(), f)
        self._scores.append(float(f.mean()))
        return self._scores[-1]

    def compute(self) -> float:
        """Mean over the images seen that had a labelled pixel; 0.0 when there were none."""
        return sum(self._scores) / max(1, len(self._scores))


def border(regions: Tensor) -> Tensor:
    """Pixels of boolean regions ``(K, H, W)`` with a 4-neighbour outside; the image's edge is no border."""
    padded = F.pad(regions.float()[:, None], (1, 1, 1, 1), value=1.0)[:, 0].bool()
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return regions & ~(up & down & left & right)


def within(regions: Tensor, reach: int) -> Tensor:
    """Pixels at most ``reach`` (Euclidean, pixels) from boolean regions ``(K, H, W)``: dilation by a disk.

    A disk is a stack of rows, and whether a row holds a pixel is told by two running counts.
    """
    height, width = regions.shape[-2:]
    counts = F.pad(regions.to(torch.int32), (reach + 1, reach, reach, reach)).cumsum(-1, dtype=torch.int32)
    near = torch.zeros_like(regions)
    for offset in range(2 * reach + 1):
        half = math.isqrt(reach**2 - (offset - reach) ** 2)
        rows = counts[:, offset : offset + height]
        near |= rows[..., reach + 1 + half :][..., :width] > rows[..., reach - half :][..., :width]
    return near


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.flatten(1).sum(1).double() / whole.flatten(1).sum(1).clamp(min=1)
