"""Profiling: learn a device by observing networks on it, and go on where a killed profile stopped."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import CatchweightError
from .observe import observe_prepared, prepare
from .table import LatencyTable
from .target import Target


@dataclass(frozen=True)
class Subject:
    """A network to profile.

    Args:
        label: its name in the table.
        size: (H, W) in pixels.
        build: makes it; picklable, since networks are exported in other processes.
    """

    label: str
    size: tuple[int, int]
    build: Callable[[], nn.Module] = field(compare=False)


@dataclass(frozen=True)
class ProfileReport:
    """What a profile did: how many networks were new, already known, left for lack of time, or failed and why."""

    new: int
    known: int
    left: int
    failed: tuple[tuple[str, str], ...]
    seconds: float


Told = Callable[[int, int, str], None]
"""Networks dealt with, networks in all, and what was last done."""


def profile(
    table: LatencyTable,
    subjects: Sequence[Subject],
    *,
    minutes: float | None = None,
    seconds: float = 1.5,
    workers: int = 2,
    told: Told = lambda done, total, text: None,
) -> ProfileReport:
    """Observe every subject on the table's target and add it to the table; those already there are skipped.

    Networks are exported a few at a time in ``workers`` processes, and timed one by one while those are idle.

    Args:
        minutes: no network is begun after that; the rest is for the next call.
        seconds: time limit of each network's timing as a whole.
    """
    begun = time.monotonic()
    wanted = [subject for subject in subjects if (subject.label, subject.size) not in table]
    known, failed, done = len(subjects) - len(wanted), [], 0
    with _exporters(workers) as pool:
        for chunk in _chunks(wanted, 2 * workers):
            if minutes is not None and time.monotonic() - begun > 60 * minutes:
                break
            with tempfile.TemporaryDirectory() as folder:
                for subject, prepared in _prepared(chunk, table.target, Path(folder), pool):
                    try:
                        observed = observe_prepared(table.target, prepared.result(), seconds)
                        table.add(subject.label, subject.size, observed)
                        text = f"{_name(subject)}: {observed.whole.median_ms:.2f} ms"
                    except CatchweightError as error:
                        failed.append((_name(subject), str(error)))
                        text = f"{_name(subject)}: skipped, {error}"
                    done += 1
                    told(known + done, len(subjects), text)
    left = len(wanted) - done
    return ProfileReport(done - len(failed), known, left, tuple(failed), time.monotonic() - begun)


def _prepared(
    chunk: Sequence[Subject], target: Target, folder: Path, pool: ProcessPoolExecutor
) -> list[tuple[Subject, Future[Path]]]:
    """Export all of a chunk; nothing else runs on the machine when this returns."""
    jobs = [
        (subject, pool.submit(_export, subject, target, folder / str(number))) for number, subject in enumerate(chunk)
    ]
    for _, job in jobs:
        job.exception()
    return jobs


def _export(subject: Subject, target: Target, folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    try:
        prepare(subject.build(), subject.size, target, folder)
    except CatchweightError:
        raise
    except Exception as error:  # whatever building a stranger's network raises; the profile goes on without it
        raise CatchweightError(f"cannot be built: {type(error).__name__}: {error}") from error
    return folder


@contextmanager
def _exporters(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _chunks(subjects: Sequence[Subject], length: int) -> Iterator[Sequence[Subject]]:
    for start in range(0, len(subjects), length):
        yield subjects[start : start + length]


def _name(subject: Subject) -> str:
    return f"{subject.label} at {subject.size[0]}x{subject.size[1]}"
