"""Linear heads over all levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import fusion_weights, resize_to


class LinearHead(nn.Module):
    """Sum of all levels at the finest size, then a 1x1 classifier.

    Resizing is linear and acts on each channel alone, so it commutes with the classifier: whichever of
    ``width`` and ``classes`` has fewer channels is what gets resized. Both orders compute the same logits.
    """

    def __init__(self, width: int, levels: int, classes: int) -> None:
        super().__init__()
        self.levels = levels
        self.classifier = nn.Conv2d(width, classes, 1)

    def level_weights(self, levels: int) -> list[Tensor] | None:
        """One factor a level; None for a plain sum."""
        return None

    def class_weight(self, width: int) -> Tensor:
        """Of the classifier, for so many channels (here always its own): (K, width, 1, 1)."""
        return self.classifier.weight

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, width, h_l, w_l)], finest first -> logits (B, K, h_0, w_0)."""
        if self.classifier.out_channels <= levels[0].shape[1]:
            return self._classify_then_resize(levels)
        return self._resize_then_classify(levels)

    def _classify_then_resize(self, levels: Sequence[Tensor]) -> Tensor:
        factors, weight = self.level_weights(len(levels)), self.class_weight(levels[0].shape[1])
        total = F.conv2d(levels[0], weight if factors is None else weight * factors[0], self.classifier.bias)
        for i in range(1, len(levels)):
            part = F.conv2d(levels[i], weight if factors is None else weight * factors[i])
            total = total + resize_to(part, total, "bilinear")
        return total

    def _resize_then_classify(self, levels: Sequence[Tensor]) -> Tensor:
        factors = self.level_weights(len(levels))
        maps = levels if factors is None else [w * x for w, x in zip(factors, levels, strict=True)]
        total = maps[0]
        for x in maps[1:]:
            total = total + resize_to(x, total, "bilinear")
        return self.classifier(total)


class WeightedHead(LinearHead):
    """ESeg's head (Meng et al., 2022): a learned normalised weighted sum of all levels, then a 1x1 classifier.

    The sum is scaled by the number of levels, a constant that the classifier could learn as well: without it a level
    starts with an eighth of the step that the same level takes under a plain sum, and training is as much slower.
    """

    def __init__(self, width: int, levels: int, classes: int) -> None:
        super().__init__(width, levels, classes)
        self.v = nn.Parameter(torch.ones(levels))

    def level_weights(self, levels: int) -> list[Tensor] | None:
        return list((levels * fusion_weights(self.v)).unbind())
