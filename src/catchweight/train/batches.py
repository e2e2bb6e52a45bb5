"""What a training is fed with: the plain loader, finer images for a teacher, unlabelled images beside labelled ones."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ..data.loading import Batch, TrainLoader
from ..errors import UsageError
from .recipes import Recipe

Size = tuple[int, int]


class Batches(Protocol):
    """Repeatable batches by epoch, as ``TrainLoader`` gives them."""

    @property
    def wait_seconds(self) -> float:
        """Time the consumer of the epoch under way has waited."""
        ...

    def __len__(self) -> int:
        """Steps an epoch."""
        ...

    def epoch(self, n: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``n`` from step ``start_step`` on, always the same."""
        ...


class MakeLoader(Protocol):
    """``TrainLoader`` with everything set that the training says; each may be set otherwise."""

    def __call__(self, **changes: object) -> TrainLoader: ...


@runtime_checkable
class BringsBatches(Protocol):
    """An ``Objective`` that wants other batches than those of the training split."""

    def batches(self, make: MakeLoader, recipe: Recipe) -> Batches:
        """What to train on. The loop passes images and masks of each batch to the step as they are."""
        ...


class FinerImages:
    """Batches whose images are finer than their masks: images of the inner loader, masks brought to ``size`` (H, W)."""

    def __init__(self, inner: Batches, size: Size) -> None:
        self.inner, self.size = inner, size

    @property
    def wait_seconds(self) -> float:
        return self.inner.wait_seconds

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, n: int, start_step: int = 0) -> Iterator[Batch]:
        for batch in self.inner.epoch(n, start_step):
            yield batch._replace(masks=F.resize_image(batch.masks, list(self.size), InterpolationMode.NEAREST_EXACT))


def finer_size(teacher: Size | None, student: Size) -> Size | None:
    """The size (H, W) to load images at, so that a teacher sees more than its student; ``None`` if it does not."""
    if teacher is None or all(theirs <= mine for theirs, mine in zip(teacher, student, strict=True)):
        return None
    return max(teacher[0], student[0]), max(teacher[1], student[1])


class Triples:
    """Each labelled image followed by two unlabelled ones: x, u0, u1, x, u0, u1, ...

    An epoch is a pass over the unlabelled images, or over the labelled ones where those are more; the shorter of the
    two begins anew as often as needed. Randomness stays that of the inner loaders, so an epoch is entered anywhere.

    Args:
        labelled: batches of B images.
        first, second: batches of B unlabelled images each, in different orders.

    Raises:
        UsageError: there are fewer labelled or unlabelled images than a batch has.
    """

    def __init__(self, labelled: TrainLoader, first: TrainLoader, second: TrainLoader) -> None:
        self.inner = (labelled, first, second)
        self.wait_seconds = 0.0
        filled = [min(loader.batch, len(loader.records) // loader.world) for loader in self.inner]
        if len(set(filled)) > 1:
            kind = "labelled" if filled[0] < filled[1] else "unlabelled"
            raise UsageError(
                f"there are {min(filled)} {kind} images for batches of {max(filled)}: use --set batch={min(filled)}"
            )

    def __len__(self) -> int:
        return max(len(loader) for loader in self.inner)

    def epoch(self, n: int, start_step: int = 0) -> Iterator[Batch]:
        self.wait_seconds = 0.0
        streams = [endless(loader, n * len(self) + start_step) for loader in self.inner]
        try:
            for _ in range(start_step, len(self)):
                began = time.perf_counter()
                batches = [next(stream) for stream in streams]
                self.wait_seconds += time.perf_counter() - began
                yield interleaved(batches)
        finally:
            for stream in streams:
                stream.close()


def endless(loader: TrainLoader, start: int) -> Generator[Batch, None, None]:
    """Epoch after epoch, from step ``start`` of all on."""
    epoch, step = divmod(start, len(loader))
    while True:
        yield from loader.epoch(epoch, step)
        epoch, step = epoch + 1, 0


def interleaved(batches: list[Batch]) -> Batch:
    """One batch in which the images of the given ones take turns; the inverse of :func:`taken_apart`."""

    def mixed(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, dim=1).flatten(0, 1)

    ids = tuple(name for group in zip(*(batch.ids for batch in batches), strict=True) for name in group)
    return Batch(mixed([batch.images for batch in batches]), mixed([batch.masks for batch in batches]), ids)


def taken_apart(values: Tensor, parts: int) -> tuple[Tensor, ...]:
    """``(parts * B, ...)`` in turns -> ``parts`` tensors ``(B, ...)``."""
    return values.unflatten(0, (-1, parts)).unbind(1)
