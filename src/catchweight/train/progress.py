"""What a person sees while a network trains: a live bar on a terminal, else one line an epoch."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .checkpoints import Progress as State

REFRESH_S = 0.25


class Live(AbstractContextManager["Live"]):
    """Shows epoch, loss, best score, share of time spent waiting for data, and the time left.

    Args:
        epochs: at which the bar is full.
        steps: per epoch.
        progress: what earlier calls have done.
        quiet: show nothing at all.
    """

    def __init__(self, epochs: int, steps: int, progress: State, quiet: bool = False) -> None:
        self.epochs, self.steps, self.quiet = epochs, steps, quiet
        self.console = Console(stderr=True)
        self._shown = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  best mIoU {task.fields[best]}  data {task.fields[wait]:.0%}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        done = progress.epoch * steps + progress.step
        best = f"{progress.best_score:.3f}" if progress.best_epoch else "-"
        self._task = self._bar.add_task(
            "train", total=epochs * steps, completed=done, epoch=progress.epoch + 1, loss=0.0, best=best, wait=0.0
        )

    def step(self, progress: State, loss: float) -> None:
        """After each optimiser step; draws a few times a second."""
        now = time.monotonic()
        if not self._bar.disable and now - self._shown > REFRESH_S:
            self._shown = now
            self._bar.update(
                self._task,
                completed=progress.epoch * self.steps + progress.step,
                epoch=progress.epoch + 1,
                loss=loss,
                wait=progress.wait_s / max(progress.epoch_s, 1e-9),
            )

    def epoch(self, row: dict[str, Any], best: float) -> None:
        """After an epoch: ``row`` is its line in the history."""
        self._bar.update(self._task, completed=row["epoch"] * self.steps, best=f"{best:.3f}")
        if not self.quiet and self._bar.disable:
            print(describe(row, self.epochs, best), file=sys.stderr, flush=True)

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def describe(row: dict[str, Any], epochs: int, best: float) -> str:
    """One epoch in one line; the time left is that of the epochs to come if they take as long as this one."""
    left = (epochs - row["epoch"]) * row["seconds"] / 60
    score = "" if row["val_miou"] is None else f"  val mIoU {row['val_miou']:.4f} (best {best:.4f})"
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}{score}  lr {row['lr']:.2e}  "
        f"{row['images_per_s']:.1f} images/s  data wait {row['data_wait_share']:.1%}  {row['seconds']:.0f} s"
        f"{f'  about {left:.0f} min left' if left >= 0.5 else ''}"
    )
