"""How long training waits for data: ms a sample, share of a step, and images/s against cached tensors.

    python benchmarks/data_wait.py ../shared/data/camvid --step-ms 150
    python benchmarks/data_wait.py ../shared/data/camvid --network eseg_lite_s --out wait.json

Passes with the loader and passes over batches held in memory take turns, so that a busy machine disturbs both.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from catchweight.data import IGNORE, open_data
from catchweight.data.cache import PixelCache
from catchweight.data.loading import Batch, TrainLoader
from catchweight.data.transforms import Augment

Step = Callable[[Batch], None]


@dataclass(frozen=True)
class DataWait:
    """What `measure` found; times are medians over the passes."""

    step_ms: float
    """A step on batches held in memory."""
    loaded_step_ms: float
    """A step with the loader, waiting included."""
    wait_ms: float
    """Waiting in such a step."""
    wait_share: float
    """wait_ms / loaded_step_ms; the first batch of a pass, for which everyone waits, is counted apart."""
    first_wait_ms: float
    speed_ratio: float
    """Images/s with the loader over images/s on held batches; 1 is perfect."""
    sample_ms: float
    """Preparing one sample alone, in the caller's thread."""


def measure(loader: TrainLoader, step: Step, steps: int = 20, passes: int = 3) -> DataWait:
    """Time ``step`` with the loader and on held batches in turns.

    Args:
        loader: its epochs must have more than ``steps`` batches; the cache is warmed by a pass of its own.
        step: one training step; must return only when its work is done.
    """
    for _ in loader.epoch(0):  # decode everything once
        pass
    held = list(islice(loader.epoch(1), steps))
    for batch in held[:2]:
        step(batch)
    alone, loaded, waits, firsts = [], [], [], []
    for number in range(passes):
        alone.append(_timed(held, step)[0])
        epoch = loader.epoch(2 + number)
        step(next(epoch))
        firsts.append(loader.wait_seconds * 1e3)
        before = loader.wait_seconds
        ms, count = _timed(islice(epoch, steps), step)
        loaded.append(ms)
        waits.append((loader.wait_seconds - before) * 1e3 / count)
        epoch.close()  # type: ignore[attr-defined]
    step_ms, loaded_ms, wait_ms = (statistics.median(values) for values in (alone, loaded, waits))
    return DataWait(
        step_ms=step_ms,
        loaded_step_ms=loaded_ms,
        wait_ms=wait_ms,
        wait_share=wait_ms / loaded_ms,
        first_wait_ms=statistics.median(firsts),
        speed_ratio=step_ms / loaded_ms,
        sample_ms=sample_ms(loader, steps),
    )


def sample_ms(loader: TrainLoader, steps: int) -> float:
    """Milliseconds to prepare one sample of a warm cache, in this thread, on one core."""
    threads, workers = torch.get_num_threads(), loader.workers
    torch.set_num_threads(1)
    loader.workers = 0
    try:
        count = sum(len(batch.ids) for batch in islice(loader.epoch(1), steps))
    finally:
        torch.set_num_threads(threads)
        loader.workers = workers
    return loader.wait_seconds * 1e3 / count


def _timed(batches: Iterable[Batch], step: Step) -> tuple[float, int]:
    """Milliseconds a step, and the number of steps."""
    start, count = time.perf_counter(), 0
    for batch in batches:
        step(batch)
        count += 1
    return (time.perf_counter() - start) * 1e3 / count, count


def stand_in(milliseconds: float) -> Step:
    """A step that keeps all of torch's threads busy for about that long, with a fixed amount of work."""
    side = 512
    a = torch.rand(side, side)
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < 1.0:
        a @ a
        rounds += 1
    needed = max(1, round(rounds * milliseconds / 1e3))

    def step(batch: Batch) -> None:
        for _ in range(needed):
            a @ a

    return step


def network_step(net: nn.Module, device: str = "cpu") -> Step:
    """Forward, cross-entropy, backward and an AdamW update of a network with ``normalise``."""
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def step(batch: Batch) -> None:
        images = net.normalise(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
        masks = batch.masks.to(device).long()
        loss = nn.functional.cross_entropy(net(images), masks, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def main(
    data: Annotated[Path, typer.Argument(help="the data set")],
    step_ms: Annotated[float, typer.Option(help="length of the stand-in step")] = 150.0,
    network: Annotated[str, typer.Option(help="a network by name, instead of the stand-in")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda, for --network")] = "cpu",
    height: int = 180,
    width: int = 240,
    batch: int = 8,
    workers: int = 1,
    steps: int = 20,
    passes: int = 3,
    cache: Annotated[Path | None, typer.Option(help="folder of the pixel cache")] = None,
    out: Annotated[Path | None, typer.Option(help="write the figures here as JSON")] = None,
) -> None:
    """Measure the data-wait share of a training step."""
    opened = open_data(data)
    loader = TrainLoader(opened, (height, width), batch, Augment(), cache=PixelCache(cache), workers=workers)
    if network:
        from catchweight.nets import build_network

        step = network_step(build_network(network, len(opened.classes)), device)
    else:
        step = stand_in(step_ms)
    found = asdict(measure(loader, step, steps, passes))
    found |= {"workers": workers, "batch": batch, "size": [height, width], "threads": torch.get_num_threads()}
    print(json.dumps(found, indent=1))
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
