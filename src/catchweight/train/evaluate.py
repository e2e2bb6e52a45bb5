"""Evaluation at native label resolution: one function for eager networks, ONNX sessions and anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.classes import ClassSet
from ..data.loading import EvalBatch
from ..nets import SegmentationNet
from ..quiet import give_way
from ..tasks.metrics import BoundaryF, SegmentationScore, confusion_matrix, mean_iou

Predict = Callable[[Tensor], Tensor]


def evaluate(
    predict: Predict, loader: Iterable[EvalBatch], classes: ClassSet, boundary: bool = False
) -> SegmentationScore:
    """Score predictions on every image of a loader.

    Args:
        predict: images ``(B, 3, H, W)`` uint8 to logits ``(B, K, h, w)``, which are upsampled bilinearly to
            each mask's native size before the best class is taken.
        loader: gives ``EvalBatch`` (images, masks at native size, ids).
        classes: the data set's classes, K of them.
        boundary: also compute the boundary F-score (some 100 ms per image).
    """
    count = len(classes)
    total = torch.zeros(count, count, dtype=torch.int64)
    per_image: list[tuple[str, float]] = []
    borders = BoundaryF(count) if boundary else None
    for batch in loader:
        give_way()
        logits = predict(batch.images)
        for index, (mask, name) in enumerate(zip(batch.masks, batch.ids, strict=True)):
            guess = best_class(logits[index], mask.shape[-2:]).cpu()
            counts = confusion_matrix(guess, mask, count)
            total += counts
            per_image.append((name, mean_iou(counts.numpy())))
            if borders is not None:
                borders.update(guess, mask)
    return SegmentationScore.of(total.numpy(), classes.names, borders.compute() if borders else None, per_image)


def best_class(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Most likely class of each pixel, ``(H, W)`` uint8, from logits ``(K, h, w)`` upsampled to ``size``."""
    logits = logits.float()[None]
    if logits.shape[-2:] != torch.Size(size):
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    return logits[0].max(0).indices.to(torch.uint8)  # the same as argmax, and four times as fast on a CPU


def eager_predict(net: SegmentationNet, channels_last: bool = True) -> Predict:
    """The network itself as ``predict``: normalises, runs in evaluation mode on the network's own device."""
    net.eval()
    device = next(net.parameters()).device

    @torch.inference_mode()
    def predict(images: Tensor) -> Tensor:
        inputs = net.normalise(images.to(device, non_blocking=True))
        return net(inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs)

    return predict
