"""Batches for training and evaluation: repeatable to the bit, prefetched by threads, exact to resume.

Threads, not processes: the decoding and torchvision kernels release the GIL, nothing is copied between processes,
and nothing is left behind when a loop ends early.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import CatchweightError, UsageError, unknown
from .transforms import Augment, apply_view, draw_view, resize_image

if TYPE_CHECKING:
    from .cache import PixelCache
    from .dataset import Record, Sample, SegmentationData

J = TypeVar("J")
B = TypeVar("B")

AHEAD = 3
"""Batches in preparation or ready, per worker."""


class Batch(NamedTuple):
    """One training step's input."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB."""
    masks: Tensor
    """(B, H, W) uint8, IGNORE where there is no label."""
    ids: tuple[str, ...]


class EvalBatch(NamedTuple):
    """Images at the network's size, masks at their own."""

    images: Tensor
    """(B, 3, H, W) uint8 RGB."""
    masks: list[Tensor]
    """B tensors (Hi, Wi) uint8."""
    ids: tuple[str, ...]


class TrainLoader:
    """Shuffled, augmented batches of one split.

    Randomness depends only on (seed, epoch, index of the image in the split): neither the number of workers, nor
    the batch size, nor where an epoch is entered changes what becomes of an image.

    Args:
        data: the data set.
        size: (H, W) of the images handed out.
        batch: images a batch, per rank.
        augment: what happens to an image.
        seed: the one seed of order and augmentation.
        cache: where decoded pixels are kept; None decodes at every read.
        workers: prefetching threads; 0 prepares each batch when it is asked for.
        split: name of the split.
        rank, world: this process's share in data-parallel training: every ``world``-th image of the shuffled order.
        pin: hand out page-locked tensors, for a GPU.

    Raises:
        UsageError: unknown split, or fewer images than ranks.
        CatchweightError: (while iterating) an image has gone or cannot be decoded; it is named.
    """

    def __init__(
        self,
        data: SegmentationData,
        size: tuple[int, int],
        batch: int,
        augment: Augment | None = None,
        seed: int = 0,
        cache: PixelCache | None = None,
        workers: int = 1,
        split: str = "train",
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
    ) -> None:
        self.size, self.batch, self.seed, self.workers, self.pin = size, batch, seed, workers, pin
        self.augment = augment if augment is not None else Augment()
        self.rank, self.world = rank, world
        self.records = _records(data, split)
        if batch < 1 or len(self.records) < world:
            raise UsageError(
                f"cannot cut {len(self.records)} images of split {split} into batches of {batch} on {world} ranks"
            )
        self.wait_seconds = 0.0
        """Time the consumer of the current epoch has waited for batches."""
        self._read = cache.bind(data) if cache is not None else data.read
        self._rarity = _rarity(self._read, self.records, len(data.classes)) if self.augment.rare_crops else None

    def __len__(self) -> int:
        """Steps an epoch: the incomplete last batch is dropped, unless it is the only one."""
        return max(1, len(self.records) // self.world // self.batch)

    def epoch(self, n: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``n`` from step ``start_step`` on, the same as an undisturbed epoch gives."""
        self.wait_seconds = 0.0
        jobs = [[(n, int(i)) for i in indices] for indices in self._order(n)[start_step:]]
        return prefetch(jobs, self._make, self.workers, self._waited)

    def _order(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.records))
        mine = order[self.rank :: self.world][: len(order) // self.world]  # ranks must take the same steps
        return [mine[k * self.batch : (k + 1) * self.batch] for k in range(len(self))]

    def _make(self, job: list[tuple[int, int]]) -> Batch:
        images = torch.empty(len(job), 3, *self.size, dtype=torch.uint8, pin_memory=self.pin)
        masks = torch.empty(len(job), *self.size, dtype=torch.uint8, pin_memory=self.pin)
        for slot, (epoch, index) in enumerate(job):
            sample = _read_checked(self._read, self.records[index])
            rng = np.random.default_rng((self.seed, epoch, index))
            view = draw_view(self.augment, sample.mask, self.size, rng, self._rarity)
            images[slot], masks[slot] = apply_view(sample, view, self.size, self.augment.fill)
        return Batch(images, masks, tuple(self.records[index].id for _, index in job))

    def _waited(self, seconds: float) -> None:
        self.wait_seconds += seconds


class EvalLoader:
    """Every image of a split once, in order: resized (antialiased) to ``size``, its mask untouched.

    Arguments as for `TrainLoader`.
    """

    def __init__(
        self,
        data: SegmentationData,
        split: str,
        size: tuple[int, int],
        batch: int,
        cache: PixelCache | None = None,
        workers: int = 0,
    ) -> None:
        self.size, self.batch, self.workers = size, batch, workers
        self.records = _records(data, split)
        self.wait_seconds = 0.0
        """Time the consumer of the latest pass has waited for batches."""
        self._read = cache.bind(data) if cache is not None else data.read

    def __len__(self) -> int:
        return -(-len(self.records) // self.batch)

    def __iter__(self) -> Iterator[EvalBatch]:
        self.wait_seconds = 0.0
        jobs = [self.records[k * self.batch : (k + 1) * self.batch] for k in range(len(self))]
        return prefetch(jobs, self._make, self.workers, self._waited)

    def _make(self, records: Sequence[Record]) -> EvalBatch:
        samples = [_read_checked(self._read, record) for record in records]
        images = torch.stack([resize_image(sample.image, self.size) for sample in samples])
        # Cloned: a mask must not be a window into the cache's file.
        masks = [torch.from_numpy(sample.mask).clone() for sample in samples]
        return EvalBatch(images, masks, tuple(record.id for record in records))

    def _waited(self, seconds: float) -> None:
        self.wait_seconds += seconds


def prefetch(jobs: Iterable[J], make: Callable[[J], B], workers: int, waited: Callable[[float], None]) -> Iterator[B]:
    """``map(make, jobs)`` in order, worked ahead by ``workers`` threads (0: in the caller's).

    An exception in ``make`` is raised where its result is due. Threads end with the iterator, however that ends.
    """
    if workers <= 0:
        for job in jobs:
            start = time.perf_counter()
            made = make(job)
            waited(time.perf_counter() - start)
            yield made
        return
    pool = _pool(workers)
    try:
        queue = iter(jobs)
        pending: deque[Future[B]] = deque(pool.submit(make, job) for job in islice(queue, AHEAD * workers))
        while pending:
            start = time.perf_counter()
            made = pending.popleft().result()
            waited(time.perf_counter() - start)
            pending.extend(pool.submit(make, job) for job in islice(queue, 1))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that run torch on one core each: teams of their own would fight the training step's.

    ``torch.set_num_threads`` sets the calling thread's count for good, but also the one that later threads start
    with; so it is set back here once every worker has taken its own.
    """
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def settle() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first question fixes its count; unasked, it would take the later one
        started.wait()

    pool = ThreadPoolExecutor(workers, "loader", initializer=settle)
    for _ in range(workers):
        pool.submit(int)  # a thread is started for each, since none is idle before the barrier
    started.wait()
    torch.set_num_threads(threads)
    return pool


def _records(data: SegmentationData, split: str) -> tuple[Record, ...]:
    if split not in data.splits:
        raise unknown("split", split, data.splits)
    if not data.splits[split]:
        raise CatchweightError(f"split {split} of {data.root} has no images")
    return tuple(data.splits[split])


def _read_checked(read: Callable[[Record], Sample], record: Record) -> Sample:
    try:
        sample = read(record)
    except OSError as error:
        raise CatchweightError(f"{record.image} cannot be read: {error}") from error
    if sample.image.shape[:2] != sample.mask.shape:
        raise CatchweightError(
            f"{record.image}: image {sample.image.shape[:2]} and mask {sample.mask.shape} (H, W) differ in size"
        )
    return sample


def _rarity(read: Callable[[Record], Sample], records: Sequence[Record], classes: int) -> np.ndarray:
    """(K,) one over each class's share of pixels, from at most 1,000 masks; 0 for a class never seen."""
    step = -(-len(records) // 1000)
    counts = np.zeros(classes)
    for record in records[::step]:
        mask = _read_checked(read, record).mask[::2, ::2]
        counts += np.bincount(mask.ravel(), minlength=256)[:classes]
    return np.divide(counts.sum(), counts, out=np.zeros(classes), where=counts > 0)
