"""Scoring the members of a trained supernet: weights inherited, norms recalibrated, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch

from ..data import SegmentationData
from ..data.cache import PixelCache
from ..data.loading import EvalBatch, EvalLoader
from ..front import Arch
from ..nets import SegmentationNet
from ..spaces.segmentation import SegmentationSpace, Size, input_size
from ..train.evaluate import eager_predict, evaluate
from ..train.supernet import recalibrate

T = TypeVar("T")

CALIBRATION_IMAGES = 64
"""Training images from which a member's norm statistics are taken."""
SCORED_IMAGES = 256
"""At most so many validation images are looked at for one member."""


class SupernetScore:
    """Validation mIoU (0..1) of a member with the supernet's weights; a function of architectures.

    Args:
        space: the trained supernet; it is not changed.
        data: has the splits "train", from which statistics are taken, and "val".
        cache: of decoded pixels.
        images: for statistics and at most for the score; evenly spaced over the splits.
        batch: images at a time.
    """

    def __init__(
        self,
        space: SegmentationSpace,
        data: SegmentationData,
        cache: PixelCache | None = None,
        images: tuple[int, int] = (CALIBRATION_IMAGES, SCORED_IMAGES),
        batch: int = 8,
    ) -> None:
        self.space, self.cache, self.batch = space, cache, batch
        kept = {name: spaced(data.splits[name], count) for name, count in zip(("train", "val"), images, strict=True)}
        self.data = replace(data, splits=kept)
        self._batches: dict[tuple[str, Size], list[EvalBatch]] = {}

    def __call__(self, arch: Arch) -> float:
        net = self.member(arch)
        return evaluate(eager_predict(net), self._loaded("val", input_size(arch)), self.data.classes).miou

    def member(self, arch: Arch) -> SegmentationNet:
        """The plain network, ready to predict: its norms' statistics are its own."""
        net = self.space.subnet(arch).to(self.device).eval()
        net.to(memory_format=torch.channels_last)
        images = (batch.images.to(self.device) for batch in self._loaded("train", input_size(arch)))
        recalibrate(net, [net.normalise(x).contiguous(memory_format=torch.channels_last) for x in images])
        return net

    @cached_property
    def device(self) -> torch.device:
        return next(self.space.parameters()).device

    def _loaded(self, split: str, size: Size) -> list[EvalBatch]:
        if (split, size) not in self._batches:
            self._batches[split, size] = list(EvalLoader(self.data, split, size, self.batch, self.cache, workers=1))
        return self._batches[split, size]


def spaced(items: Sequence[T], count: int) -> tuple[T, ...]:
    """``count`` of the items, evenly spaced; all of them if there are no more.

    >>> spaced("abcdefgh", 3)
    ('a', 'c', 'f')
    """
    if len(items) <= count:
        return tuple(items)
    return tuple(items[number * len(items) // count] for number in range(count))
