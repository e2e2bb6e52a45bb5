"""Loaders: the same batches whatever the workers, the entry point or the ranks; errors that name the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from catchweight.data import IGNORE, SegmentationData, open_data
from catchweight.data.cache import PixelCache
from catchweight.data.loading import Batch, EvalLoader, TrainLoader, prefetch
from catchweight.data.scenes import make_scenes
from catchweight.data.transforms import Augment, resize_image
from catchweight.errors import CatchweightError, UsageError

SIZE = (48, 64)
AUGMENT = Augment(blur=0.5, noise=8.0, grayscale=0.2, rare_crops=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    return open_data(make_scenes(tmp_path_factory.mktemp("scenes") / "a", {"train": 11, "val": 5}, (64, 96)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    return PixelCache(tmp_path_factory.mktemp("cache"))


def _equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.ids == y.ids and torch.equal(x.images, y.images) and torch.equal(x.masks, y.masks)
        for x, y in zip(a, b, strict=True)
    )


def test_batches_have_the_promised_shape(data: SegmentationData, cache: PixelCache) -> None:
    loader = TrainLoader(data, SIZE, 4, AUGMENT, cache=cache)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 2
    for batch in batches:
        assert batch.images.shape == (4, 3, *SIZE)
        assert batch.masks.shape == (4, *SIZE)
        assert batch.images.dtype == batch.masks.dtype == torch.uint8
        assert set(batch.masks.unique().tolist()) <= {*range(8), IGNORE}
    ids = [i for batch in batches for i in batch.ids]
    assert len(set(ids)) == 8


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cached", [True, False])
def test_workers_and_cache_change_nothing(
    data: SegmentationData, cache: PixelCache, workers: int, cached: bool
) -> None:
    plain = TrainLoader(data, SIZE, 3, AUGMENT, seed=5, workers=0)
    other = TrainLoader(data, SIZE, 3, AUGMENT, seed=5, workers=workers, cache=cache if cached else None)
    for epoch in (0, 3):
        assert _equal(list(plain.epoch(epoch)), list(other.epoch(epoch)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_entering_an_epoch_in_the_middle_gives_its_rest(
    data: SegmentationData, cache: PixelCache, workers: int
) -> None:
    whole = list(TrainLoader(data, SIZE, 2, AUGMENT, workers=1, cache=cache).epoch(4))
    for start in range(len(whole) + 1):
        fresh = TrainLoader(data, SIZE, 2, AUGMENT, workers=workers, cache=cache)
        assert _equal(whole[start:], list(fresh.epoch(4, start_step=start)))


def test_seed_and_epoch_matter(data: SegmentationData, cache: PixelCache) -> None:
    first = list(TrainLoader(data, SIZE, 4, AUGMENT, seed=0, cache=cache).epoch(0))
    assert not _equal(first, list(TrainLoader(data, SIZE, 4, AUGMENT, seed=0, cache=cache).epoch(1)))
    assert not _equal(first, list(TrainLoader(data, SIZE, 4, AUGMENT, seed=1, cache=cache).epoch(0)))


def test_an_image_looks_the_same_in_any_batch_size(data: SegmentationData, cache: PixelCache) -> None:
    def looks(batch: int) -> dict[str, torch.Tensor]:
        epoch = TrainLoader(data, SIZE, batch, AUGMENT, cache=cache).epoch(2)
        return {i: image for b in epoch for i, image in zip(b.ids, b.images, strict=True)}

    small, large = looks(1), looks(5)
    assert len(large) == 10
    assert all(torch.equal(small[i], image) for i, image in large.items())


def test_ranks_share_the_epoch(data: SegmentationData, cache: PixelCache) -> None:
    loaders = [TrainLoader(data, SIZE, 2, AUGMENT, cache=cache, rank=r, world=2) for r in (0, 1)]
    seen = [[i for batch in loader.epoch(1) for i in batch.ids] for loader in loaders]
    assert len(loaders[0]) == len(loaders[1]) == 2
    assert len(seen[0]) == len(seen[1]) == 4
    assert not set(seen[0]) & set(seen[1])


def test_fewer_images_than_a_batch_make_one_small_batch(data: SegmentationData) -> None:
    loader = TrainLoader(data, SIZE, 64, Augment.none(), workers=0)
    (batch,) = loader.epoch(0)
    assert len(loader) == 1
    assert len(batch.ids) == 11


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_evaluation_shows_every_image_once_at_label_resolution(
    data: SegmentationData, cache: PixelCache, workers: int
) -> None:
    loader = EvalLoader(data, "val", SIZE, 2, cache, workers)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert [i for b in batches for i in b.ids] == [record.id for record in data.splits["val"]]
    sample = data.read(data.splits["val"][4])
    assert torch.equal(batches[2].images[0], resize_image(sample.image, SIZE))
    assert np.array_equal(batches[2].masks[0].numpy(), sample.mask)
    assert len(list(loader)) == 3


@pytest.mark.parametrize(("workers", "least", "most"), [(0, 0.3, 9.0), (1, 0.0, 0.29)])
def test_waiting_is_counted_where_the_consumer_waits(workers: int, least: float, most: float) -> None:
    """Six results of 0.05 s each, a consumer that takes 0.1 s over each: worked ahead, only the first is waited for."""
    waits: list[float] = []
    for _ in prefetch(range(6), lambda _: time.sleep(0.05), workers, waits.append):
        time.sleep(0.1)
    assert len(waits) == 6
    assert least <= sum(waits) < most


def test_the_loader_adds_up_its_waiting(data: SegmentationData, cache: PixelCache) -> None:
    loader = TrainLoader(data, SIZE, 2, AUGMENT, cache=cache, workers=0)
    for epoch in (0, 1):
        start = time.perf_counter()
        list(loader.epoch(epoch))
        spent = time.perf_counter() - start
        assert 0.5 * spent < loader.wait_seconds <= spent  # of this epoch alone


def _workers() -> int:
    return sum(thread.name.startswith("loader") for thread in threading.enumerate())


def test_workers_take_one_core_each_and_leave_the_others_their_threads() -> None:
    code = (
        "import threading, torch; from catchweight.data.loading import prefetch\n"
        "print(list(prefetch(range(6), lambda _: torch.get_num_threads(), 2, lambda s: None)))\n"
        "print(torch.get_num_threads())\n"
        "late = threading.Thread(target=lambda: print(torch.get_num_threads())); late.start(); late.join()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, check=True
    )
    assert done.stdout.decode().splitlines() == ["[1, 1, 1, 1, 1, 1]", "2", "2"]


def test_leaving_early_leaves_no_thread(data: SegmentationData, cache: PixelCache) -> None:
    loader = TrainLoader(data, SIZE, 1, AUGMENT, cache=cache, workers=2)
    epoch = loader.epoch(0)
    assert len(list(islice(epoch, 2))) == 2
    assert _workers() > 0
    epoch.close()
    assert _workers() == 0


def test_an_error_in_the_loop_leaves_no_thread(data: SegmentationData, cache: PixelCache) -> None:
    def train() -> None:
        for _ in TrainLoader(data, SIZE, 1, AUGMENT, cache=cache, workers=2).epoch(0):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert _workers() == 0


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("harm", ["vanishes", "is cut off"])
def test_a_file_that_goes_bad_in_the_middle_is_named(
    data: SegmentationData, tmp_path: Path, workers: int, harm: str
) -> None:
    copy = open_data(shutil.copytree(data.root, tmp_path / "data"))
    loader = TrainLoader(copy, SIZE, 1, AUGMENT, cache=PixelCache(tmp_path / "cache"), workers=workers)
    epoch = loader.epoch(0)
    next(epoch)
    victim = loader.records[int(loader._order(0)[-1][0])].image
    if harm == "vanishes":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:500])
    with pytest.raises(CatchweightError, match=victim.name):
        list(epoch)
    assert _workers() == 0


def test_impossible_requests_are_refused(data: SegmentationData) -> None:
    with pytest.raises(UsageError, match='did you mean "train"'):
        TrainLoader(data, SIZE, 2, split="trian")
    with pytest.raises(UsageError, match="on 12 ranks"):
        TrainLoader(data, SIZE, 2, world=12)
    with pytest.raises(UsageError, match="batches of 0"):
        TrainLoader(data, SIZE, 0)
